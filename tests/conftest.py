"""Fixtures that every test may use."""

from __future__ import annotations

import fcntl
import importlib
import os
import pkgutil
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import onnxruntime
import pytest

import podx
from podx.graphs import session

REPOSITORY = Path(__file__).resolve().parent.parent
TESTS = REPOSITORY / "tests"
EXPORT = ("catalog_update", "command_line", "cuda_graph", "export", "int8_products", "recommend_graph")
TRACED = (TESTS / "podx", *(TESTS / "export" / f"test_{name}.py" for name in EXPORT))
"""Tests whose coverage of ``podx/`` is measured. Tracing doubles the time of Python code, of torch's own as well."""


@contextmanager
def untraced() -> Iterator[None]:
    """Coverage, if it is measured at all, is not measured here."""
    try:
        from coverage import Coverage
    except ImportError:  # tests with the lowest versions do without
        yield
        return
    stopped = []
    while measured := Coverage.current():  # pytest-cov starts two in a process of xdist
        measured.stop()
        stopped.append(measured)
    try:
        yield
    finally:
        for measured in reversed(stopped):
            measured.start()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    for module in pkgutil.walk_packages(podx.__path__, "podx."):
        with suppress(ModuleNotFoundError):  # of an extra that is not installed
            importlib.import_module(module.name)  # its lines count; those of torch would only take longer
    with untraced():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    if any(item.path.is_relative_to(folder) for folder in TRACED):
        return (yield)
    with untraced():
        return (yield)


as_users_have_them = session._settings
"""Settings of the product's own graph sessions."""


def _quickly_opened(options: session.SessionOptions) -> onnxruntime.SessionOptions:
    settings = as_users_have_them(options)
    settings.enable_mem_reuse = False
    return settings


@pytest.fixture(scope="session", autouse=True)
def _graphs_open_quickly() -> Iterator[None]:
    """Graphs without a plan of which tensor takes whose memory: to make it is five sixths of opening a search graph.

    Processes that tests start and what asks for ``planned_memory`` open them as users do.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "_settings", _quickly_opened)
        yield


@pytest.fixture(scope="module")
def planned_memory() -> Iterator[None]:
    """Graphs are opened as users open them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "_settings", as_users_have_them)
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with the real interaction files and T5's sentencepiece model; it lies beside the checkout, if at all."""
    folder = Path(os.environ.get("PODX_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("the real data folder ../shared/data is not beside this checkout (or set PODX_SHARED_DATA)")
    return folder


MADE = "made"
"""Marks a folder that is complete."""


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that the first process to ask for it makes and all processes of this run of the tests read.

    Args:
        factory: pytest's own.
        name: of the folder, unique among all that are shared.
        make: writes into the empty folder it is given.
    """
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # each process has a folder of its own in it
    folder, marker = root / name, root / f"{name}.{MADE}"
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not marker.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            marker.touch()
    return folder
