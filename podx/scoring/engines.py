"""Where parts are made: in this process, in several, or by Ray. All run :class:`PartMaker` and give the same bytes."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from itertools import islice
from multiprocessing.connection import wait as wait_for_end
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from podx.bundle.bundle import Bundle
from podx.errors import BundleError, DependencyError, PodxError, ScoringError
from podx.scoring.scorer import Scorer
from podx.scoring.users import KnownUsers, UserFiles

COMPRESSION = "zstd"
Done = Callable[[int], object]
"""Told how many more users are finished."""


class Part(NamedTuple):
    """A part that is finished: its number, how many users are in it, and the Parquet file that it is."""

    number: int
    users: int
    content: bytes


@dataclass(frozen=True)
class Work:
    """What a process needs to know to make parts.

    Attributes:
        bundle, version: the folder, and what it held when the work was begun.
        users: Parquet file or folder; None: all users of the bundle.
        part_users: users of a part, but of the last one.
        scorer: arguments of :class:`Scorer`.
    """

    bundle: Path
    version: str
    users: Path | None
    part_users: int
    scorer: dict[str, Any] = field(default_factory=dict)

    def with_threads(self, threads: int) -> Work:
        """The same, so many threads in each process."""
        return replace(self, scorer={**self.scorer, "threads": threads})

    def open_users(self) -> KnownUsers | UserFiles:
        """Who gets a list."""
        if self.users is None:
            return KnownUsers(Bundle.load(self.bundle, verify=False).users, self.part_users)
        return UserFiles(self.users, self.part_users)


class PartMaker:
    """Makes parts, each the same whoever makes it.

    Raises:
        BundleError: the bundle is another one by now.
    """

    def __init__(self, work: Work) -> None:
        self._scorer = Scorer(work.bundle, **work.scorer)
        if self._scorer.version != work.version:
            raise BundleError(
                f"{work.bundle} holds bundle {self._scorer.version}, the work was begun with {work.version}: "
                "put that one back, or begin anew in another folder"
            )
        self._users = work.open_users()

    def __call__(self, number: int, done: Done = lambda _: None) -> Part:
        """A part. ``done``: is told after each batch how many users were finished."""
        users, sink = self._users.part(number), pa.BufferOutputStream()
        pq.write_table(self._scorer(users, done), sink, compression=COMPRESSION)
        return Part(number, len(users), sink.getvalue().to_pybytes())


def in_this_process(work: Work, parts: Iterable[int], done: Done) -> Iterator[Part]:
    """One after the other."""
    make = PartMaker(work)
    return (make(number, done) for number in parts)


# --- several processes of this machine ----------------------------------------------------------------------------

_work: Work
_make: PartMaker | None = None


def _begin(work: Work) -> None:
    """In a new process, which ends with the one that began it; at Ctrl-C that one kills it."""
    global _work
    _work = work
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for_end([parent.sentinel])
        os._exit(1)


def _made(number: int) -> Part:
    global _make
    if _make is None:  # not in _begin, whose errors nobody sees
        _make = PartMaker(_work)
    return _make(number)


def in_processes(work: Work, parts: Iterable[int], workers: int, done: Done) -> Iterator[Part]:
    """By processes of this machine, as they are finished.

    Raises:
        ScoringError: one of them was killed.
    """
    others = set(multiprocessing.active_children())
    numbers, waiting = iter(parts), set[Future[Part]]()
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin, (work,))
    try:
        waiting |= {pool.submit(_made, number) for number in islice(numbers, 2 * workers)}  # so that none waits
        while waiting:
            finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            waiting |= {pool.submit(_made, number) for number in islice(numbers, len(finished))}
            for part in (future.result() for future in finished):
                done(part.users)
                yield part
    except BrokenProcessPool as error:
        raise ScoringError(
            "a worker process was killed, perhaps because memory ran out: go on with --resume, and with fewer --workers"
        ) from error
    finally:
        for process in set(multiprocessing.active_children()) - others:
            process.kill()
        pool.shutdown(wait=True, cancel_futures=True)


# --- Ray ----------------------------------------------------------------------------------------------------------

NUMBER, MADE = "number", "made"


class _RayMaker:
    """An actor of Ray Data: numbers of parts in; parts out as bytes, or our own errors, which Ray would change."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._make: PartMaker | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes]]:
        return {MADE: [pickle.dumps(self._made(number)) for number in batch[NUMBER].tolist()]}

    def _made(self, number: int) -> Part | PodxError:
        try:
            self._make = self._make or PartMaker(self._work)
            return self._make(number)
        except PodxError as error:
            return error


def by_ray(work: Work, parts: Iterable[int], workers: int, done: Done) -> Iterator[Part]:
    """By an actor pool of Ray Data, on this machine or on the cluster of ``RAY_ADDRESS``, as they are finished.

    Bundle and users are read by every actor: their paths must be good on every machine.

    Args:
        workers: actors, each with the cores of its threads, and with a GPU where one is asked for.

    Raises:
        DependencyError: Ray is not installed.
        ScoringError: it gave up.
    """
    ray = import_ray()
    ray.data.DataContext.get_current().enable_progress_bars = False
    numbers = [{NUMBER: number} for number in parts]
    made = ray.data.from_items(numbers, override_num_blocks=len(numbers)).map_batches(
        _RayMaker,
        fn_constructor_args=(work,),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=work.scorer["threads"],
        num_gpus=int(work.scorer.get("device") == "cuda"),
    )
    try:
        for row in made.iter_rows():
            part = pickle.loads(row[MADE])
            if isinstance(part, PodxError):
                raise part
            done(part.users)
            yield part
    except ray.exceptions.RayError as error:
        raise ScoringError(f"Ray gave up ({error}): mend what it says and go on with --resume") from error


def import_ray() -> Any:
    """Ray, begun.

    Raises:
        DependencyError: it is not installed. ScoringError: it does not begin.
    """
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        raise DependencyError(
            f"--engine ray needs {error.name}, which is not installed: pip install 'podx[ray]'"
        ) from error
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    if not ray.is_initialized():
        try:
            ray.init(logging_level=logging.WARNING, log_to_driver=False)
        except (OSError, RuntimeError, ValueError) as error:
            raise ScoringError(f"Ray cannot be reached ({error}): see to RAY_ADDRESS and its access token") from error
    return ray
