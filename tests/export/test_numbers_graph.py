"""``recommend_numbers.onnx`` against ``recommend.onnx``: the same answers, to the bit, without a tokeniser."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from podx.bundle import signature as sig
from podx.bundle.bundle import Bundle
from podx.bundle.input_words import READ_TOKEN, WORD_OFFSETS, WORD_TOKENS
from podx.bundle.manifest import INT8
from podx.bundle.tables import TableFile
from podx.decoding.options import ItemSearchOptions
from podx.graphs.model import GraphModel, recommend_with
from podx.graphs.numbers import NumberBatch, recommend_by_numbers
from podx.graphs.session import SessionOptions
from podx.requests.batch import ItemBatch
from podx.text.inputs import EncodedInput
from podx.text.templates import Task
from podx_export.catalog.change import CatalogChange, NewItem
from podx_export.catalog.update import update_bundle
from podx_export.pipeline import export_checkpoint
from podx_export.search import words
from podx_export.search.table_initializers import reads_tables
from podx_train.checkpoint.checkpoint import load_checkpoint
from podx_train.data.dataset import Dataset
from podx_train.options import TrainOptions
from podx_train.training.train import train_model
from tests.export.one_pass_world import CODES, make_world

NOBODY, K = -1, 10
BATCHES = 40
NONE = np.zeros(0, dtype=np.int64)


class Pair:
    """Both graphs of a bundle, and requests for both."""

    def __init__(self, folder: Path) -> None:
        self.bundle = Bundle.load(folder)
        self.model = GraphModel(self.bundle, SessionOptions(threads=1))
        self._encoder, self._random = self.bundle.input_encoder(), np.random.default_rng(3)

    def some(self, least: int, most: int) -> np.ndarray:
        """Distinct items, ``least`` to ``most`` of them."""
        count = int(self._random.integers(least, min(most, len(self.bundle.catalog)) + 1))
        return self._random.choice(len(self.bundle.catalog), size=count, replace=False) + 1

    def drawn(self, task: Task) -> tuple[NumberBatch, ItemBatch]:
        """One to eight requests of a task, with limits of every kind, some of them of users who are not known."""
        manifest, texts, rows = self.bundle.manifest, [], []
        for _ in range(self._random.integers(1, 9)):
            user = int(self._random.integers(1, len(self.bundle.users) + 1)) if self._random.random() < 0.8 else NOBODY
            by_history = task is Task.SEQUENTIAL or manifest.one_pass
            history = self.some(0 if manifest.one_pass else 1, manifest.max_history + 5) if by_history else NONE
            allowed = self.some(1, 40) if task is Task.TOPN or self._random.random() < 0.4 else None
            denied = np.concatenate([history, self.some(0, 9)]) if self._random.random() < 0.7 else NONE
            read = history[-manifest.max_history :] if by_history else allowed
            assert read is not None
            texts.append(self._encoder.encode(task, max(user, 0), read))
            rows.append((user, history, denied, allowed))
        return NumberBatch(*zip(*rows, strict=True)), self.written(task, texts, rows)  # type: ignore[arg-type]

    def written(self, task: Task, texts: list[EncodedInput], rows: list[tuple]) -> ItemBatch:
        """The requests as recommend.onnx takes them."""
        _, _, denied, allowed = zip(*rows, strict=True)
        return ItemBatch(self._encoder.collate(texts), self.bundle.manifest.task_id(task), denied, allowed, K)

    def assert_equal(self, numbers: NumberBatch, written: ItemBatch, beams: int = 20) -> None:
        """Items, scores and exactness, to the bit."""
        options, user_rows = ItemSearchOptions(beams), self.bundle.manifest.user_prompts > 0
        found = recommend_by_numbers(self.model.session(sig.NUMBERS_FILE), numbers, K, options)
        expected = recommend_with(self.model.session(sig.RECOMMEND_FILE), written, options, user_rows)
        for name in ("items", "scores", "exact"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
        assert (found.items > 0).any()


@pytest.fixture(scope="module")
def worded(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Templates with words, so that each task has some of its own before, between and after the ids."""
    folder = tmp_path_factory.mktemp("worded") / "bundle"
    export_checkpoint(trained, folder, parity_users=2, inference="discrete")
    return folder


