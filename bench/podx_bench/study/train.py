"""One training of a study: ``podx train`` in a process of its own, which a later call goes on with where it ended."""

from __future__ import annotations

import fcntl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from podx.errors import ConfigError
from podx_bench.harness.record_file import RecordFile

RUN_FILE = RecordFile("run.json", "podx-study-run", 1, "podx study")
CHECKPOINT_FOLDER, LOG_FILE, LOCK_FILE = "checkpoint", "train.log", "lock"
FINISHED, CUT, WAITING, FAILED = "finished", "cut short", "not begun", "failed"
"""How a training stands: the budget ended within it, or before it."""
PODX = (sys.executable, "-c", "from podx.cli import main; main()")
HEARTBEAT_S = 5.0
"""How often the time spent is written down, for a training that is killed with the study."""
LEAST_MINUTES = 0.1
OUT_OF_TIME = "time was up"
"""What podx train says when --max-minutes ended it."""
SAID_CHARACTERS = 400
SECONDS = 60.0


@dataclass(frozen=True)
class Outcome:
    """How a training stands. ``seconds``: spent on it so far, loading included; ``said``: why it failed."""

    state: str
    seconds: float
    said: str = ""


def outcome_of(folder: Path) -> Outcome:
    """How the training of a folder stands.

    Raises:
        DataError: the folder's file is damaged.
    """
    path = folder / RUN_FILE.name
    if not path.exists():
        return Outcome(WAITING, 0.0)
    content = RUN_FILE.read(path)
    return Outcome(FINISHED if content["finished"] else CUT, float(content["seconds"]))


def run_training(
    folder: Path,
    data: Path,
    arguments: Sequence[str],
    minutes: float | None,
    seconds_left: float,
    environment: Mapping[str, str],
) -> Outcome:
    """Begin a training or go on with it, unless it is finished.

    Args:
        folder: of this training alone.
        arguments: of podx train, but those that every study sets.
        minutes: the most that it takes, over all calls; None: no limit.
        seconds_left: of the study's budget; infinity: no limit.
    """
    before = outcome_of(folder)
    if before.state == FINISHED or seconds_left <= 0:
        return before
    budget = seconds_left / SECONDS
    own = float("inf") if minutes is None else max(LEAST_MINUTES, minutes - before.seconds / SECONDS)
    command = _command(folder, data, arguments, min(budget, own))
    folder.mkdir(parents=True, exist_ok=True)

    def keep(seconds: float, finished: bool = False) -> None:
        content: dict[str, Any] = {"arguments": list(arguments), "finished": finished, "seconds": seconds}
        RUN_FILE.write(folder, content)

    with alone(folder) as lock:
        status, said, spent = run_logged(
            command, folder / LOG_FILE, environment, lambda more: keep(before.seconds + more), (lock,)
        )
    seconds = before.seconds + spent
    if status != 0:
        return Outcome(FAILED, seconds, said[-SAID_CHARACTERS:].strip())
    if OUT_OF_TIME in " ".join(said.split()) and budget < own:  # the budget ended it, not its own limit
        return Outcome(CUT, seconds)
    keep(seconds, finished=True)
    return Outcome(FINISHED, seconds)


def _command(folder: Path, data: Path, arguments: Sequence[str], minutes: float) -> list[str]:
    """What trains for so many minutes, infinity for no limit."""
    limit = [] if minutes == float("inf") else ["--max-minutes", f"{minutes:.4f}"]
    checkpoint = str(folder / CHECKPOINT_FOLDER)
    return [*PODX, "train", str(data), "--out", checkpoint, "--resume", *limit, *arguments]


@contextmanager
def alone(folder: Path) -> Iterator[int]:
    """Hold a folder's lock; gives its descriptor. A process that keeps it open holds the lock, too.

    Raises:
        ConfigError: a training of an earlier call still runs, though the study that began it was killed.
    """
    with (folder / LOCK_FILE).open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(f"a training still runs in {folder}: stop it, or wait until it ends") from error
        yield file.fileno()


def run_logged(
    command: Sequence[str],
    log: Path,
    environment: Mapping[str, str],
    beat: Callable[[float], None] = lambda _: None,
    descriptors: Sequence[int] = (),
) -> tuple[int, str, float]:
    """Run a command, all that it says added to a log; its status, what it said, and the seconds it took.

    Args:
        beat: told now and then how many seconds it has run.
        descriptors: open files that it keeps open.
    """
    started = time.monotonic()
    with log.open("ab") as file:
        first = file.seek(0, 2)
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            pass_fds=descriptors,
        )
        try:
            while True:
                beat(time.monotonic() - started)
                try:
                    status = process.wait(HEARTBEAT_S)
                    break
                except subprocess.TimeoutExpired:
                    continue
        except BaseException:
            process.terminate()
            process.wait()
            raise
    seconds = time.monotonic() - started
    beat(seconds)
    return status, log.read_bytes()[first:].decode("utf-8", errors="replace"), seconds
