"""Trains SASRec from the main environment: a process of the environment that has its library."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from podx.errors import ConfigError, PodxError
from podx_bench.peers.place import CHECKOUT

VARIABLE = "PODX_SASREC"
FOLDER = ".venv-sasrec"
COMMAND = "make peers-sasrec"
MODULE = "podx_bench.peers.sasrec"


def sasrec_interpreter() -> Path:
    """The Python that has RecTools: of the folder that ``PODX_SASREC`` names, or of ``.venv-sasrec`` in the checkout.

    Raises:
        ConfigError: there is no such environment.
    """
    python = Path(os.environ.get(VARIABLE) or CHECKOUT / FOLDER) / "bin" / "python"
    if not python.is_file():
        raise ConfigError(
            f"SASRec's environment is missing, there is no {python}: run `{COMMAND}` in the checkout, or set "
            f"{VARIABLE} to the folder of one"
        )
    return python


def run_sasrec(data: Path, out: Path, seed: int = 0, minutes: float = 12.0, threads: int = 1, *extra: str) -> Path:
    """Train SASRec on a dataset folder and write its answers for all test users.

    Its progress goes to this process's output.

    Args:
        out: the JSON file to write; it appears whole or not at all.
        minutes: at most so long is trained.
        extra: further options of ``python -m podx_bench.peers.sasrec``.

    Returns:
        ``out``.

    Raises:
        ConfigError: its environment is missing.
        PodxError: it failed; its own words stand above.
    """
    command = [str(sasrec_interpreter()), "-m", MODULE, str(data), "--out", str(out)]
    command += ["--seed", str(seed), "--minutes", str(minutes), "--threads", str(threads), *extra]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": str(threads)}, check=False)
    if done.returncode:
        raise PodxError(
            f"SASRec ended with status {done.returncode}: see what it printed above, or run `{COMMAND}` again if its "
            "environment is incomplete"
        )
    return out
