"""Who may import whom: podx <- podx_train <- podx_export <- podx_bench, and the runtime stands without torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = {
    "podx": REPOSITORY / "podx",
    "podx_train": REPOSITORY / "train" / "podx_train",
    "podx_export": REPOSITORY / "export" / "podx_export",
    "podx_bench": REPOSITORY / "bench" / "podx_bench",
}
ARROW = list(PACKAGES)
NEVER_IN_THE_RUNTIME = {
    "torch",
    "transformers",
    "onnx",
    "accelerate",
    "safetensors",
    "polars",
    "matplotlib",
    "peft",
    "sklearn",
}

BLOCKER = """
import sys
BLOCKED = {blocked!r}
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ImportError(f"{{name}} is blocked in this test")
sys.meta_path.insert(0, Blocker())
"""


def imported_roots(source: str) -> set[str]:
    """First part of every module that a file imports, wherever the import stands."""
    roots = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            roots |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            roots.add(node.module.partition(".")[0])
    return roots


def forbidden_in(package: str) -> set[str]:
    later = set(ARROW[ARROW.index(package) + 1 :])
    return later | NEVER_IN_THE_RUNTIME if package == "podx" else later


def modules(package: str) -> Iterator[Path]:
    return PACKAGES[package].rglob("*.py")


@pytest.mark.parametrize("package", ARROW)
def test_no_import_goes_against_the_arrow(package: str) -> None:
    wrong = {
        str(path.relative_to(REPOSITORY)): sorted(roots)
        for path in modules(package)
        if (roots := imported_roots(path.read_text(encoding="utf-8")) & forbidden_in(package))
    }
    assert wrong == {}
    assert any(True for _ in modules(package)), f"no modules of {package} were found"


def test_the_walk_sees_imports_in_functions_too() -> None:
    assert imported_roots("def f():\n    import torch.nn\n    from podx_train import model") == {"torch", "podx_train"}
    assert forbidden_in("podx_export") == {"podx_bench"}


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_podx_imports_without_any_heavy_package() -> None:
    blocked = {*NEVER_IN_THE_RUNTIME, "onnxruntime"}
    code = BLOCKER.format(blocked=blocked) + "import podx; print(sorted(BLOCKED & set(sys.modules)), podx.__version__)"
    assert run_python(code).startswith("[] 0.")


def test_the_runtime_imports_without_torch() -> None:
    code = BLOCKER.format(blocked=NEVER_IN_THE_RUNTIME)
    code += "import podx; print(podx.load.__module__, sorted(BLOCKED & set(sys.modules)))"
    assert run_python(code).split() == ["podx.recommender", "[]"]


def test_without_onnxruntime_the_command_that_installs_it_is_printed() -> None:
    code = BLOCKER.format(blocked={"onnxruntime"})
    code += "import podx\ntry:\n    podx.load\nexcept podx.PodxError as error:\n    print(type(error).__name__, error)"
    output = run_python(code)
    assert output.startswith("DependencyError") and "pip install 'podx[cpu]'" in output


def test_unknown_names_are_no_attributes() -> None:
    import podx

    with pytest.raises(AttributeError, match="no attribute 'recommendations'"):
        _ = podx.recommendations


def test_every_public_name_is_there() -> None:
    import podx

    assert [name for name in podx.__all__ if not hasattr(podx, name)] == []


def test_import_is_quick(capsys: pytest.CaptureFixture[str]) -> None:
    """The time is printed, not compared (a busy machine would fail it); what costs time must not be loaded."""
    code = (
        "import sys, time; start = time.perf_counter(); import podx; print(time.perf_counter() - start, *sys.modules)"
    )
    seconds, *loaded = run_python(code).split()
    with capsys.disabled():
        print(f"\nimport podx takes {float(seconds):.3f} s in a fresh interpreter")
    assert not {"numpy", "onnxruntime", "sentencepiece", "typer", "rich"} & set(loaded)
