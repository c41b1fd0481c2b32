"""The layout transformers: from text to lists as eager PyTorch has them; Optimum itself where its environment is."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from tokenizers import Tokenizer as FastTokenizer

from podx.bundle.signature import TensorSpec
from podx.errors import ConfigError, DataError, ExportError, ParityError
from podx.text.templates import DEFAULT_TEMPLATES, Task
from podx.text.tokenizer import Tokenizer
from podx_bench.peers import place
from podx_export.blocks.graph import GraphBuilder
from podx_export.blocks.weights import WeightStore
from podx_export.layouts import fast_tokenizer
from podx_export.layouts.export import export_transformers
from podx_export.layouts.fast_tokenizer import cuts_of, make_tokenizer, read_pieces
from podx_export.layouts.transformers_folder import (
    IDS_FILE,
    Words,
    input_text,
    item_texts,
    require_layout,
    user_word,
)
from podx_export.verify.parity import MAX_DIFFERENCE
from podx_export.verify.samples import draw
from podx_train.checkpoint.checkpoint import Checkpoint, load_checkpoint
from podx_train.eager.generation import START_AND_END, EagerRecommender, SearchOptions
from tests.conftest import made_once
from tests.export.conftest import ITEMS, USERS

ASKED = 200
PROGRAM = """
import json, sys
from optimum.onnxruntime import ORTModelForSeq2SeqLM
from transformers import AutoTokenizer

folder, texts = sys.argv[1], json.load(sys.stdin)
tokenizer = AutoTokenizer.from_pretrained(folder)
model = ORTModelForSeq2SeqLM.from_pretrained(folder)
ids = json.load(open(f"{folder}/ids.json", encoding="utf-8"))
next_tokens = {}
for item in ids["items"].values():
    tokens = tokenizer(item, add_special_tokens=False).input_ids
    for place, token in enumerate([*tokens, tokenizer.eos_token_id]):
        next_tokens.setdefault(tuple(tokens[:place]), set()).add(token)

def within_catalog(row, written):
    return list(next_tokens.get(tuple(written[1:].tolist()), {tokenizer.eos_token_id}))

def lists(**options):
    written = model.generate(**tokenizer(texts, return_tensors="pt", padding=True), **options)
    items = [text.strip() for text in tokenizer.batch_decode(written, skip_special_tokens=True)]
    return [items[first : first + 10] for first in range(0, len(items), 10)]

print(json.dumps({"plain": lists(), "within": lists(prefix_allowed_tokens_fn=within_catalog)}))
"""


@pytest.fixture(scope="module")
def folder(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained model in this layout."""

    def make(place: Path) -> None:
        assert export_transformers(trained, place / "folder", parity_users=8) < MAX_DIFFERENCE

    return made_once(tmp_path_factory, "transformers-layout", make) / "folder"


@pytest.fixture(scope="module")
def source(trained: Path) -> Checkpoint:
    return load_checkpoint(trained)


def test_the_folder_holds_what_optimum_looks_for(folder: Path, source: Checkpoint) -> None:
    names = {path.name for path in folder.iterdir() if path.is_file()}
    assert names == {
        *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", IDS_FILE),
        *("encoder_model.onnx", "decoder_model.onnx", "decoder_with_past_model.onnx"),
        *("encoder_model.onnx_data", "decoder_model.onnx_data"),
    }
    search = json.loads((folder / "generation_config.json").read_text())
    assert search["num_beams"] == 20 and search["max_length"] == source.catalog().trie.depth + START_AND_END
    ids = json.loads((folder / IDS_FILE).read_text())
    assert len(ids["users"]) == USERS and len(ids["items"]) == ITEMS and ids["inputs"]["topn"] == "{user} {candidates}"


@pytest.mark.parametrize("task", list(Task))
def test_a_text_becomes_prompt_tokens_and_the_tokens_of_podx(folder: Path, source: Checkpoint, task: Task) -> None:
    place = source.config.task_row(task)
    tokenizer = FastTokenizer.from_file(str((folder / task if place else folder) / "tokenizer.json"))
    first = source.tokenizer.vocab_size + place * source.config.prompts
    sample = draw(source, task, 20)
    for user, items in zip(sample.users, sample.items, strict=True):
        wanted = source.encoder().encode(task, int(user), items).input_ids.tolist()
        front = list(range(first, first + source.config.prompts))
        assert tokenizer.encode(input_text(source, task, int(user), items)).ids == [*front, *wanted]


@pytest.mark.parametrize("worded", [False, True])
def test_the_graph_numbers_whole_words_as_training_does(untrained: Path, tmp_path: Path, worded: bool) -> None:
    source = load_checkpoint(untrained)
    if worded:
        words = {task: " ".join(DEFAULT_TEMPLATES[task][1].words) for task in source.config.tasks}
        source = replace(source, config=replace(source.config, inference_templates=words))
    kinds = Words.of(source).kinds(source, prompts=2)
    weights = WeightStore(tmp_path / "weights")
    graph = GraphBuilder("test", weights)
    ids = graph.input(TensorSpec("ids", "int64", ("batch", "source")))
    graph.output(TensorSpec("numbers", "int64", ("batch", "source")), kinds.whole_words(graph, ids))
    weights.close()
    (tmp_path / "test.onnx").write_bytes(graph.model().SerializeToString())
    session = onnxruntime.InferenceSession(tmp_path / "test.onnx", providers=["CPUExecutionProvider"])
    for task in source.config.tasks:
        batch = draw(source, task, 50).encode(source)
        prompts = np.full((batch.size, 2), source.tokenizer.vocab_size)
        (found,) = session.run(None, {"ids": np.concatenate([prompts, batch.input_ids], axis=1)})
        assert not found[:, :2].any() and (found[:, 2:] == batch.whole_word_ids).all()
        assert found.max() > 2 or task is Task.EXPLANATION


