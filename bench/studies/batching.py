"""Task-alternated against sample-mixed training, each at its largest batch (POD, section 5.4, Table 5).

    python bench/studies/batching.py DATA --out OUT --memory-gb 2 [-- TRAIN-OPTIONS]

For each way of forming batches a fresh process tells the memory that updates of a batch size take; the largest size
within ``--memory-gb`` is searched for, then updates of both are timed in turns. Steps, batches and model are those that
``podx train DATA TRAIN-OPTIONS`` would use. OUT gets ``study.json``, ``report.md`` and a chart, and keeps every
measurement, so a stopped run goes on where it was. bench/results/study-batching is of ``beauty-train-first --out study
--memory-gb 2 --closeness 0.1 --updates 6 --rounds 2 --threads 1 -- --preset mini --tokenizer spiece.model``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import msgspec

from podx.atomic import write_text
from podx.errors import EXIT_CODE, ConfigError, PodxError
from podx.text.templates import DEFAULT_TEMPLATES
from podx_bench.accuracy.datasets import dataset_digest
from podx_bench.harness.child import ChildDiedError, run_in_child, thread_environment
from podx_bench.harness.environment import describe
from podx_bench.harness.options import usable_cores
from podx_bench.harness.record_file import digest_of
from podx_bench.harness.resources import peak_rss_mb
from podx_bench.pages.drawing import OTHER_COLOUR, OURS_COLOUR, bar_chart
from podx_bench.pages.render import markdown_table
from podx_bench.pages.table import NONE, PERCENT, TextTable, short
from podx_bench.workload.inputs import dataset_facts
from podx_train.data.dataset import Dataset

NAMES = {"mixed": "sample-mixed", "alternated": "task-alternated"}
FIRST_SIZE = 8
HEAVIEST = 2
"""Memory is measured on so many batches of an epoch with the longest inputs, and with the longest targets."""
PASSES = 2
"""The optimiser's state is there from the second update on."""
WARM_UPDATES = 2
KILLED = -9
SET_HERE = ("--out", "--resume", "--batching", "--batch-size", "--epochs", "--updates", "--templates", "--device")
SECONDS, THOUSAND, MEGABYTES_PER_GB = 60.0, 1e3, 1e3
Measure = Callable[[int], float | None]


class Strategy(NamedTuple):
    """A row of Table 5: a way to form batches, on Sports and one V100S, each at its largest batch size."""

    name: str
    time: str
    epochs: int
    time_per_epoch: str


TABLE_5 = (Strategy("sample-mixed", "15h59m", 13, "1h14m"), Strategy("task-alternated", "6h55m", 22, "19m"))


# --- in the measured process ----------------------------------------------------------------------------------------


class Steps:
    """Updates on batches of the first epoch, as podx train takes them."""

    def __init__(self, data: Path, base: Path, batching: str, size: int, scratch: Path) -> None:
        from podx_train.batches.batching import batch_stream
        from podx_train.checkpoint.checkpoint import TRAINING_FILE
        from podx_train.model.presets import TOKENIZER_FILE
        from podx_train.options import Source, TrainOptions
        from podx_train.training.start import start_from
        from podx_train.training.train import make_trainer

        training = json.loads((base / TRAINING_FILE).read_text(encoding="utf-8"))
        batches = {"batching": batching, "batch_size": size}
        self._options = msgspec.convert({**training["options"], **batches}, TrainOptions)
        source = msgspec.convert({**training["source"], "tokenizer": str(base / TOKENIZER_FILE)}, Source)
        dataset = Dataset.load(data)
        start = start_from(source, self._options, dataset, DEFAULT_TEMPLATES)
        arguments = (dataset, scratch / "checkpoint", self._options, start, DEFAULT_TEMPLATES, False)
        self._trainer = make_trainer(*arguments)
        self._trainer.model.train()
        self._stream = batch_stream
        self.planned = self._trainer.plan(0)

    def build(self, place: int) -> Any:
        """A batch of the epoch."""
        builder = self._trainer.parts.training_builder
        return builder.build(self.planned[place], self._stream(self._options.seed, 0, place))

    def take(self, places: Sequence[int]) -> tuple[float, int, int]:
        """Take an update on each of these batches; seconds, pads and tokens."""
        from podx_train.batches.prefetch import BatchFeed

        started, pads, tokens = time.perf_counter(), 0, 0
        with BatchFeed(lambda turn: self.build(places[turn]), 0, len(places), 1) as feed:
            for place in places:
                ready = feed.take()
                self._trainer.update(self.planned[place], ready, None)
                pads, tokens = pads + ready.built.pads, tokens + ready.built.tokens
        return time.perf_counter() - started, pads, tokens


