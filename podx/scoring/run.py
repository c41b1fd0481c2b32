"""A whole run: a folder of parts that appear one by one, and a mark when all are there."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

import podx
from podx.atomic import write_bytes, write_text
from podx.bundle.bundle import Bundle
from podx.errors import ConfigError, DataError
from podx.flags import check, option
from podx.recommender import DEFAULT_K
from podx.scoring.engines import Done, Part, Work, by_ray, import_ray, in_processes, in_this_process
from podx.scoring.scorer import ERROR, LISTS
from podx.text.batches import DEFAULT_BATCH_SIZE

PART_USERS = 2_048
LOCAL, RAY = "local", "ray"
JOB_FILE, SUCCESS_FILE = "_job.json", "_SUCCESS"
"""Readers of Parquet folders leave out what begins with an underline. The latter is there once all parts are."""

LOADING = {"device": "auto", "long_history": "error", "unknown_user": "error"}
"""Defaults of :func:`podx.load` on which lists depend."""

Progress = Callable[[int, int], object]
"""Told how many users are finished, and of how many."""


@dataclass(frozen=True)
class ScoreOptions:
    """What lists are made, and where.

    Raises:
        ConfigError: a number is out of range.
    """

    k: int = option(DEFAULT_K, "Items per user.", flag="-k,--count", least=1)
    include_seen: bool = option(False, "Let items of the history come back.", flag="--include-seen")
    batch_size: int = option(DEFAULT_BATCH_SIZE, "Users that a graph is run for at once.", least=1)
    part_users: int = option(PART_USERS, "Users of a part of the output; what a killed run loses at most.", least=1)
    engine: str = option(LOCAL, "local: this machine; ray: by Ray Data, see RAY_ADDRESS.", choices=(LOCAL, RAY))
    workers: int = option(0, "Processes or actors of --threads cores; 0: one process, as many actors as fit.", least=0)

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Scored:
    """What a run did.

    Attributes:
        users: in the whole output; errors: those of them who have an error in place of a list.
        made, seconds: users of this run, and its time with the loading of the bundle.
    """

    users: int
    errors: int
    made: int
    seconds: float


def score(
    bundle: str | Path,
    out: str | Path,
    users: str | Path | None = None,
    options: ScoreOptions | None = None,
    resume: bool = False,
    progress: Progress = lambda _done, _of: None,
    **loading: Any,
) -> Scored:
    """Write everybody's list as a folder of Parquet files.

    Each file appears whole. A run that was ended, however, and went on with ``resume`` leaves the files of one that was
    not, byte for byte.

    Args:
        bundle: the folder. out: the folder to write.
        users: Parquet file, or folder of such, with a column ``user`` and where wanted ``history``, ``exclude``,
            ``allow``, as :class:`podx.scoring.Scorer` reads them; None: all users of the bundle.
        resume: go on with what another run left in ``out``, if any.
        progress: told of each few batches or parts.
        loading: ``device``, ``threads``, ``long_history``, ``unknown_user`` of :func:`podx.load`.

    Raises:
        DataError: the users cannot be read, or ``out`` holds something else than the beginning of this run.
        BundleError: the bundle does not load. ConfigError: an option is out of range.
        ScoringError: a worker was ended. DependencyError: the engine is not installed.
    """
    start, options, out = time.monotonic(), options or ScoreOptions(), Path(out)
    asked = {"k": options.k, "exclude_seen": not options.include_seen, "batch_size": options.batch_size}
    work = Work(
        bundle=Path(bundle).absolute(),
        version=Bundle.load(Path(bundle)).version,
        users=None if users is None else Path(users).absolute(),
        part_users=options.part_users,
        scorer={**asked, **loading},
    )
    source = work.open_users()
    job = {"podx": podx.__version__, "bundle": work.version, "users": source.digest, "part_users": options.part_users}
    job |= asked | LOADING | {name: value for name, value in loading.items() if name != "threads"}
    with _folder(out, job, resume):
        parts = [_Place(number, out, options.part_users, source.rows) for number in range(_parts(source.rows, options))]
        missing = [part for part in parts if not part.path.exists()]
        made = sum(part.users for part in missing)
        finished = source.rows - made

        def done(more: int) -> None:
            nonlocal finished
            finished += more
            progress(finished, source.rows)

        done(0)
        if missing:
            for part in _made(work, [part.number for part in missing], options, done):
                write_bytes(parts[part.number].path, part.content)
        write_bytes(out / SUCCESS_FILE, b"")
        errors = sum(part.errors for part in parts)
    return Scored(source.rows, errors, made, time.monotonic() - start)


@dataclass(frozen=True)
class _Place:
    """Where a part is, and who is in it."""

    number: int
    folder: Path
    part_users: int
    rows: int

    @property
    def path(self) -> Path:
        return self.folder / f"part-{self.number:05d}.parquet"

    @property
    def users(self) -> int:
        return min(self.part_users, self.rows - self.number * self.part_users)

    @property
    def errors(self) -> int:
        """Rows with an error, by the statistics at the end of the file."""
        footer, column = pq.read_metadata(self.path), LISTS.get_field_index(ERROR)
        groups = [footer.row_group(group).column(column) for group in range(footer.num_row_groups)]
        return sum(group.num_values - group.statistics.null_count for group in groups if group.num_values)


def _parts(rows: int, options: ScoreOptions) -> int:
    """How many; of nobody there is one, so that readers find the columns."""
    return max(1, -(-rows // options.part_users))


def _made(work: Work, missing: list[int], options: ScoreOptions, done: Done) -> Iterator[Part]:
    """The parts, as the chosen engine finishes them.

    Raises:
        ConfigError: there are too few cores.
    """
    given = work.scorer.get("threads", 0)
    if options.engine == LOCAL:
        workers = options.workers or 1
        if workers == 1:
            return in_this_process(work, missing, done)
        cores = len(os.sched_getaffinity(0))
        return in_processes(work.with_threads(given or max(1, cores // workers)), missing, workers, done)
    cores = int(import_ray().cluster_resources().get("CPU", 0))
    threads = given or (max(1, cores // options.workers) if options.workers else 1)
    workers = options.workers or max(1, cores // threads)
    if workers * threads > cores:
        raise ConfigError(f"{workers} --workers of {threads} --threads need {workers * threads} cores, Ray has {cores}")
    return by_ray(work.with_threads(threads), missing, min(workers, len(missing)), done)


@contextmanager
def _folder(out: Path, job: dict[str, Any], resume: bool) -> Iterator[None]:
    """The output, which nobody else writes to meanwhile.

    Raises:
        DataError: it holds something else than the beginning of this run, or another process writes to it.
    """
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file: choose another folder to write to")
    out.mkdir(parents=True, exist_ok=True)
    handle = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _begin(out, job, resume)
        yield
    except BlockingIOError as error:
        raise DataError(f"another podx score writes to {out}: wait for its end, or choose another folder") from error
    finally:
        os.close(handle)


def _begin(out: Path, job: dict[str, Any], resume: bool) -> None:
    """Note down what is made here, or see that it is the same."""
    path = out / JOB_FILE
    if not any(not entry.name.startswith(".") for entry in out.iterdir()):  # hidden: what a killed run left
        write_text(path, json.dumps(job, indent=1) + "\n")
        return
    if not resume:
        raise DataError(f"{out} is not empty: choose another folder, or go on with what is there with --resume")
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{out} holds nothing that podx score began ({error}): choose another folder") from error
    for name in [*job, *before]:
        if before.get(name) != job.get(name):
            raise DataError(
                f"the lists in {out} were begun with {name} {before.get(name)}, not {job.get(name)}: "
                "go on with the same bundle, users and options, or choose another folder"
            )