def test_a_graph_that_answers_otherwise_is_not_written(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_ids(words: Words, source: Checkpoint, prompts: int) -> Any:
        kinds = told(words, source, prompts)
        return replace(kinds, kinds=np.full_like(kinds.kinds, 2))

    told = Words.kinds
    monkeypatch.setattr(Words, "kinds", without_ids)
    with pytest.raises(ParityError, match="does not answer like the eager model"):
        export_transformers(trained, tmp_path / "folder", parity_users=2)
    assert not (tmp_path / "folder").exists()


def test_another_shape_and_no_prompts(gated: Path, tmp_path: Path) -> None:
    assert export_transformers(gated, tmp_path / "gated", parity_users=2) < MAX_DIFFERENCE
    with pytest.raises(DataError, match="not empty"):
        export_transformers(gated, tmp_path / "gated", parity_users=2)
    assert export_transformers(gated, tmp_path / "gated", parity_users=2, force=True) < MAX_DIFFERENCE


@pytest.mark.parametrize(
    ("changes", "precision", "message"),
    [
        ({"one_pass": True, "tasks": (Task.SEQUENTIAL,), "item_prefix": ""}, "fp32", "--recipe paper"),
        ({"user_prompts": 3}, "fp32", "--method pod"),
        ({}, "int8", "precision int8: this layout is written in fp32"),
    ],
)
def test_what_plain_generate_cannot_answer_for_is_refused(
    checkpoint: Checkpoint, changes: dict[str, Any], precision: str, message: str
) -> None:
    other = replace(checkpoint, config=replace(checkpoint.config, **changes))
    with pytest.raises(ExportError, match=rf"(?s)the layout transformers.*--layout bundle.*{message}"):
        require_layout(other, precision)


def test_words_that_begin_like_ids_are_refused(checkpoint: Checkpoint) -> None:
    templates = {Task.SEQUENTIAL: "{user} user_like {history}"}
    source = replace(checkpoint, config=replace(checkpoint.config, inference_templates=templates))
    with pytest.raises(ExportError, match="--inference bare"):
        Words.of(source).kinds(source, prompts=0)


def test_ids_that_are_cut_otherwise_get_a_pattern(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    t5_tokenizer = Tokenizer(shared_data / "t5" / "spiece.model")
    proto = read_pieces(t5_tokenizer.path.read_bytes())
    words = [user_word(number) for number in range(19_000, 20_000)] + [
        f"item_{number}" for number in range(8_000, 9_000)
    ]
    wanted = t5_tokenizer.encode_many(words)
    plain = make_tokenizer(proto).encode_batch(words, add_special_tokens=False)
    wrong = [word for word, found, tokens in zip(words, plain, wanted, strict=True) if found.ids != tokens]
    assert wrong == ["user_19444", "item_8888"]
    cut = make_tokenizer(proto, cuts=cuts_of(proto, words, wanted))
    assert [found.ids for found in cut.encode_batch(words, add_special_tokens=False)] == wanted
    monkeypatch.setattr(fast_tokenizer, "MOST_CUTS", 1)
    with pytest.raises(ExportError, match=r"2 ids otherwise .*'item_8888' among them.*--layout bundle"):
        cuts_of(proto, words, wanted)


@pytest.mark.slow  # torch and transformers are loaded anew in the other environment
def test_optimum_generates_the_lists_of_eager_pytorch(folder: Path, source: Checkpoint) -> None:
    try:
        python = place.interpreter()
    except ConfigError as error:
        pytest.skip(str(error))
    sample = draw(source, Task.SEQUENTIAL, ASKED)
    pairs = zip(sample.users, sample.items, strict=True)
    texts = [input_text(source, Task.SEQUENTIAL, int(user), items) for user, items in pairs]
    done = subprocess.run(
        [str(python), "-c", PROGRAM, str(folder)], input=json.dumps(texts), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    eager = EagerRecommender(source.model, source.tokenizer, source.catalog())
    options = SearchOptions(max_length=source.catalog().trie.depth + START_AND_END)
    batch = sample.encode(source)
    texts_of = ["", *item_texts(source)]
    for lists, wanted in (
        (found["within"], eager.recommend(batch, Task.SEQUENTIAL, options)),
        (found["plain"], eager.recommend_unconstrained(batch, Task.SEQUENTIAL, options)),
    ):
        known = {text: number for number, text in enumerate(texts_of) if number}
        numbers = [[known.get(text, 0) for text in one] for one in lists]
        assert len(numbers) == ASKED and wanted.scores is not None
        for ours, items, scores in zip(numbers, wanted.items.tolist(), wanted.scores, strict=True):
            ties = np.append(np.diff(scores) > -1e-4, True) | np.append(True, np.diff(scores) > -1e-4)
            assert all(a == b or tied for a, b, tied in zip(ours, items, ties, strict=True))