@pytest.fixture(scope="module")
def peapod(world: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompt vectors of each user, and the task top-N alone, so that no history is read."""
    folder = tmp_path_factory.mktemp("peapod")
    options = TrainOptions(epochs=0, prompts=2, user_prompts=3, neighbours=5, tasks=(Task.TOPN,), device="cpu")
    train_model(world, folder / "checkpoint", options)
    export_checkpoint(folder / "checkpoint", folder / "bundle", parity_users=2)
    return folder / "bundle"


@pytest.fixture(scope="module")
def one_pass(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One-pass models over items of every kind, and one in 8 bits."""
    folder = tmp_path_factory.mktemp("one_pass")
    worlds = {kind: make_world(folder / str(number), kind) for number, kind in enumerate(CODES)}
    worlds[INT8] = make_world(folder / INT8, "three codes", precision=INT8)
    return {kind: small.bundle.path for kind, small in worlds.items()}


def assert_equal_answers(folder: Path) -> None:
    """Of random requests of all tasks."""
    pair = Pair(folder)
    tasks = [task for task in pair.bundle.manifest.answered if task is not Task.EXPLANATION]
    for number in range(BATCHES):
        pair.assert_equal(*pair.drawn(tasks[number % len(tasks)]), beams=(20, 3)[number % 2])


@pytest.mark.parametrize("name", ["trained_bundle", "rounded_bundle", "worded", "peapod"])
def test_numbers_answer_as_tokens_do(name: str, request: pytest.FixtureRequest) -> None:
    assert_equal_answers(request.getfixturevalue(name))


@pytest.mark.parametrize("kind", [*CODES, INT8])
def test_numbers_answer_as_tokens_do_in_one_pass(kind: str, one_pass: dict[str, Path]) -> None:
    assert_equal_answers(one_pass[kind])


def test_tasks_may_share_a_batch(trained_bundle: Path) -> None:
    pair = Pair(trained_bundle)
    encode, history, candidates = pair.bundle.input_encoder().encode, np.array([7, 8, 300]), np.array([9, 1, 22])
    numbers = NumberBatch([4, NOBODY], [history, NONE], [history, NONE], [None, candidates])
    texts = [encode(Task.SEQUENTIAL, 4, history), encode(Task.TOPN, 0, candidates)]
    together = recommend_by_numbers(pair.model.session(sig.NUMBERS_FILE), numbers, K, ItemSearchOptions())
    for row, task in enumerate((Task.SEQUENTIAL, Task.TOPN)):
        rows = [(0, NONE, numbers.denied[row], numbers.allowed[row])]
        alone = recommend_with(
            pair.model.session(sig.RECOMMEND_FILE), pair.written(task, [texts[row]], rows), ItemSearchOptions()
        )
        np.testing.assert_array_equal(together.items[row], alone.items[0])
        np.testing.assert_allclose(together.scores[row], alone.scores[0], atol=1e-5)


def test_a_changed_catalog_is_read(trained_bundle: Path, one_pass: dict[str, Path], tmp_path: Path) -> None:
    usual = CatalogChange(delist=["item-3"], add=[NewItem("new"), NewItem("newer", "999")])
    codes = CatalogChange(delist=["item-3"], add=[NewItem("new", "<a_6><b_8>"), NewItem("newer", "<a_5><b_8>")])
    for number, (bundle, change) in enumerate([(trained_bundle, usual), (one_pass["two codes"], codes)]):
        update_bundle(bundle, tmp_path / str(number), change)
        pair = Pair(tmp_path / str(number))
        count = len(pair.bundle.catalog)
        history = np.array([count, 3, count - 1])  # the newest items, and one that is delisted
        text = pair.bundle.input_encoder().encode(Task.SEQUENTIAL, 2, history)
        pair.assert_equal(
            NumberBatch([2], [history], [NONE], [None]), pair.written(Task.SEQUENTIAL, [text], [(2, 0, NONE, None)])
        )
        for _ in range(5):
            pair.assert_equal(*pair.drawn(Task.SEQUENTIAL))


def test_words_are_tokenised_in_parts(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = load_checkpoint(trained)
    catalog, encoder = source.catalog(), source.encoder()
    whole = words.item_words(catalog, encoder, source.config.item_prefix)
    monkeypatch.setattr(words, "AT_A_TIME", 7)
    in_parts = words.item_words(catalog, encoder, source.config.item_prefix)
    np.testing.assert_array_equal(in_parts.tokens, whole.tokens)
    np.testing.assert_array_equal(in_parts.offsets, whole.offsets)
    last = whole.tokens[whole.offsets[-2] :].tolist()
    assert last == list(source.tokenizer.encode(f"item_{len(catalog)}"))


def test_the_graph_keeps_its_contract(trained_bundle: Path, peapod: Path, one_pass: dict[str, Path]) -> None:
    for folder, numbers, tables in (
        (trained_bundle, sig.number_inputs(True, True, False), {WORD_TOKENS, WORD_OFFSETS}),
        (peapod, sig.number_inputs(True, False, True), {WORD_TOKENS, WORD_OFFSETS}),
        (one_pass[INT8], sig.number_inputs(False, True, False), {READ_TOKEN}),
    ):
        model = onnx.load(folder / sig.NUMBERS_FILE, load_external_data=False)
        specs = [*numbers, *sig.filter_inputs(), *sig.search_inputs()]
        assert [value.name for value in model.graph.input] == [spec.name for spec in specs]
        assert [value.name for value in model.graph.output] == [spec.name for spec in sig.answer_tensors()]
        catalog = TableFile(folder / "catalog.bin")
        assert tables <= catalog.layout.keys() and reads_tables(model, catalog)
        assert {node.op_type for node in model.graph.node}.isdisjoint({"If", "Loop", "Scan"})


def test_a_number_beyond_the_tables_is_an_error(trained_bundle: Path) -> None:
    session = Pair(trained_bundle).model.session(sig.NUMBERS_FILE)
    for user, item in ((10**6, 1), (1, 10**6)):
        batch = NumberBatch([user], [np.array([item])], [NONE], [None])
        with pytest.raises(Exception, match="out of data bounds"):
            recommend_by_numbers(session, batch, K, ItemSearchOptions())
