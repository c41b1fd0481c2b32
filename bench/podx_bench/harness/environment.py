"""What a run was made on: hardware and versions, but neither names of machines nor paths."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

import podx
from podx.graphs.instruction_set import instruction_set
from podx_bench.harness.options import usable_cores

PACKAGES = ("torch", "transformers", "onnxruntime", "onnxruntime-gpu", "numpy", "sentencepiece")
GIGABYTE = 1e9
_QUERY_TIMEOUT_S = 20.0


def describe(device: str, threads: int) -> dict[str, Any]:
    """The environment of a run, as JSON values.

    Args:
        device: that is measured, ``cpu`` or ``cuda``.
        threads: of every engine; 0: one per usable core.
    """
    return {
        "cpu": _cpu_model(),
        "instruction_set": instruction_set(),
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "memory_gb": round(psutil.virtual_memory().total / GIGABYTE, 1),
        "gpu": _gpu(),
        "device": device,
        "threads": threads or usable_cores(),
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "podx": podx.__version__,
        "podx_commit": _commit(),
        "packages": {name: number for name in PACKAGES if (number := _version(name)) is not None},
    }


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _said(command: list[str]) -> str | None:
    """What a command prints, or None where it is missing or fails."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_QUERY_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _gpu() -> str | None:
    said = _said(["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"])
    return said.replace("\n", "; ") if said else None


def _commit() -> str | None:
    """Commit of the checkout that podx runs from, marked where files differ from it; None outside a checkout."""
    folder = Path(podx.__file__).parent
    git = ["git", "-C", str(folder)]
    tracked = _said([*git, "ls-files", "--error-unmatch", str(Path(podx.__file__))])
    commit = _said([*git, "rev-parse", "HEAD"]) if tracked else None
    if commit is None:
        return None
    return f"{commit}, with changes" if _said([*git, "status", "--porcelain", "--untracked-files=no"]) else commit
