"""The processor's instructions that decide how fast, and how exactly, 8-bit integers are multiplied."""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Set
from functools import cache
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")

X86_FLAGS = {
    "amx_int8": "AMX",
    "avx512_vnni": "AVX-512 VNNI",
    "avx_vnni": "AVX-VNNI",
    "avx512f": "AVX-512",
    "avx2": "AVX2",
}
"""Linux's name of each instruction set → ours, the one that ONNX Runtime prefers first."""

ARM_FLAGS = {"i8mm": "Arm i8mm", "asimddp": "Arm dot product"}

WINDOWS_FEATURES = {43: "Arm dot product", 41: "AVX-512", 40: "AVX2"}
"""Numbers of Windows' ``IsProcessorFeaturePresent``, which has none for VNNI and AMX."""

ARM_MACHINES = ("aarch64", "arm64", "ARM64")


@cache
def instruction_set() -> str:
    """Name of this processor's best instruction set for products of 8-bit integers, as ``AVX2`` or ``AVX-512 VNNI``.

    Where the system does not tell, the name of the architecture (``x86_64``).
    """
    if sys.platform == "linux" and CPU_INFO.is_file():
        return best_of(linux_flags(CPU_INFO.read_text(encoding="utf-8", errors="replace")))
    if sys.platform == "darwin" and platform.machine() in ARM_MACHINES:
        return "Arm dot product"  # every Arm processor of Apple's computers has it
    if sys.platform == "win32":
        present = ctypes.windll.kernel32.IsProcessorFeaturePresent
        return next((name for number, name in WINDOWS_FEATURES.items() if present(number)), platform.machine())
    return platform.machine()


def linux_flags(cpu_info: str) -> Set[str]:
    """Flags of the first processor in the text of ``/proc/cpuinfo``; none where it lists none."""
    for line in cpu_info.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return set(value.split())
    return set()


def best_of(flags: Set[str]) -> str:
    """The best instruction set among Linux's flags; the architecture's name where none of them is known."""
    known = {**X86_FLAGS, **ARM_FLAGS}
    return next((name for flag, name in known.items() if flag in flags), platform.machine())
