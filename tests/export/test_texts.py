"""Explanations by the graphs that give the best tokens: against transformers, and against scores of all tokens."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import podx
from podx.bundle import signature as sig
from podx.bundle.bundle import Bundle
from podx.bundle.manifest import MANIFEST_FILE, Manifest
from podx.decoding.options import TextSearchOptions
from podx.decoding.text import TextSearch, WholeRows
from podx.errors import BundleError
from podx.graphs.model import GraphModel
from podx.graphs.session import SessionOptions
from podx.text.templates import Task
from podx_export.verify.parity import TIE
from podx_export.verify.samples import draw
from podx_train.checkpoint.checkpoint import load_checkpoint
from podx_train.eager.generation import EXPLANATION_SEARCH, EagerRecommender

USERS = 40


def search(model: GraphModel, bundle: Bundle, memory: dict, users: int, options: TextSearchOptions, graph: str) -> list:
    stepper = (
        WholeRows(model.stepper(memory, users, None), users)
        if graph == sig.DECODER_FILE
        else model.text_stepper(memory, users, explanations_only=graph == sig.EXPLANATION_DECODER_FILE)
    )
    eos = bundle.tokenizer.eos_id
    return TextSearch(stepper, users, options, bundle.manifest.start_token, eos).run()


@pytest.mark.parametrize("graph", [sig.TEXT_DECODER_FILE, sig.EXPLANATION_DECODER_FILE])
@pytest.mark.parametrize(
    ("name", "exhaustive"), [("trained", True), ("trained", False), ("untrained", False), ("gated", True)]
)
def test_texts_equal_transformers(name: str, exhaustive: bool, graph: str, request: pytest.FixtureRequest) -> None:
    source, bundle = (
        load_checkpoint(request.getfixturevalue(name)),
        Bundle.load(request.getfixturevalue(f"{name}_bundle")),
    )
    model, batch = GraphModel(bundle, SessionOptions(threads=1)), draw(source, Task.EXPLANATION, USERS).encode(source)
    only = source.explanation_tokens if graph == sig.EXPLANATION_DECODER_FILE else None
    eager = EagerRecommender(source.model, source.tokenizer, bundle.catalog, score_tokens=only)
    theirs = eager.explain(
        batch, replace(EXPLANATION_SEARCH, early_stopping="never" if exhaustive else False, max_length=24)
    )
    memory = model.encode(batch, bundle.manifest.task_id(Task.EXPLANATION))
    ours = search(model, bundle, memory, USERS, TextSearchOptions(max_length=24, exhaustive=exhaustive), graph)
    assert theirs.scores is not None
    for found, text, score in zip(ours, theirs.texts, theirs.scores, strict=True):
        tied = found[0].score - found[1].score <= TIE
        assert abs(found[0].score - score) <= TIE
        assert tied or bundle.tokenizer.decode(found[0].tokens) == text
    written = {token for found in ours for hypothesis in found for token in hypothesis.tokens}
    assert only is None or written <= set(only.tolist())


@pytest.mark.parametrize(
    "options",
    [
        TextSearchOptions(),
        TextSearchOptions(beams=12, groups=3, diversity_penalty=0.7, max_length=12),
        TextSearchOptions(beams=5, groups=1, min_length=0, length_penalty=0.0),
    ],
)
def test_the_best_tokens_do_as_well_as_all_of_them(
    trained: Path, trained_bundle: Path, options: TextSearchOptions
) -> None:
    source, bundle = load_checkpoint(trained), Bundle.load(trained_bundle)
    model, batch = GraphModel(bundle, SessionOptions(threads=1)), draw(source, Task.EXPLANATION, USERS).encode(source)
    memory = model.encode(batch, bundle.manifest.task_id(Task.EXPLANATION))
    of_all, of_best = (
        search(model, bundle, memory, USERS, options, graph) for graph in (sig.DECODER_FILE, sig.TEXT_DECODER_FILE)
    )
    for expected, found in zip(of_all, of_best, strict=True):
        assert [h.tokens for h in found] == [h.tokens for h in expected]
        np.testing.assert_allclose([h.score for h in found], [h.score for h in expected], atol=1e-5)


def without(bundle: Path, out: Path, *names: str) -> Path:
    """The bundle as a version of podx wrote it that did not know these files."""
    shutil.copytree(bundle, out)
    for name in names:
        (out / name).unlink()
    manifest = Manifest.from_json((out / MANIFEST_FILE).read_text(encoding="utf-8"))
    manifest = replace(manifest, files={name: digest for name, digest in manifest.files.items() if name not in names})
    (out / MANIFEST_FILE).write_bytes(manifest.to_json().encode())
    return out


def test_bundles_without_the_graphs_answer(trained_bundle: Path, tmp_path: Path) -> None:
    requests = [podx.ExplainRequest(f"user-{n}", f"item-{n}") for n in range(5)]
    every = podx.TextSearchOptions(score_over="vocabulary")
    expected = podx.load(trained_bundle, threads=1).explain_batch(requests, every)
    texts, older = sig.EXPLANATION_DECODER_FILE, sig.TEXT_DECODER_FILE
    for removed, used in (([texts], older), ([texts, older], sig.DECODER_FILE)):
        loaded = podx.load(without(trained_bundle, tmp_path / used, *removed), threads=1)
        assert loaded._snapshot.model.text_graph(explanations_only=True) == used
        for asked in (None, every):
            answers = loaded.explain_batch(requests, asked)
            assert [answer.text for answer in answers] == [answer.text for answer in expected]


def test_graphs_of_an_earlier_podx_are_named(trained_bundle: Path, tmp_path: Path) -> None:
    older = without(trained_bundle, tmp_path / "b", sig.TEXT_DECODER_FILE)
    shutil.copy(older / sig.DECODER_FILE, older / sig.TEXT_DECODER_FILE)  # it has no slots of its own, as they had none
    manifest = Manifest.from_json((older / MANIFEST_FILE).read_text(encoding="utf-8"))
    manifest.files[sig.TEXT_DECODER_FILE] = manifest.files[sig.DECODER_FILE]
    (older / MANIFEST_FILE).write_bytes(manifest.to_json().encode())
    with pytest.raises(BundleError, match=f"{sig.TEXT_DECODER_FILE} is of an earlier podx.*export it again"):
        podx.load(older, threads=1).explain("user-1", "item-1", podx.TextSearchOptions(score_over="vocabulary"))


def test_texts_in_int8_do_not_depend_on_the_batch(rounded_bundle: Path) -> None:
    recommender = podx.load(rounded_bundle, threads=1)
    requests = [podx.ExplainRequest(f"user-{n}", f"item-{n}") for n in range(6)]
    together, alone = recommender.explain_batch(requests), [recommender.explain(r.user, r.item) for r in requests]
    assert [answer.text for answer in together] == [answer.text for answer in alone]
    np.testing.assert_allclose([a.score for a in alone], [a.score for a in together], atol=1e-4)


@pytest.mark.parametrize(("threads", "users", "parts"), [(2, 9, 2), (2, 7, 1), (1, 9, 1)])
def test_a_batch_is_divided_among_threads(trained_bundle: Path, threads: int, users: int, parts: int) -> None:
    divided, whole = podx.load(trained_bundle, threads=threads), podx.load(trained_bundle, threads=1)
    memory = {"memory_mask": divided._snapshot.model.session(sig.DECODER_FILE).to_device(np.zeros((users, 1)))}
    assert len(divided._snapshot.model.parts(memory, users)) == parts
    requests = [podx.ExplainRequest(f"user-{n}", f"item-{n}") for n in range(users)]
    texts, expected = divided.explain_batch(requests), whole.explain_batch(requests, batch_size=1)
    assert [answer.text for answer in texts] == [answer.text for answer in expected]
    np.testing.assert_allclose([a.score for a in texts], [a.score for a in expected], atol=1e-5)
