"""Memory of this process."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil

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
