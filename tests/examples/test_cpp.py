"""``recommend_numbers.onnx`` run by the C++ example, built where a compiler and its libraries are."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

import pytest

from tests.examples.conftest import EXAMPLES, Case, assert_answers_as_podx, assert_bad_input_is_one_line, run

BUILD_TIME_LIMIT = 300.0
LIBRARY = "libonnxruntime.so"
JSON_HEADER = "nlohmann/json.hpp"
SYSTEM_INCLUDES = (Path("/usr/include"), Path("/usr/local/include"))


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> list[str | Path]:
    """The program, built."""
    cmake = shutil.which("cmake")
    if cmake is None or not any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))):
        pytest.skip("CMake or a C++ compiler is not installed")
    root = os.environ.get("ONNXRUNTIME_ROOT")
    if not root:
        pytest.skip("ONNXRUNTIME_ROOT names no folder with ONNX Runtime's headers")
    if not any((folder / JSON_HEADER).is_file() for folder in (Path(root) / "include", *SYSTEM_INCLUDES)):
        pytest.skip(f"{JSON_HEADER} lies neither in ONNXRUNTIME_ROOT/include nor in the system's folders")
    build = tmp_path_factory.mktemp("cpp")
    options = ["-DCMAKE_BUILD_TYPE=Release", f"-DONNXRUNTIME_ROOT={root}"]
    if not (Path(root) / "lib" / LIBRARY).exists():
        options.append(f"-DONNXRUNTIME_LIBRARY={_library_of_the_wheel(build / 'lib')}")
    run([cmake, "-S", EXAMPLES / "cpp", "-B", build, *options], BUILD_TIME_LIMIT)
    run([cmake, "--build", build], BUILD_TIME_LIMIT)
    return [build / "recommend"]


def _library_of_the_wheel(folder: Path) -> Path:
    """The Python package's library under the names by which a linker and a program look for it."""
    found = importlib.util.find_spec("onnxruntime")
    assert found is not None and found.origin is not None
    libraries = sorted((Path(found.origin).parent / "capi").glob(f"{LIBRARY}.*"))
    if not libraries:
        pytest.skip(f"neither ONNXRUNTIME_ROOT nor the onnxruntime package has {LIBRARY}")
    folder.mkdir()
    for name in (LIBRARY, f"{LIBRARY}.1"):
        (folder / name).symlink_to(libraries[0])
    return folder / LIBRARY


def test_cpp_answers_like_podx(case: Case, program: list[str | Path]) -> None:
    assert_answers_as_podx(case, program)


def test_cpp_says_what_is_wrong(case: Case, program: list[str | Path]) -> None:
    assert_bad_input_is_one_line(case, program)
