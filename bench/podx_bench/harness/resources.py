"""Time and memory: how they are taken, and how time is told."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import psutil

T = TypeVar("T")
MILLISECONDS = 1e3
SECONDS = 60.0
"""Of these there are so many in a second, and in a minute."""
MEGABYTE = 1e6
KIBIBYTE = 1024


def peak_rss_mb() -> float:
    """Most memory this process has held so far, MB (10^6 bytes), loading included."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what the parent held when it forked
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * KIBIBYTE / MEGABYTE
    if sys.platform == "win32":
        return float(psutil.Process().memory_info().peak_wset) / MEGABYTE
    import resource

    unit = 1 if sys.platform == "darwin" else KIBIBYTE
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MEGABYTE


def resident_mb() -> float:
    """Resident memory of this process now, mapped pages that were looked at included; MB (10^6 bytes)."""
    return float(psutil.Process().memory_info().rss) / MEGABYTE


def timed(call: Callable[[], T]) -> tuple[T, float]:
    """What a call returns, and how many milliseconds it took."""
    start = time.perf_counter()
    result = call()
    return result, (time.perf_counter() - start) * MILLISECONDS


def about(seconds: float) -> str:
    """A length of time in words, no more exact than it is known."""
    minutes = seconds / SECONDS
    if minutes < 1:
        return "less than a minute"
    return f"about {minutes:.0f} minute{'s' if round(minutes) > 1 else ''}"
