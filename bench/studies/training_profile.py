"""``python bench/studies/training_profile.py DATA``: where the time of a training step goes, for each task alone.

A step is taken apart as the training loop takes it: a batch is built (records drawn, worded, padded), the model runs
forward and backward, gradients are clipped and the optimiser moves the weights. Nothing is prefetched here, so the
share of building is the most that training can spend on it.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from podx.atomic import write_bytes, write_text
from podx.errors import PodxError
from podx.text.templates import DEFAULT_TEMPLATES, Task, parse_tasks
from podx.text.tokenizer import Tokenizer
from podx_train.batches.batching import BatchBuilder, PlannedBatch, batch_stream, plan_epoch, plan_stream
from podx_train.console import console
from podx_train.data.dataset import Dataset
from podx_train.model.pod_t5 import PodT5
from podx_train.options import Source, TrainOptions
from podx_train.training.cpu import keep_freed_memory, tune_for_cpu
from podx_train.training.processes import environment
from podx_train.training.start import Parts, make_parts, new_model, tokenizer_bytes

PARTS = ("drawing", "wording", "padding", "forward", "backward", "optimiser")
BUILDING = PARTS[:3]
WARM_UPDATES = 3
"""Updates before the clock starts: the first ones allocate memory."""


@dataclass(frozen=True)
class TaskProfile:
    """Seconds a task's updates took, by part; ``tokens``: of their inputs and targets, pads included."""

    task: Task
    updates: int
    batch_size: int
    tokens: int
    seconds: dict[str, float]

    @property
    def total(self) -> float:
        """Seconds of all parts."""
        return sum(self.seconds.values())

    @property
    def building_share(self) -> float:
        """Share of the time that went into batches."""
        return sum(self.seconds[part] for part in BUILDING) / self.total

    def as_json(self) -> dict[str, Any]:
        """All of it, with shares."""
        shares = {part: seconds / self.total for part, seconds in self.seconds.items()}
        return asdict(self) | {"shares": shares, "building_share": self.building_share}


class _Stopwatch:
    """Adds up seconds by part; on a GPU, work is finished before a part ends."""

    def __init__(self, device: torch.device) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._device = device

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self.seconds[part] += time.perf_counter() - started


def profile_task(
    model: PodT5, parts: Parts, task: Task, options: TrainOptions, updates: int, device: torch.device
) -> TaskProfile:
    """Run ``updates`` steps of one task, after a few that are not counted."""
    pools = [pool for pool in parts.training_pools if pool.task is task]
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr)
    plans = _plans(lambda epoch: plan_epoch(pools, "alternated", options.batch_size, plan_stream(options.seed, epoch)))
    model.train()
    tokens, timed = 0, _Stopwatch(device)
    for number in range(WARM_UPDATES + updates):
        if number == WARM_UPDATES:
            tokens, timed = 0, _Stopwatch(device)
        stream = batch_stream(options.seed, 0, number)
        tokens += _step(model, parts.training_builder, optimizer, options, next(plans), stream, device, timed)
    return TaskProfile(task, updates, options.batch_size, tokens, timed.seconds)


def _plans(epoch_plan: Callable[[int], list[PlannedBatch]]) -> Iterator[PlannedBatch]:
    """Batches of one epoch after the other."""
    epoch = 0
    while True:
        yield from epoch_plan(epoch)
        epoch += 1


def _step(
    model: PodT5,
    builder: BatchBuilder,
    optimizer: torch.optim.Optimizer,
    options: TrainOptions,
    plan: PlannedBatch,
    stream: Any,
    device: torch.device,
    timed: _Stopwatch,
) -> int:
    """One update; its number of tokens."""
    with timed("drawing"):
        drawn = builder.draw(plan, stream)
    with timed("wording"):
        written = builder.write(drawn)
    with timed("padding"):
        built = builder.pad(drawn, written)
    with timed("forward"):
        loss = model(built.batch.to(device), built.labels.to(device), built.weights.to(device))
    with timed("backward"):
        loss.backward()
    with timed("optimiser"):
        torch.nn.utils.clip_grad_norm_(model.parameters(), options.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return built.tokens


def profile(dataset: Dataset, options: TrainOptions, source: Source, updates: int) -> list[TaskProfile]:
    """Profile each of ``options.tasks`` on a new model.

    Raises:
        ConfigError, DataError, TokenizerError, CatalogError: as :func:`podx_train.training.train.train_model`.
    """
    device = torch.device("cuda" if options.device == "cuda" else "cpu")
    tasks = options.tasks or (Task.SEQUENTIAL, Task.TOPN)
    with tempfile.TemporaryDirectory() as folder:
        write_bytes(path := Path(folder) / "spiece.model", tokenizer_bytes(source, dataset, DEFAULT_TEMPLATES))
        tokenizer = Tokenizer(path)
    model = new_model(source, options, tasks, tokenizer, dataset).to(device)
    if device.type == "cpu":
        tune_for_cpu(model.backbone)
    parts = make_parts(model.config, options, dataset, tokenizer, DEFAULT_TEMPLATES)
    return [profile_task(model, parts, task, options, updates, device) for task in tasks]


def as_table(profiles: list[TaskProfile]) -> Table:
    """A row per part, a column per task."""
    table = Table("share of a step", *(of_task.task.value for of_task in profiles))
    for part in PARTS:
        table.add_row(part, *(f"{of_task.seconds[part] / of_task.total:.1%}" for of_task in profiles))
    table.add_section()
    table.add_row("building in all", *(f"{of_task.building_share:.1%}" for of_task in profiles))
    table.add_row("ms a step", *(f"{of_task.total / of_task.updates * 1e3:.1f}" for of_task in profiles))
    return table


def main(
    data: Annotated[Path, typer.Argument(help="Dataset folder.")],
    preset: Annotated[str, typer.Option(help="Shape of the model.")] = "mini",
    tasks: Annotated[str, typer.Option(help="Tasks, separated by commas.")] = "sequential,topn",
    batch_size: Annotated[int, typer.Option(min=1, help="Records of an update.")] = 64,
    updates: Annotated[int, typer.Option(min=1, help="Updates a task that are measured.")] = 60,
    targets: Annotated[str, typer.Option(help="segment or all.")] = "segment",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="Of PyTorch.")] = 1,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Print where the time of a training step goes."""
    torch.set_num_threads(threads)
    if device == "cpu":
        keep_freed_memory()
    try:
        options = TrainOptions(
            tasks=parse_tasks(tasks), batch_size=batch_size, targets=targets, device=device, seed=seed
        )
        profiles = profile(Dataset.load(data), options, Source(preset=preset, tokenizer="train"), updates)
    except PodxError as error:
        console.print(f"error: {error}", markup=False, soft_wrap=True)
        raise typer.Exit(2) from None
    Console().print(as_table(profiles))  # the result, so on standard output
    if out is not None:
        content = {"preset": preset, "targets": targets, "threads": threads, "tasks": [p.as_json() for p in profiles]}
        content["environment"] = environment(torch.device(device), 1)
        write_text(out, json.dumps(content, indent=2))


if __name__ == "__main__":
    typer.run(main)
