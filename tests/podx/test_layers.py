"""Who may import whom: packages, rooms of a package, modules; and the runtime stands without torch.

A *room* is a folder or a module at the top of a package. It imports only rooms that stand before it in :data:`ROOMS`.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
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
ROOMS = {
    "podx": (
        "errors flags atomic metrics text bundle hub requests decoding graphs snapshot recommender serving podx "
        "plugins cli scoring server"
    ),
    "podx_train": "console data codes model checkpoint batches options users training eager published cli",
    "podx_export": "blocks search verify card catalog pipeline layouts cli",
    "podx_bench": "harness pages workload peers engines latency accuracy run serving scale exactness report cli",
}
"""Rooms of each package, in order; ``podx`` is the package's own ``__init__.py``."""
MOST_MODULES = 13
"""In a folder, beside ``__init__.py``."""
ONE_PASS_LINES = 1_870
"""What one-pass models brought (training and its start, export, search and its speed); the rest keeps its limit."""
SERVICE_LINES = 450
"""What a service needs beside answers: one snapshot of a bundle, another under way, limits, deadlines."""
GPU_LINES = 40
"""Engines in 16 bits and without a CUDA graph, and warm-ups of every size."""
SERVER_LINES = 1_475
"""``podx serve``: routes of two protocols, limits, keys, metrics, its end."""
CAMPAIGN_LINES = 1_080
"""Nine campaigns that drive ``podx serve`` from outside, in place of 314 lines that timed ``podx.Batcher`` within."""
TEXT_LINES = 390
"""Step graphs of texts that give the best tokens and keep a row of the cache for each beam, which tokens explanations
are made of, and batches divided among threads."""
SCORE_LINES = 830
"""Added by lists for everybody: podx score, its users, its parts, three engines, and going on."""
LAYOUT_LINES = 1_440
"""Added by what others load: the layout for transformers with its fast tokenizer and its comparison from text to
scores, the model repository for Triton (its configuration, and which release runs the graph), the card, the hub."""
NUMBERS_LINES = 500
"""Added by graphs that take item numbers."""
CERTAIN_LINES = 580
"""Added by searches that widen until they are certain, and by the ceiling that lets them be certain early."""
OPENVINO_LINES = 140
"""Added to the bench by engines that run podx's own graph and the plain T5 in OpenVINO."""
ONE_USER_LINES = 120
"""Huge pages, ids that are remembered, bf16 on Arm, and a filter for items of one token."""
BASELINE_LINES = 60
"""Added to the bench by rows of eager attention, and to the encoder by leaving padding out."""
MOST_LINES = (
    23_500
    + SCORE_LINES
    + LAYOUT_LINES
    + NUMBERS_LINES
    + CERTAIN_LINES
    + ONE_USER_LINES
    + BASELINE_LINES
    + OPENVINO_LINES
    + ONE_PASS_LINES
    + SERVICE_LINES
    + GPU_LINES
    + SERVER_LINES
    + CAMPAIGN_LINES
    + TEXT_LINES
)
MOST_LINES_OF_BENCH = 6_700 + GPU_LINES + CAMPAIGN_LINES + OPENVINO_LINES
"""Of all four packages, and of the bench: what is longer than that, nobody reads as a whole."""
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


def module_name(package: str, path: Path) -> str:
    """The dotted name that a file is imported by."""
    parts = path.relative_to(PACKAGES[package].parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def module_imports() -> dict[str, set[str]]:
    """Which modules of the four packages each of them imports, wherever the import stands."""
    sources = {module_name(package, path): path for package in ARROW for path in modules(package)}
    known = set(sources)
    return {
        name: imported_modules(path.read_text(encoding="utf-8"), known) - {name}  # a script imports itself by its name
        for name, path in sources.items()
    }


def imported_modules(source: str, known: set[str]) -> set[str]:
    """Those of the known modules that a file names in an import."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= inner & known
            if not inner <= known:  # a name of the module itself
                found.add(node.module)
    return found & known


def root(module: str) -> str:
    """The package that a module belongs to."""
    return module.partition(".")[0]


def room(module: str) -> str:
    """The room that a module stands in."""
    package, _, inside = module.partition(".")
    return inside.partition(".")[0] or package


def against_the_order(package: str, imports: dict[str, set[str]]) -> list[str]:
    """Imports from a room that stands later, or of or by a room that has no place in the order."""
    place = {name: number for number, name in enumerate(ROOMS[package].split())}
    return [
        f"{module} imports {target}"
        for module, targets in sorted(imports.items())
        for target in sorted(targets)
        if root(module) == root(target) == package and place.get(room(target), len(place)) > place.get(room(module), -1)
    ]


def circle(imports: dict[str, set[str]]) -> list[str]:
    """Modules that import one another in a ring; none where there is no ring."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def imported_roots(source: str) -> set[str]:
    """First part of every module that a file imports, wherever the import stands."""
    roots = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            roots |= {root(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            roots.add(root(node.module))
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


@pytest.mark.parametrize("package", ARROW)
def test_no_import_goes_against_the_order_of_the_rooms(package: str) -> None:
    wrong = against_the_order(package, module_imports())
    assert wrong == []
    rooms = {room(module_name(package, path)) for path in modules(package)}
    assert set(ROOMS[package].split()) - {package} == rooms - {package}, "rooms that are declared and rooms there are"


def test_no_modules_import_one_another_in_a_ring() -> None:
    assert circle(module_imports()) == []


def test_the_checks_of_rooms_see_what_they_look_for() -> None:
    known = {"podx.text", "podx.text.inputs", "podx.bundle.trie"}
    source = "def f():\n    from podx.text import inputs\nfrom podx.bundle.trie import ROOT\nimport numpy"
    assert imported_modules(source, known) == {"podx.text.inputs", "podx.bundle.trie"}
    backwards = {
        "podx.text.inputs": {"podx.bundle.trie"},
        "podx.bundle.trie": {"podx.errors"},
        "podx.attic": {"podx.text"},
    }
    wrong = ["podx.attic imports podx.text", "podx.text.inputs imports podx.bundle.trie"]
    assert against_the_order("podx", backwards) == wrong
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) != [] and circle({"a": {"b"}, "b": set()}) == []


@pytest.mark.parametrize("package", ARROW)
def test_a_folder_holds_few_modules(package: str) -> None:
    counts = Counter(path.parent for path in modules(package) if path.name != "__init__.py")
    crowded = {str(folder.relative_to(REPOSITORY)): count for folder, count in counts.items() if count > MOST_MODULES}
    assert crowded == {}


def test_the_packages_stay_short_enough_to_be_read() -> None:
    lines = {package: sum(len(path.read_bytes().splitlines()) for path in modules(package)) for package in ARROW}
    assert sum(lines.values()) <= MOST_LINES, lines
    assert lines["podx_bench"] <= MOST_LINES_OF_BENCH


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
    assert not {"numpy", "msgspec", "onnxruntime", "sentencepiece", "typer", "rich"} & set(loaded)
