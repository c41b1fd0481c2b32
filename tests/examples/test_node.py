"""``recommend_numbers.onnx`` run by Node.js: no Python, another build of ONNX Runtime, the same answers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.examples.conftest import EXAMPLES, Case, assert_answers_as_podx, assert_bad_input_is_one_line

NODE = EXAMPLES / "node"
RUNTIME = "onnxruntime-node"
MODULES = "node_modules"
INSTALL_TIME_LIMIT = 300.0
SHOWN = 300
"""Characters of what npm says."""


@pytest.fixture(scope="module")
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[str | Path]:
    """The command that runs the example, from a folder in which Node.js finds its package."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node.js is not installed")
    folder = tmp_path_factory.mktemp("node")
    for file in (*NODE.glob("*.mjs"), NODE / "package.json"):
        shutil.copy(file, folder)
    (folder / MODULES).symlink_to(_modules(request), target_is_directory=True)
    return [node, folder / "recommend.mjs"]


def _modules(request: pytest.FixtureRequest) -> Path:
    """A ``node_modules`` folder with the runtime: a named one, the example's own, or one kept in pytest's cache."""
    named = os.environ.get("PODX_NODE_MODULES")
    if named:
        assert (Path(named) / RUNTIME).is_dir(), f"PODX_NODE_MODULES={named} has no {RUNTIME}"
        return Path(named).resolve()
    if (NODE / MODULES / RUNTIME).is_dir():
        return NODE / MODULES
    version = json.loads((NODE / "package.json").read_text(encoding="utf-8"))["dependencies"][RUNTIME]
    cache = request.config.cache
    if cache is None:
        pytest.skip(f"{RUNTIME} is not installed, and pytest has no cache to put it in: name one in PODX_NODE_MODULES")
    kept = cache.mkdir(f"{RUNTIME}-{version}")
    if not (kept / MODULES).is_dir():
        _install(kept)
    return kept / MODULES


def _install(kept: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip(f"npm is not installed, which would fetch {RUNTIME}")
    partial = kept / "partial"
    shutil.rmtree(partial, ignore_errors=True)  # of an installation that was stopped
    partial.mkdir()
    for file in ("package.json", "package-lock.json"):
        shutil.copy(NODE / file, partial)
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1", "--loglevel=error"]
    environment = {**os.environ, "ONNXRUNTIME_NODE_INSTALL": "skip"}
    try:
        done = subprocess.run(
            command, cwd=partial, env=environment, capture_output=True, text=True, timeout=INSTALL_TIME_LIMIT
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm did not fetch {RUNTIME} in {INSTALL_TIME_LIMIT:.0f} s")
    if done.returncode != 0:
        said = " ".join(done.stderr.split())[:SHOWN]
        pytest.skip(f"npm cannot fetch {RUNTIME}: {said}")
    (partial / MODULES).rename(kept / MODULES)


def test_node_answers_like_podx(case: Case, program: list[str | Path]) -> None:
    assert_answers_as_podx(case, program)


def test_node_says_what_is_wrong(case: Case, program: list[str | Path]) -> None:
    assert_bad_input_is_one_line(case, program)


def test_the_lock_file_names_no_registry_and_the_version_that_is_asked_for() -> None:
    lock = json.loads((NODE / "package-lock.json").read_text(encoding="utf-8"))
    packages = lock["packages"]
    asked = json.loads((NODE / "package.json").read_text(encoding="utf-8"))["dependencies"]
    assert packages[f"{MODULES}/{RUNTIME}"]["version"] == asked[RUNTIME]
    assert all(package.get("integrity") for name, package in packages.items() if name)
    assert [name for name, package in packages.items() if "resolved" in package] == []
