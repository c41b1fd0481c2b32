"""``recommend.onnx`` on catalogs of items of one to eight tokens, some the beginning of others, some not listed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from podx.bundle import signature as sig
from podx.bundle.bundle import CATALOG_FILE
from podx.bundle.trie import ROOT
from podx.bundle.trie_tables import LEVELS
from podx.decoding.items import ItemResults, TokenColumns
from podx.decoding.options import ItemSearchOptions
from podx.graphs.catalog_search import LONG_LIST
from podx.requests.batch import ItemBatch
from podx.text.templates import Task
from podx_export.search import recommend
from podx_export.verify.parity import same_list
from podx_train.checkpoint.checkpoint import load_checkpoint
from podx_train.eager.generation import EagerRecommender, SearchOptions
from tests.export.tiny import (
    EOS,
    KINDS,
    PLAIN,
    Small,
    Tokens,
    catalog_of,
    cleaned,
    feeds_of,
    item_scores,
    make_small,
    mixed_batch,
    permitted,
    random_items,
    random_model,
    random_text,
    token_sums,
)

ITEMS, UNLISTED = 160, 15


@pytest.fixture(scope="module")
def small(untrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Small:
    """160 items of up to eight tokens."""
    random = np.random.default_rng(8)
    items = random_items(random, ITEMS, LEVELS, tokens=7)
    unlisted = random.choice(np.arange(1, ITEMS + 1), size=UNLISTED, replace=False).tolist()
    catalog = catalog_of(items, unlisted)
    lengths = np.diff(catalog.offsets)
    assert set(lengths.tolist()) == set(range(1, LEVELS + 1))
    inner = catalog.trie.subtree_items[catalog.trie.item_node[1:]] > 1
    assert (inner & catalog.listed).sum() > 15  # items that others begin with
    folder = tmp_path_factory.mktemp("worlds") / "deep"
    return make_small(random_model(load_checkpoint(untrained), seed=1, sharpness=2.0), catalog, folder)


def answers_of(items: np.ndarray, scores: np.ndarray) -> list[list[tuple[int, float]]]:
    """Item and score of each answer there is, row by row."""
    rows = zip(items.tolist(), scores.tolist(), strict=True)
    return [[(i, s) for i, s in zip(own, values, strict=True) if i] for own, values in rows]


def assert_same(found: ItemResults, items: np.ndarray, scores: np.ndarray) -> None:
    """The same lists, ties aside."""
    pairs = zip(answers_of(found.items, found.scores), answers_of(items, scores), strict=True)
    differing = [(row, ours, theirs) for row, (ours, theirs) in enumerate(pairs) if not same_list(ours, theirs)]
    assert differing == []


# --- against the step graphs, transformers, and every item scored -----------------------------------------------------


@pytest.mark.parametrize("penalty", [0.0, 1.0, -1.0, 2.0])
@pytest.mark.parametrize("beams", [1, 2, 5, 20, 40])
def test_one_graph_equals_the_step_graphs(small: Small, beams: int, penalty: float) -> None:
    options = ItemSearchOptions(beams, penalty)
    for k in (1, 10, 60):  # the last is more than any of the widths
        batch = mixed_batch(small, seed=beams, rows=3 * KINDS, k=k)
        steps = small.search(cleaned(small, batch), options, "steps")
        one = small.search(batch, options, "one")
        assert_same(one, steps.items, steps.scores)
        assert (one.scores[one.items == 0] == -np.inf).all()


def test_a_search_may_end_before_the_longest_item(small: Small) -> None:
    options = ItemSearchOptions(beams=3, length_penalty=-1.0)  # a longer item is so much worse that no beam goes on
    batch = cleaned(small, mixed_batch(small, seed=9, rows=3 * KINDS, k=1))
    steps = small.search(batch, options, "steps")
    assert_same(small.search(batch, options), steps.items, steps.scores)
    for row in range(batch.text.size):
        assert_same(small.search(batch.rows(np.array([row])), options), steps.items[[row]], steps.scores[[row]])


@pytest.mark.parametrize(("beams", "penalty"), [(2, 1.0), (5, -1.0), (20, 0.0), (40, 2.0)])
def test_one_graph_equals_transformers(small: Small, beams: int, penalty: float) -> None:
    batch = cleaned(small, mixed_batch(small, seed=3, rows=3 * KINDS, k=min(beams, 10)))
    over = TokenColumns.of_catalog(small.catalog.trie, EOS).output_tokens
    eager = EagerRecommender(small.source.model, small.source.tokenizer, small.catalog, score_tokens=over)
    task = small.bundle.manifest.tasks[batch.task_id]
    search = SearchOptions(beams, num_return=batch.k, length_penalty=penalty)
    theirs = eager.recommend(batch.text, Task(task), search, batch.denied, batch.allowed)
    assert theirs.scores is not None
    assert_same(small.search(batch, ItemSearchOptions(beams, penalty)), theirs.items, theirs.scores)


def _chain(letters: int) -> list[Tokens]:
    return [tuple(range(3, 4 + last)) for last in range(letters)]


@pytest.mark.parametrize(
    "items",
    [
        [(5,)],
        [(5, 6, 7, 8, 9, 10, 11, 12)],
        _chain(LEVELS),
        [(token,) for token in range(3, 40)],
        [(*start, 4, 5, 6, 7, 8, last) for start in ((3, 4), (4, 3), (5, 5)) for last in range(3, 10)],
    ],
    ids=["one item", "one long item", "each begins the next", "one token each", "eight tokens each"],
)
def test_odd_catalogs_are_searched_whole(
    items: list[Tokens], untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recommend, "PREPARED", 8)  # some catalogs have more tokens
    model = random_model(load_checkpoint(untrained), seed=4, decoder_layers=1)  # opening the graph is what takes time
    small = make_small(model, catalog_of(items), tmp_path / "small")
    text = random_text(np.random.default_rng(0), rows=6)
    without_last = [np.array([len(items)])] * 3 + [PLAIN] * 3
    for penalty in (0.0, 1.0, -1.0):
        batch = ItemBatch(text, 1, without_last, [None] * 6, k=len(items))
        found = small.search(batch, ItemSearchOptions(beams=len(items), length_penalty=penalty))
        may = permitted(small, batch.denied, batch.allowed)
        truth = np.where(may, item_scores(small, token_sums(small, text, 1), penalty), -np.inf)
        np.testing.assert_allclose(found.scores, -np.sort(-truth, axis=1)[:, : len(items)], rtol=1e-5, atol=1e-4)
        assert found.exact is not None and found.exact.all()
        assert [sorted(row[row > 0].tolist()) for row in found.items] == [np.flatnonzero(row).tolist() for row in may]


def test_long_lists_are_honoured_by_both(untrained: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    items = random_items(random, 3 * LONG_LIST, longest=4, tokens=40)
    small = make_small(random_model(load_checkpoint(untrained), seed=2), catalog_of(items), tmp_path / "small")
    everything = random.permutation(np.arange(1, small.items + 1))
    denied = [everything[: LONG_LIST + 1], PLAIN, everything[: LONG_LIST - 1]]
    allowed = [None, everything[: LONG_LIST + 1], everything[: LONG_LIST + 5]]
    batch = ItemBatch(random_text(random, 3), 0, denied, allowed, 10)
    steps = small.search(batch, ItemSearchOptions(), "steps")
    assert_same(small.search(batch, ItemSearchOptions(), "one"), steps.items, steps.scores)
    assert (steps.items > 0).sum(axis=1).tolist() == [10, 10, 6]


# --- promises that hold for any request -------------------------------------------------------------------------------


def broken_promises(small: Small, batch: ItemBatch, found: ItemResults) -> dict[str, int]:
    """How often each kind of promise is not kept."""
    may = permitted(small, batch.denied, batch.allowed)
    counts = dict.fromkeys(("invalid", "unlisted", "denied", "not allowed", "repeated", "count", "order"), 0)
    for row, (items, scores) in enumerate(zip(found.items, found.scores, strict=True)):
        own, only = items[items != 0], batch.allowed[row]
        counts["invalid"] += int(((own < 1) | (own > small.items)).sum())
        counts["unlisted"] += int((~small.catalog.listed[np.clip(own, 1, small.items) - 1]).sum())
        counts["denied"] += int(np.isin(own, batch.denied[row]).sum())
        counts["not allowed"] += 0 if only is None else int((~np.isin(own, only)).sum())
        counts["repeated"] += len(own) - len(np.unique(own))
        counts["count"] += len(own) != min(batch.k, int(may[row].sum()))
        counts["order"] += bool((items[: len(own)] == 0).any() or (np.diff(scores[: len(own)]) > 0).any())
    return counts


def test_random_requests(small: Small) -> None:
    random = np.random.default_rng(11)
    for seed in range(50):
        k, beams = int(random.integers(1, 21)), int(random.choice([1, 2, 3, 8]))
        batch = mixed_batch(small, seed, rows=5 * KINDS, k=k)
        options = ItemSearchOptions(beams, length_penalty=float(random.choice([-10.0, -1.0, 0.0, 1.0, 2.0, 10.0])))
        broken = broken_promises(small, batch, small.search(batch, options))
        assert broken == dict.fromkeys(broken, 0), (seed, options, k)


def test_a_batch_gives_what_each_request_gets_alone(small: Small) -> None:
    batch = mixed_batch(small, seed=5, rows=3 * KINDS, k=10)
    together = small.search(batch, ItemSearchOptions())
    for row in range(batch.text.size):
        alone = small.search(batch.rows(np.array([row])), ItemSearchOptions())
        assert_same(alone, together.items[[row]], together.scores[[row]])


def test_threads_give_what_one_gives(small: Small) -> None:
    batches = [mixed_batch(small, seed, rows=1 + seed % 7, k=10) for seed in range(48)]
    serial = [small.search(batch, ItemSearchOptions()) for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        parallel = list(pool.map(lambda batch: small.search(batch, ItemSearchOptions()), batches))
    for one, other in zip(serial, parallel, strict=True):
        assert all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("items", "scores", "exact"))


# --- the file, without podx -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def session(small: Small) -> onnxruntime.InferenceSession:
    """ONNX Runtime without a plan of which tensor takes whose memory, which takes it ten times as long to make."""
    options = onnxruntime.SessionOptions()
    options.enable_mem_reuse = False
    return onnxruntime.InferenceSession(str(small.bundle.path / "recommend.onnx"), options)


def test_six_inputs_are_enough(small: Small, session: onnxruntime.InferenceSession) -> None:
    batch = mixed_batch(small, seed=6, rows=2 * KINDS, k=10)
    items, scores, exact = session.run(["items", "scores", "exact"], feeds_of(batch))
    assert (items.dtype, scores.dtype, exact.dtype) == (np.int64, np.float32, np.bool_)
    assert items.shape == scores.shape == (2 * KINDS, 10) and exact.shape == (2 * KINDS,)
    defaults = small.search(batch, ItemSearchOptions(beams=20, length_penalty=1.0))
    np.testing.assert_array_equal(items, defaults.items)
    np.testing.assert_array_equal(exact, defaults.exact)
    np.testing.assert_allclose(scores, defaults.scores, atol=1e-6)


@pytest.mark.parametrize("width", [0, 1])
def test_lists_without_a_number_set_no_limit(small: Small, session: onnxruntime.InferenceSession, width: int) -> None:
    batch = ItemBatch(random_text(np.random.default_rng(0), 4), 0, [PLAIN] * 4, [None] * 4, 10)
    none = np.full((4, width), -1, dtype=np.int64)
    items, _, _ = session.run(None, {**feeds_of(batch), "excluded_items": none, "allowed_items": none})
    np.testing.assert_array_equal(items, small.search(batch, ItemSearchOptions()).items)
    nothing = {**feeds_of(batch), "allowed_items": np.array([[0, -1], [-1, 0], [-1, -1], [-1, 3]])}
    counts = (session.run(["items"], nothing)[0] > 0).sum(axis=1)
    assert counts.tolist() == [0, 0, 10, int(small.catalog.trie.item_node[3] != ROOT)]


def test_more_answers_than_beams_may_be_asked_for(small: Small, session: onnxruntime.InferenceSession) -> None:
    batch = mixed_batch(small, seed=7, rows=2 * KINDS, k=60)
    feeds = {**feeds_of(batch), "beams": np.array([3]), "k": np.array([60])}
    items, scores, exact = session.run(None, feeds)
    broken = broken_promises(small, batch, ItemResults(items, scores, exact))
    assert broken == dict.fromkeys(broken, 0)


def files_of(model: onnx.ModelProto) -> dict[str, Sequence[str]]:
    """Initializers by the file their data lie in."""
    places: dict[str, list[str]] = {}
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                places.setdefault(entry.value, []).append(tensor.name)
    return dict(places)


def test_the_graph_keeps_its_contract(small: Small) -> None:
    model = onnx.load(small.bundle.file(sig.RECOMMEND_FILE), load_external_data=False)
    specs = [*sig.encoder_inputs(), *sig.filter_inputs(), *sig.search_inputs()]
    assert [value.name for value in model.graph.input] == [spec.name for spec in specs]
    assert [value.name for value in model.graph.output] == [spec.name for spec in sig.answer_tensors()]
    optional = {spec.name for spec in sig.search_inputs()}
    assert optional <= {tensor.name for tensor in model.graph.initializer}
    assert not {node.op_type for node in model.graph.node} & {"If", "Loop", "Scan", "RelativePositionBias", "Pad"}
    assert {node.domain for node in model.graph.node} <= {"", "com.microsoft"}
    files = files_of(model)
    assert set(files) == {sig.WEIGHTS_FILE, CATALOG_FILE}
    assert {"edge_column", "node_item", "item_node"} <= set(files[CATALOG_FILE])
    assert small.bundle.manifest.levels == LEVELS


@pytest.mark.parametrize("least", [0, 1])
def test_a_step_without_live_beams_has_as_many_rows_as_asked(small: Small, least: int) -> None:
    """None on the CPU, one on CUDA, which cannot attend over none; answers are the same."""
    model = onnx.load(small.bundle.file(sig.RECOMMEND_FILE), load_external_data=False)
    widths = [node.output[0] for node in model.graph.node if node.op_type == "Max" and sig.LEAST_ROWS in node.input]
    model.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, [1]) for name in widths)
    path = small.bundle.path / f"least_rows_{least}.onnx"
    onnx.save(model, path)
    options = onnxruntime.SessionOptions()
    row = onnxruntime.OrtValue.ortvalue_from_numpy(np.array([least]))
    options.add_initializer(sig.LEAST_ROWS, row)
    opened = onnxruntime.InferenceSession(str(path), options)
    of_one_token = np.flatnonzero(small.catalog.listed & (np.diff(small.catalog.offsets) == 1))[:3] + 1
    batch = ItemBatch(random_text(np.random.default_rng(0), 2), 0, [of_one_token[:0]] * 2, [of_one_token] * 2, 3)
    items, scores, *live = opened.run(["items", "scores", *widths], feeds_of(batch))
    assert len(live) == LEVELS
    assert live[-1].tolist() == [least]
    usual = small.search(batch, ItemSearchOptions())
    np.testing.assert_array_equal(items[:, :3], usual.items)
    np.testing.assert_allclose(scores[:, :3], usual.scores, atol=1e-5)


def test_padding_is_not_computed(small: Small, tmp_path: Path) -> None:
    """Dense layers of the encoder have a row for each prompt vector and token of each user, and no more."""
    options = onnxruntime.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "profile")
    opened = onnxruntime.InferenceSession(str(small.bundle.path / sig.RECOMMEND_FILE), options)
    batch = ItemBatch(random_text(np.random.default_rng(0), 6, 9), 0, [PLAIN] * 6, [None] * 6, 10)
    opened.run(None, feeds_of(batch))
    events = json.loads(Path(opened.end_profiling()).read_text())
    names = ("MatMul", "layers.0")
    shapes = [event["args"]["input_type_shape"][0]["float"] for event in events if event["cat"] == "Node"
              and "/encoder/" in event["name"] and all(name in event["name"] for name in names)]  # fmt: skip
    real = int(batch.text.attention_mask.sum()) + 6 * small.bundle.manifest.prompts
    assert real < 6 * (batch.text.attention_mask.shape[1] + small.bundle.manifest.prompts)
    assert shapes and {shape[0] for shape in shapes} == {real}
