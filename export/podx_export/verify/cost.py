"""What a precision below float32 costs, measured at export on the model's own users.

Exact equality cannot be asked of rounded weights: near ties swap. So the lists are compared with those of a float32
graph of the same checkpoint, built for the comparison only, and both are scored by each user's last known item.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from podx.bundle import signature as sig
from podx.bundle.bundle import Bundle
from podx.bundle.tables import TableFile
from podx.decoding.items import ItemResults
from podx.decoding.options import ItemSearchOptions
from podx.errors import ParityError
from podx.graphs.instruction_set import instruction_set
from podx.graphs.model import GraphModel, recommend_with
from podx.graphs.session import GraphSession, SessionOptions
from podx.metrics import overlap
from podx.requests.batch import ItemBatch
from podx.text.templates import Task
from podx_export.blocks.graph import FP32
from podx_export.blocks.source import read_model
from podx_export.blocks.weights import WeightStore
from podx_export.search.recommend import build_recommender
from podx_export.verify.parity import TOP, session_options
from podx_export.verify.samples import Sample, draw
from podx_train.checkpoint.checkpoint import Checkpoint

LEAST_OVERLAP = 0.5
"""Below it the graphs are broken, not rounded."""

BATCH = 32


@dataclass(frozen=True)
class PrecisionCost:
    """Lists of one task against those in float32.

    Attributes:
        users: compared.
        overlap: mean share of the top 10 that both have.
        hit_rate, fp32_hit_rate: HR@10 of the user's last known item, which a trained model may have seen: it serves to
            compare the two, and is no measure of accuracy.
        instruction_set: of the processor that ran it.
    """

    task: str
    users: int
    overlap: float
    hit_rate: float
    fp32_hit_rate: float
    instruction_set: str

    def to_json(self) -> dict[str, object]:
        """As it stands in the manifest."""
        return asdict(self)


def measure_cost(checkpoint: Checkpoint, bundle: Bundle, catalog_file: Path, users: int) -> list[PrecisionCost]:
    """Compare ``recommend.onnx`` with a float32 one on ``users`` users of each item task.

    Raises:
        ParityError: the lists have little in common.
    """
    costs = []
    with tempfile.TemporaryDirectory() as folder:
        reference = _reference(checkpoint, catalog_file, Path(folder), bundle.manifest.levels)
        own = GraphModel(bundle, session_options(bundle)).session(sig.RECOMMEND_FILE)
        for task in bundle.manifest.answered:
            if task is not Task.EXPLANATION:
                sample = draw(checkpoint, task, users)
                task_id = bundle.manifest.task_id(task)
                lists = [_lists(session, checkpoint, sample, task_id) for session in (own, reference)]
                costs.append(_compare(task, sample, checkpoint, *lists))
    poor = [cost for cost in costs if not cost.overlap >= LEAST_OVERLAP]
    if poor:
        raise ParityError(
            f"in {bundle.manifest.precision} the top {TOP} of {poor[0].task} share only {poor[0].overlap:.0%} with "
            f"those in fp32 (at least {LEAST_OVERLAP:.0%} expected): take another --precision; nothing was written"
        )
    return costs


def _reference(checkpoint: Checkpoint, catalog_file: Path, folder: Path, levels: int) -> GraphSession:
    """The search in float32, over the same catalog."""
    tables = folder / catalog_file.name
    shutil.copyfile(catalog_file, tables)  # ONNX Runtime follows no link out of a graph's folder
    weights = WeightStore(folder / sig.WEIGHTS_FILE)
    graph = build_recommender(read_model(checkpoint.model), weights, TableFile(tables), levels, FP32)
    weights.close()
    path = folder / sig.RECOMMEND_FILE
    path.write_bytes(graph.model().SerializeToString())
    return GraphSession(path, SessionOptions())


def _lists(session: GraphSession, checkpoint: Checkpoint, sample: Sample, task_id: int) -> npt.NDArray[np.int64]:
    """Item numbers, [users, 10]."""
    found = [_run(session, checkpoint, sample.part(first, BATCH), task_id) for first in range(0, len(sample), BATCH)]
    return np.concatenate([lists.items for lists in found])


def _run(session: GraphSession, checkpoint: Checkpoint, sample: Sample, task_id: int) -> ItemResults:
    k = min(TOP, len(checkpoint.item_ids))
    batch = ItemBatch(sample.encode(checkpoint), task_id, sample.denied, sample.allowed, k)
    return recommend_with(session, batch, ItemSearchOptions(), user_rows=checkpoint.config.user_prompts > 0)


def _compare(
    task: Task, sample: Sample, checkpoint: Checkpoint, own: npt.NDArray[np.int64], fp32: npt.NDArray[np.int64]
) -> PrecisionCost:
    last = np.array([checkpoint.sequences.of(int(user))[-1] for user in sample.users])
    hit, fp32_hit = (float((lists == last[:, None]).any(axis=1).mean()) for lists in (own, fp32))
    return PrecisionCost(task.value, len(sample), overlap(own, fp32, TOP), hit, fp32_hit, instruction_set())