def heaviest(steps: Steps) -> list[int]:
    """Places of the batches with most tokens, pads included: in inputs, then in targets."""
    built = [steps.build(place) for place in range(len(steps.planned))]
    sizes = [(batch.batch.input_ids.numel(), batch.labels.numel()) for batch in built]
    orders = (sorted(range(len(sizes)), key=lambda n: sizes[n][side], reverse=True) for side in (0, 1))
    return list(dict.fromkeys(place for order in orders for place in order[:HEAVIEST]))


def peak_memory(data: Path, base: Path, batching: str, size: int) -> float:
    """Peak memory of this process, MB, after updates on an epoch's heaviest batches."""
    with tempfile.TemporaryDirectory() as scratch:
        steps = Steps(data, base, batching, size, Path(scratch))
        steps.take(heaviest(steps) * PASSES)
    return peak_rss_mb()


def update_times(data: Path, base: Path, batching: str, size: int, first: int, updates: int) -> dict[str, Any]:
    """Seconds, tokens and pads of so many updates, from a batch of the epoch on."""
    with tempfile.TemporaryDirectory() as scratch:
        steps = Steps(data, base, batching, size, Path(scratch))
        count = len(steps.planned)
        places = [(first + n) % count for n in range(updates)]
        steps.take(places[:WARM_UPDATES])
        seconds, pads, tokens = steps.take(places)
    records = [sum(len(indices) for _, indices in batch) for batch in steps.planned]
    return {
        "seconds": seconds,
        "updates": updates,
        "records": sum(records[place] for place in places),
        "pads": pads,
        "tokens": tokens,
        "updates_per_epoch": count,
        "records_per_epoch": sum(records),
    }


# --- in the study's process -----------------------------------------------------------------------------------------


class Measured:
    """Measurements by what was asked, kept in a file as soon as they are made."""

    def __init__(self, path: Path, threads: int) -> None:
        self._path = path
        self._environment = thread_environment(threads) | {"PYTHONPATH": str(Path(__file__).parent)}
        self._known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def ask(self, function: str, *arguments: Any) -> Any:
        """What a function of this file gives in a fresh process; None: its memory ran out."""
        key = " ".join([function, *(str(argument) for argument in arguments if not isinstance(argument, Path))])
        if key not in self._known:
            print(key, flush=True)
            try:
                self._known[key] = run_in_child(
                    f"batching:{function}",
                    *arguments,
                    returns=Any,
                    name="the measured training",
                    advice="give more memory",
                    environment=self._environment,
                )
            except ChildDiedError as error:
                if error.status != KILLED:
                    raise
                self._known[key] = None
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_text(self._path, json.dumps(self._known, indent=2))
        return self._known[key]


def search_largest(
    measure: Measure, budget_mb: float, most: int, closeness: float
) -> tuple[int, int, dict[int, float | None]]:
    """Look for the largest batch size within a budget: by doubling, then by halving what is left.

    Args:
        measure: peak memory of a batch size, MB; None: it ran out.
        most: the largest size that makes sense.
        closeness: the interval left is at most this share of the size found, or 1.

    Returns:
        the largest size that fits, 0 where none does; the smallest that does not; and the peaks of all that were tried.
    """
    tried: dict[int, float | None] = {}
    largest, above = 0, most + 1
    while above - largest > max(1, int(closeness * largest)):
        size = (largest + above) // 2 if tried and above <= most else min(most, max(FIRST_SIZE, 2 * largest))
        peak = tried[size] = measure(size)
        if peak is not None and peak <= budget_mb:
            largest = size
        else:
            above = size
    return largest, above, tried


