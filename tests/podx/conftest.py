"""A small sentencepiece model and bundle folders whose graphs are dummy bytes."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import settings

import podx
from podx.recommender import Recommender
from podx.text.tokenizer import Tokenizer
from tests.podx.bundles import write_bundle
from tests.podx.fakes import FakeGraphModel

PIECES = 160

settings.register_profile("podx", deadline=None, max_examples=60)  # a busy machine is no failure
settings.load_profile("podx")


@pytest.fixture(scope="session")
def tokenizer_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model trained on ids and a few words, with the special pieces where T5 has them."""
    words = [f"{kind}_{number}" for kind in ("user", "item") for number in range(1, 400)]
    words += [str(number) for number in range(1, 400)]
    words += ["so far took and now turns to a nice warm coat because it fits well"]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(words),
        model_writer=model,
        model_type="bpe",
        vocab_size=PIECES,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    path = tmp_path_factory.mktemp("tokenizer") / "spiece.model"
    path.write_bytes(model.getvalue())
    return path


@pytest.fixture(scope="session")
def tokenizer(tokenizer_path: Path) -> Tokenizer:
    return Tokenizer(tokenizer_path)


@pytest.fixture(scope="session")
def t5_tokenizer(shared_data: Path) -> Tokenizer:
    return Tokenizer(shared_data / "t5" / "spiece.model")


@pytest.fixture(scope="session")
def bundle_path(tmp_path_factory: pytest.TempPathFactory, tokenizer_path: Path) -> Path:
    """A bundle that no test may change."""
    return write_bundle(tmp_path_factory.mktemp("bundles") / "bundle", tokenizer_path)


@pytest.fixture
def fake_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recommenders made from here on run no graph."""
    monkeypatch.setattr("podx.snapshot.GraphModel", FakeGraphModel)


@pytest.fixture
def rec(bundle_path: Path, fake_model: None) -> Recommender:
    """A recommender over the shared bundle and a fake model."""
    return podx.load(bundle_path, device="cpu")
