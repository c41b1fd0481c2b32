"""Which instruction set multiplies 8-bit integers, read off what the system says."""

from __future__ import annotations

import platform
import sys

import pytest

from podx.graphs import instruction_set as module
from podx.graphs.instruction_set import CPU_INFO, best_of, instruction_set, linux_flags

X86 = "processor\t: 0\nmodel name\t: a: b\nflags\t\t: fpu avx2 avx512f avx512_vnni\n\nprocessor\t: 1\nflags\t\t: fpu\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp\n"


def test_flags_are_the_first_processors() -> None:
    assert linux_flags(X86) == {"fpu", "avx2", "avx512f", "avx512_vnni"}
    assert linux_flags(ARM) == {"fp", "asimd", "asimddp"}
    assert linux_flags("processor : 0\n") == set()


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ({"avx2"}, "AVX2"),
        ({"avx2", "avx_vnni"}, "AVX-VNNI"),
        ({"avx2", "avx512f"}, "AVX-512"),
        ({"avx2", "avx512f", "avx512_vnni"}, "AVX-512 VNNI"),
        ({"avx2", "avx512f", "avx512_vnni", "amx_int8"}, "AMX"),
        ({"asimd", "asimddp"}, "Arm dot product"),
        ({"asimd", "asimddp", "i8mm"}, "Arm i8mm"),
        ({"fpu"}, platform.machine()),
    ],
)
def test_the_best_is_named(flags: set[str], name: str) -> None:
    assert best_of(flags) == name


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc/cpuinfo")
def test_this_machine_is_named_by_its_own_flags() -> None:
    assert instruction_set() == best_of(linux_flags(CPU_INFO.read_text()))


def test_apples_arm_computers_have_the_dot_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.sys, "platform", "darwin")
    monkeypatch.setattr(module.platform, "machine", lambda: "arm64")
    assert instruction_set.__wrapped__() == "Arm dot product"


def test_windows_is_asked_for_its_features(monkeypatch: pytest.MonkeyPatch) -> None:
    class Windows:
        class kernel32:  # noqa: N801
            IsProcessorFeaturePresent = staticmethod(lambda number: number in (40, 41))

    monkeypatch.setattr(module.sys, "platform", "win32")
    monkeypatch.setattr(module.ctypes, "windll", Windows, raising=False)
    assert instruction_set.__wrapped__() == "AVX-512"


def test_elsewhere_the_architecture_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.sys, "platform", "freebsd14")
    assert instruction_set.__wrapped__() == platform.machine()