def study(data: Path, out: Path, asked: argparse.Namespace, extra: Sequence[str]) -> dict[str, Any]:
    """Measure both ways of forming batches; the content of ``study.json``."""
    taken = [text for text in extra if text.partition("=")[0] in SET_HERE]
    if taken:
        raise ConfigError(f"{', '.join(taken)} after -- conflicts with the study: leave it out")
    dataset, threads = Dataset.load(data), asked.threads or usable_cores()
    mark = digest_of(list(extra), threads, dataset_digest(data))
    base = out / f"base-{mark}"
    if not base.exists():
        command = [sys.executable, "-c", "from podx.cli import main; main()", "train", str(data), "--out", str(base)]
        if subprocess.run([*command, "--epochs", "0", *extra], check=False).returncode:
            raise PodxError("podx train refuses the options after --: see what it said above")
    measured = Measured(out / f"measured-{mark}.json", threads)
    most = 2 * dataset.interaction_count + len(dataset.explanations["train"])
    strategies = []
    for name in NAMES:

        def memory(size: int, name: str = name) -> float | None:
            peak: float | None = measured.ask("peak_memory", data, base, name, size)
            return peak

        budget = asked.memory_gb * MEGABYTES_PER_GB
        largest, above, tried = search_largest(memory, budget, most, asked.closeness)
        if not largest:
            raise PodxError(f"{name}: not even one record fits into {asked.memory_gb:g} GB: give more --memory-gb")
        largest_of = {"name": name, "batch_size": largest, "peak_mb": tried[largest], "too_large": above}
        strategies.append({**largest_of, "probes": list(tried.items()), "rounds": []})
    for turn in range(asked.rounds):
        for strategy in strategies[:: 1 if turn % 2 == 0 else -1]:
            arguments = (strategy["name"], strategy["batch_size"], turn * asked.updates, asked.updates)
            strategy["rounds"].append(measured.ask("update_times", data, base, *arguments))
    options = {name: value for name, value in vars(asked).items() if name not in ("data", "out")}
    return {
        "environment": describe("cpu", threads),
        "options": options,
        "extra": list(extra),
        "dataset": dataset_facts(dataset, data),
        "strategies": strategies,
    }


def epoch_minutes(strategy: dict[str, Any]) -> list[float]:
    """Time of an epoch by each round: seconds per update times the updates of an epoch."""
    return [turn["seconds"] / turn["updates"] * turn["updates_per_epoch"] / SECONDS for turn in strategy["rounds"]]


def table(results: dict[str, Any]) -> TextTable:
    """Both beside the paper's rows."""
    rows = [(f"{row.name} (reported)", *[NONE] * 6, row.time_per_epoch, NONE) for row in TABLE_5]
    for strategy in results["strategies"]:
        rounds = strategy["rounds"]
        pads = sum(turn["pads"] for turn in rounds) / sum(turn["tokens"] for turn in rounds)
        rows.append(
            (
                NAMES[strategy["name"]],
                f"{strategy['batch_size']:,}",
                f"{strategy['peak_mb'] / MEGABYTES_PER_GB:.2f}",
                f"{strategy['too_large']:,}",
                *(f"{rounds[0][name]:,}" for name in ("updates_per_epoch", "records_per_epoch")),
                f"{PERCENT * pads:.1f} %",
                short(median(epoch_minutes(strategy))),
                short(THOUSAND * median(turn["seconds"] / turn["records"] for turn in rounds)),
            )
        )
    mixed, alternated = (epoch_minutes(strategy) for strategy in results["strategies"])
    times = median(slow / fast for slow, fast in zip(mixed, alternated, strict=True))
    notes = (
        f"Batch: the largest whose peak memory of the process stays within {results['options']['memory_gb']:g} GB. "
        "Updates, records: of an epoch. Padding: share of all tokens of the timed batches. S/1,000: seconds per 1,000 "
        "records. An epoch of alternated training repeats the smaller tasks, so compare the time of records as well.",
        f"Here sample-mixed training takes {times:.2f} times as long for an epoch; in the paper, on Sports, 3.9 times.",
    )
    header = ("batches", "batch", "peak GB", "too large", "updates", "records", "padding", "min/epoch", "s/1,000")
    return TextTable("Task-alternated and sample-mixed training (the paper's Table 5)", header, tuple(rows), notes)


def write(results: dict[str, Any], out: Path) -> None:
    """Write results, table and chart."""
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "study.json", json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    write_text(out / "report.md", markdown_table(table(results)))
    bars = [(NAMES[strategy["name"]], median(epoch_minutes(strategy))) for strategy in results["strategies"]]
    chart = bar_chart("Time of an epoch at the largest batch", "minutes", bars, [OTHER_COLOUR, OURS_COLOUR], short)
    write_text(out / "study.svg", chart)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; a podx error is one line on stderr."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    extra = given[given.index("--") + 1 :] if "--" in given else []
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="dataset folder")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--memory-gb", type=float, required=True, help="the most memory training may take, 10^9 bytes")
    parser.add_argument("--closeness", type=float, default=0.05, help="find the batch to within this share of itself")
    parser.add_argument("--updates", type=int, default=20, help="updates timed in each round")
    parser.add_argument("--rounds", type=int, default=3, help="turns of both ways")
    parser.add_argument("--threads", type=int, default=0, help="0: one per core")
    asked = parser.parse_args(given[: given.index("--")] if "--" in given else given)
    try:
        results = study(asked.data, asked.out, asked, extra)
    except PodxError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_CODE
    write(results, asked.out)
    print(markdown_table(table(results)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
