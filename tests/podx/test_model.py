"""Sessions behind the search: the encoder's memory and the decoder's cache, over tiny graphs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from podx.bundle import signature as sig
from podx.bundle.bundle import Bundle
from podx.bundle.manifest import MANIFEST_FILE, Manifest, file_sha256
from podx.bundle.signature import DECODER_FILE, ENCODER_FILE, ITEM_DECODER_FILE
from podx.decoding.options import ItemSearchOptions
from podx.errors import BundleError
from podx.graphs.model import GraphModel, recommend_with
from podx.graphs.session import CPU, SessionOptions
from podx.requests.batch import ItemBatch
from podx.text.inputs import Batch
from tests.podx.bundles import manifest
from tests.podx.graphs import SHAPE, save_decoder, save_encoder

CELLS = SHAPE.heads * SHAPE.head_dim
TASK_ID = 2
IDS = np.array([[4, 5, 6], [7, 8, 0]])
MASK = np.array([[1, 1, 1], [1, 1, 0]])
SUMS = [15.0, 15.0]


@pytest.fixture
def model(tmp_path: Path) -> GraphModel:
    save_encoder(tmp_path / ENCODER_FILE)
    save_decoder(tmp_path / DECODER_FILE, items_only=False)
    save_decoder(tmp_path / ITEM_DECODER_FILE, items_only=True)
    files = {path.name: file_sha256(path) for path in tmp_path.iterdir()}
    written = Manifest(**{**vars(manifest(files)), "shape": SHAPE})
    (tmp_path / MANIFEST_FILE).write_text(written.to_json(), encoding="utf-8")
    return GraphModel(Bundle.load(tmp_path), SessionOptions(threads=1))


@pytest.fixture
def batch() -> Batch:
    return Batch(input_ids=IDS, whole_word_ids=np.zeros_like(IDS), attention_mask=MASK)


def test_the_encoder_is_told_the_task_of_every_row(model: GraphModel, batch: Batch) -> None:
    memory = {name: value.numpy() for name, value in model.encode(batch, TASK_ID).items()}
    assert model.device == CPU
    assert memory["memory_mask"].tolist() == MASK.tolist()
    assert memory["cross_key.0"].shape == (2, SHAPE.heads, 3, SHAPE.head_dim)
    assert memory["cross_key.0"][:, 0, 0, 0].tolist() == SUMS
    assert (memory["cross_value.0"] == TASK_ID).all()


def test_the_cache_grows_by_each_step_and_follows_kept_users(model: GraphModel, batch: Batch) -> None:
    stepper = model.stepper(model.encode(batch, TASK_ID), batch.size, output_tokens=None)
    scores = stepper.step(np.array([[1], [2]]), np.zeros((2, 1, 1), dtype=np.int64))
    vocabulary = np.arange(SHAPE.vocab_size)
    assert scores.tolist() == [[(sums + vocabulary).tolist()] for sums in SUMS]

    stepper.keep(np.array([1]))
    distance = np.array([[[1, 0, -1], [1, -1, 0]]])
    scores = stepper.step(np.array([[3, 4]]), distance)
    first_cache = 2 * CELLS  # token 2 in every cell of the one slot
    assert scores.tolist() == [[(SUMS[1] + first_cache + 1 + vocabulary).tolist()] * 2]

    distance = np.array([[[2, 1, -1, 0]]])
    scores = stepper.step(np.array([[1]]), distance)
    assert scores.tolist() == [[(SUMS[1] + (2 + 3 + 4) * CELLS + 2 + vocabulary).tolist()]]


def test_the_item_decoder_scores_the_tokens_it_is_given(model: GraphModel, batch: Batch) -> None:
    stepper = model.stepper(model.encode(batch, TASK_ID), batch.size, output_tokens=np.array([1, 3]))
    scores = stepper.step(np.array([[1], [2]]), np.zeros((2, 1, 1), dtype=np.int64))
    assert scores.tolist() == [[[sums + 1, sums + 3]] for sums in SUMS]


def test_a_graph_is_loaded_once(model: GraphModel) -> None:
    assert model.session(ENCODER_FILE) is model.session(ENCODER_FILE)


def test_an_open_model_needs_its_folder_no_longer(model: GraphModel, batch: Batch, tmp_path: Path) -> None:
    before = {name: value.numpy() for name, value in model.encode(batch, TASK_ID).items()}
    model.open([ENCODER_FILE])
    for path in tmp_path.iterdir():
        path.unlink()
    memory = model.encode(batch, TASK_ID)
    for name, value in memory.items():
        np.testing.assert_array_equal(value.numpy(), before[name])
    stepper = model.stepper(memory, batch.size, output_tokens=np.array([1, 3]))  # a graph that was not open yet
    scores = stepper.step(np.array([[1], [2]]), np.zeros((2, 1, 1), dtype=np.int64))
    assert scores.tolist() == [[[sums + 1, sums + 3]] for sums in SUMS]


@pytest.mark.parametrize("change", ["replaced", "gone", "written into"])
def test_a_folder_that_changes_while_it_is_loaded_is_named(model: GraphModel, tmp_path: Path, change: str) -> None:
    path = tmp_path / DECODER_FILE
    content = path.read_bytes()
    if change == "written into":
        path.write_bytes(content[::-1])
    else:
        path.unlink()
        if change == "replaced":
            (tmp_path / "other").write_bytes(
                content
            )  # a name of its own first: the place on the disk may be used again
            path.write_bytes(content)
    with pytest.raises(BundleError, match=r"decoder\.onnx was replaced while the bundle was loaded: load it again"):
        model.open([ENCODER_FILE])


def test_a_graph_that_the_bundle_lacks_is_named(model: GraphModel) -> None:
    with pytest.raises(BundleError, match=r"no recommend\.onnx"):
        model.session("recommend.onnx")


# --- the whole search by one graph ------------------------------------------------------------------------------------


class Recorder:
    """In place of a session: keeps what it is fed."""

    outputs = ("items", "scores", "exact")

    def run(self, feeds: dict[str, np.ndarray], to_host: Sequence[str]) -> dict[str, np.ndarray]:
        assert set(to_host) == set(self.outputs)
        self.fed = feeds
        return {"items": np.array([[7]]), "scores": np.array([[-1.0]], dtype=np.float32), "exact": np.array([True])}


NONE = np.zeros(0, dtype=np.int64)


def fed_with(batch: Batch, denied: list, allowed: list, options: ItemSearchOptions, k: int) -> dict[str, np.ndarray]:
    recorder = Recorder()
    found = recommend_with(recorder, ItemBatch(batch, TASK_ID, denied, allowed, k), options)  # type: ignore[arg-type]
    assert (found.items.tolist(), found.scores.tolist(), found.exact.tolist()) == ([[7]], [[-1.0]], [True])
    assert {name: value.dtype for name, value in recorder.fed.items()} == {
        spec.name: spec.dtype for spec in [*sig.encoder_inputs(), *sig.filter_inputs(), *sig.search_inputs()]
    }
    return recorder.fed


def test_lists_are_filled_up_and_an_empty_one_allows_nothing(batch: Batch) -> None:
    options = ItemSearchOptions(beams=4, length_penalty=0.5)
    fed = fed_with(batch, [np.array([3, 9]), NONE], [None, NONE], options, k=2)
    assert fed["excluded_items"].tolist() == [[3, 9], [-1, -1]]
    assert fed["allowed_items"].tolist() == [[-1], [0]]
    assert fed["input_ids"].tolist() == IDS.tolist() and fed["attention_mask"].tolist() == MASK.tolist()
    assert fed["task_id"].tolist() == [TASK_ID, TASK_ID]
    assert (fed["beams"].tolist(), fed["k"].tolist(), fed["length_penalty"].tolist()) == ([4], [2], [0.5])


def test_without_lists_none_is_fed_and_the_width_is_at_least_k(batch: Batch) -> None:
    fed = fed_with(batch, [NONE, NONE], [None, None], ItemSearchOptions(beams=4), k=9)
    assert fed["excluded_items"].shape == fed["allowed_items"].shape == (2, 0)
    assert (fed["beams"].tolist(), fed["k"].tolist()) == ([9], [9])


def test_a_list_of_allowed_items_is_fed_as_it_is(batch: Batch) -> None:
    fed = fed_with(batch, [NONE, NONE], [np.array([5, 2]), None], ItemSearchOptions(), k=1)
    rows = [set(row) - {0, -1} for row in fed["allowed_items"].tolist()]
    assert rows == [{5, 2}, set()]
    assert set(fed["allowed_items"][1].tolist()) == {-1}  # all items, not none
