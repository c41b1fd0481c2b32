"""The process whose training steps ``podx study batching`` measures: ``python -m podx_bench.study.step PLAN``.

PLAN is a JSON file (:class:`StepPlan`). The steps are those of podx train: the trainer it would make, its plan of an
epoch, its update. One JSON object comes back on stdout; libraries' prints go to stderr.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from podx.text.templates import DEFAULT_TEMPLATES, Task, load_templates
from podx_bench.harness.memory import MEGABYTE, peak_rss_mb
from podx_train.batches.batching import Built, PlannedBatch, batch_stream
from podx_train.batches.prefetch import BatchFeed, batches_ahead
from podx_train.checkpoint.checkpoint import TRAINING_FILE
from podx_train.data.dataset import Dataset
from podx_train.model.presets import TOKENIZER_FILE
from podx_train.options import Source, TrainOptions
from podx_train.training.loop import Trainer
from podx_train.training.start import start_from
from podx_train.training.train import make_trainer

MEMORY, TIME = "memory", "time"
HEAVIEST = 2
"""Batches that memory is measured on: so many of an epoch with the longest inputs, and with the longest targets."""
PASSES = 2
"""The optimiser's state is there from the second update on."""
WARM_UPDATES = 2
CUDA = "cuda"


@dataclass(frozen=True)
class StepPlan:
    """What to measure.

    Attributes:
        do: :data:`MEMORY` or :data:`TIME`.
        base: checkpoint folder that podx train wrote with the study's options. templates: wordings; None: the usual.
        batching, batch_size: of the steps.
        first: the first batch of the epoch that is timed; updates: how many; None: the epoch's all.
    """

    do: str
    data: str
    base: str
    templates: str | None
    batching: str
    batch_size: int
    first: int = 0
    updates: int | None = None

    def write(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(dataclasses.asdict(self)), encoding="utf-8")


def prepare(plan: StepPlan, scratch: Path) -> tuple[Trainer, TrainOptions]:
    """The trainer that podx train would make."""
    training = json.loads((Path(plan.base) / TRAINING_FILE).read_text(encoding="utf-8"))
    options = options_from(training["options"], plan)
    own = training["source"]
    source = Source(own["preset"], own["backbone"], str(Path(plan.base) / TOKENIZER_FILE))
    templates = DEFAULT_TEMPLATES if plan.templates is None else load_templates(Path(plan.templates))
    dataset = Dataset.load(Path(plan.data))
    start = start_from(source, options, dataset, templates)
    return make_trainer(dataset, scratch / "checkpoint", options, start, templates, False), options


def options_from(content: Mapping[str, Any], plan: StepPlan) -> TrainOptions:
    """The options of the base with the plan's batches."""
    tasks = None if content["tasks"] is None else tuple(Task(task) for task in content["tasks"])
    return TrainOptions(**{**content, "tasks": tasks, "batching": plan.batching, "batch_size": plan.batch_size})


class Steps:
    """Updates on chosen batches of the first epoch, as podx train takes them.

    Attributes:
        planned: the epoch's batches.
    """

    def __init__(self, trainer: Trainer, options: TrainOptions) -> None:
        self.planned: list[PlannedBatch] = trainer.plan(0)
        self._trainer, self._options = trainer, options
        self._device = torch.device(options.device)
        trainer.model.train()

    def build(self, place: int) -> Built:
        """A batch of the epoch."""
        stream = batch_stream(self._options.seed, 0, place)
        return self._trainer.parts.training_builder.build(self.planned[place], stream)

    def take(self, places: Sequence[int]) -> tuple[float, int, int]:
        """Take an update on each of these batches; seconds, pads and tokens."""
        self._settle()
        started, pads, tokens = time.perf_counter(), 0, 0
        feed = BatchFeed(lambda turn: self.build(places[turn]), 0, len(places), batches_ahead(self._device))
        with feed:
            for place in places:
                ready = feed.take()
                self._trainer.update(self.planned[place], ready, None)
                pads, tokens = pads + ready.built.pads, tokens + ready.built.tokens
        self._settle()
        return time.perf_counter() - started, pads, tokens

    def _settle(self) -> None:
        """Until the GPU has done what it was given."""
        if self._device.type == CUDA:
            torch.cuda.synchronize()

    def peak_mb(self) -> float:
        """Most memory so far, MB: of this process, or of its tensors on the GPU."""
        if self._device.type == CUDA:
            return float(torch.cuda.max_memory_allocated()) / MEGABYTE
        return peak_rss_mb()


def heaviest(steps: Steps) -> list[int]:
    """Places of the batches with most tokens, pads included: in inputs, then in targets. Every batch is built once."""
    sizes = []
    for place in range(len(steps.planned)):
        built = steps.build(place)
        sizes.append((built.batch.input_ids.numel(), built.labels.numel(), place))
    found = [size[2] for size in sorted(sizes, reverse=True)[:HEAVIEST]]
    found += [size[2] for size in sorted(sizes, key=lambda size: (size[1], size[0]), reverse=True)[:HEAVIEST]]
    return list(dict.fromkeys(found))


def measure_memory(steps: Steps) -> dict[str, Any]:
    """Peak memory of updates on an epoch's heaviest batches."""
    places = heaviest(steps)
    before = steps.peak_mb()
    steps.take(places * PASSES)
    longest = max(int(steps.build(place).batch.input_ids.shape[1]) for place in places)
    return {"peak_mb": steps.peak_mb(), "before_mb": before, "longest_input": longest}


def measure_time(steps: Steps, plan: StepPlan) -> dict[str, Any]:
    """Seconds, tokens and pads of the planned updates."""
    count = len(steps.planned)
    places = [(plan.first + n) % count for n in range(count if plan.updates is None else plan.updates)]
    steps.take(places[:WARM_UPDATES])
    seconds, pads, tokens = steps.take(places)
    return {
        "seconds": seconds,
        "updates": len(places),
        "records": sum(len(indices) for place in places for _, indices in steps.planned[place]),
        "pads": pads,
        "tokens": tokens,
        "updates_per_epoch": count,
        "records_per_epoch": sum(len(indices) for batch in steps.planned for _, indices in batch),
        "peak_mb": steps.peak_mb(),
    }


def main(plan_file: Path) -> dict[str, Any]:
    """Measure; ``{"peak_mb": null}`` where memory was not enough."""
    plan = StepPlan(**json.loads(plan_file.read_text(encoding="utf-8")))
    with tempfile.TemporaryDirectory(prefix="podx-study-") as scratch:
        steps = Steps(*prepare(plan, Path(scratch)))
        try:
            return measure_memory(steps) if plan.do == MEMORY else measure_time(steps, plan)
        except (MemoryError, torch.OutOfMemoryError):
            return {"peak_mb": None}
        except RuntimeError as error:
            if "can't allocate memory" in str(error):  # the CPU's allocator has no error of its own
                return {"peak_mb": None}
            raise


if __name__ == "__main__":
    reply = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    print(json.dumps(main(Path(sys.argv[1]))), file=reply, flush=True)
