"""The papers' ablations: ``python bench/studies/sweep.py k|heads|inference DATA --out OUT [-- TRAIN-OPTIONS]``.

    k           number of prompt vectors (POD, Figure 4)
    heads       PeaPOD's attention heads, and its model without the tasks' prompt vectors
    inference   one training with the discrete template kept at inference and dropped (POD, Table 6)

Every value is trained by ``podx train``, exported by ``podx export`` and measured as ``podx bench accuracy`` does; the
report in OUT has tables and charts of all of them. What stands after ``--`` goes to every training, as
``-- --preset mini --max-minutes 15``. Stopped and called again, it goes on where it was: trainings with ``--resume``,
bundles and measurements by what is there.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from podx.errors import EXIT_CODE, ConfigError, PodxError
from podx_bench.accuracy.options import AccuracyOptions, ModelInput, slug
from podx_bench.accuracy.records import AccuracyResults
from podx_bench.accuracy.report import write_accuracy
from podx_bench.accuracy.run import run_accuracy
from podx_bench.harness.record_file import digest_of
from podx_train.model.config import DEFAULT_USER_HEADS

PODX = (sys.executable, "-c", "from podx.cli import main; main()")
DEFAULT_VALUES = {"k": (1, 3, 5, 10, 20, 50), "heads": (0, 1, 2, 4, 8), "inference": ()}
PEAPOD = ("--method", "peapod")
SET_HERE = {
    "k": ("--prompts",),
    "heads": ("--method", "--user-heads", "--prompts"),
    "inference": (),
}
"""Options of podx train that the values of a study set, beside --out and --resume."""


@dataclass(frozen=True)
class Point:
    """One value of a sweep. ``train``, ``export``: the options of podx train and podx export that make it."""

    label: str
    train: tuple[str, ...] = ()
    export: tuple[str, ...] = ()


def points(study: str, values: Sequence[int]) -> list[Point]:
    """What a study varies; points with the same ``train`` share one training."""
    if study == "k":
        return [Point(f"K = {value}", ("--prompts", str(value))) for value in values]
    if study == "heads":
        heads = str(DEFAULT_USER_HEADS)
        named = [(f"{value} heads" if value else "0 heads (MLP)", str(value)) for value in values]
        ablation = Point(f"{heads} heads, no task prompts", (*PEAPOD, "--user-heads", heads, "--prompts", "0"))
        return [*(Point(name, (*PEAPOD, "--user-heads", value)) for name, value in named), ablation]
    return [Point("template kept", export=("--inference", "discrete")), Point("template dropped")]


def bundle_of(point: Point, data: Path, out: Path, extra: Sequence[str]) -> ModelInput:
    """A point's bundle, trained and exported where it is not there yet."""
    folder = out / "runs" / slug(" ".join(["run", *point.train, digest_of(list(extra))]))
    bundle = folder / slug(" ".join(["bundle", *point.export]))
    if not bundle.exists():
        checkpoint = str(folder / "checkpoint")
        _podx("train", str(data), "--out", checkpoint, "--resume", *extra, *point.train)
        _podx("export", checkpoint, "--out", str(bundle), *point.export)
    return ModelInput(point.label, bundle, data)


def _podx(*arguments: str) -> None:
    print(f"podx {' '.join(arguments)}", flush=True)
    status = subprocess.run([*PODX, *arguments], check=False).returncode
    if status:
        raise PodxError(f"podx {arguments[0]} ended with status {status}: see what it said above, then call again")


def run(
    study: str, data: Path, out: Path, values: Sequence[int], options: AccuracyOptions, extra: Sequence[str]
) -> AccuracyResults:
    """Train, export and measure every value, and draw the report.

    Raises:
        ConfigError: an option after ``--`` is the study's to set. PodxError: a training or an export failed.
    """
    given = {text.partition("=")[0] for text in extra}
    taken = [name for name in ("--out", "--resume", *SET_HERE[study]) if name in given]
    if taken:
        raise ConfigError(f"{', '.join(taken)} after -- conflicts with the study, which sets it: leave it out")
    models = [bundle_of(point, data, out, extra) for point in points(study, values)]
    results = run_accuracy(models, (), out, options, print)
    print(f"report: {write_accuracy(results, out)}")
    return results


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; a podx error is one line on stderr."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    extra = given[given.index("--") + 1 :] if "--" in given else []
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=DEFAULT_VALUES)
    parser.add_argument("data", type=Path, help="dataset folder")
    parser.add_argument("--out", type=Path, required=True, help="folder for runs, measurements and the report")
    parser.add_argument("--values", type=int, nargs="+", help="numbers of prompt vectors, or of heads")
    parser.add_argument("--users", type=int, help="test users of every ranking task; default: all")
    parser.add_argument("--timed-users", type=int, default=192, help="users that all bundles are timed on; 0: none")
    parser.add_argument("--threads", type=int, default=0, help="of measuring; 0: one per core")
    asked = parser.parse_args(given[: given.index("--")] if "--" in given else given)
    try:
        options = AccuracyOptions(
            users=asked.users,
            topn_users=asked.users,
            explanation_records=asked.users,
            unconstrained_users=0,
            threads=asked.threads,
            timed_users=asked.timed_users,
        )
        run(asked.study, asked.data, asked.out, asked.values or DEFAULT_VALUES[asked.study], options, extra)
    except PodxError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_CODE
    return 0


if __name__ == "__main__":
    sys.exit(main())
