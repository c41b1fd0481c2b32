"""What a run was made on: hardware and versions, but neither names of machines nor paths."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

import podx
from podx.graphs.instruction_set import CPU_INFO, instruction_set
from podx_bench.harness.options import usable_cores

PACKAGES = ("torch", "transformers", "onnxruntime", "onnxruntime-gpu", "numpy", "sentencepiece")
_GPU_QUERY = ("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
_QUERY_TIMEOUT_S = 20.0


def describe(device: str, threads: int) -> dict[str, Any]:
    """The environment of a run, as JSON values.

    Args:
        device: that is measured, ``cpu`` or ``cuda``.
        threads: of every engine; 0: one per usable core.
    """
    packages = {}
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            packages[name] = version(name)
    return {
        "cpu": _cpu_model(),
        "instruction_set": instruction_set(),
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "gpu": (_said(*_GPU_QUERY) or "").replace("\n", "; ") or None,
        "device": device,
        "threads": threads or usable_cores(),
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "podx": podx.__version__,
        "podx_commit": _commit(),
        "packages": packages,
    }


def _cpu_model() -> str:
    text = CPU_INFO.read_text(encoding="utf-8", errors="replace") if CPU_INFO.exists() else ""
    model = re.search(r"^model name\s*:\s*(.*\S)", text, re.MULTILINE)
    return model[1] if model else platform.processor() or platform.machine()


def _said(*command: str) -> str | None:
    """What a command prints, or None where it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_QUERY_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _commit() -> str | None:
    """Commit of the checkout that podx runs from, marked where files differ from it; None outside a checkout."""
    file = Path(podx.__file__)
    git = ("git", "-C", str(file.parent))
    commit = _said(*git, "rev-parse", "HEAD") if _said(*git, "ls-files", "--error-unmatch", str(file)) else None
    changed = commit and _said(*git, "status", "--porcelain", "--untracked-files=no")
    return f"{commit}, with changes" if changed else commit
