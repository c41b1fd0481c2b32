"""Sub-commands of other packages: registered once, listed without being imported, loaded when they are called."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from podx import plugins
from podx.errors import DependencyError
from podx.plugins import ENTRY_POINTS, PluginGroup, summary

MODULE = '''"""``podx greet``: say hello.

More that is not listed.
"""
import a_package_that_is_not_there
'''


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    """Of a command line with two plug-ins, one of which cannot be imported."""
    (tmp_path / "greeting_plugin.py").write_text(MODULE)
    (tmp_path / "adding_plugin.py").write_text("def add(left: int, right: int) -> None:\n    print(left + right)\n")
    monkeypatch.syspath_prepend(tmp_path)
    points = [
        EntryPoint("greet", "greeting_plugin:greet [train]", ENTRY_POINTS),
        EntryPoint("add", "adding_plugin:add", ENTRY_POINTS),
    ]
    monkeypatch.setattr(plugins, "entry_points", lambda group: points)
    return CliRunner()


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer(cls=PluginGroup, add_completion=False)
    app.callback()(lambda: None)
    app.command(name="own")(lambda: print("built in"))
    return app


def test_the_listing_imports_nothing(runner: CliRunner, app: typer.Typer) -> None:
    listing = runner.invoke(app, ["--help"]).output
    assert "greet" in listing and "Say hello." in listing and "podx[train]" in listing
    assert "adding_plugin:add" in listing, "a module without a docstring is named"
    assert "greeting_plugin" not in sys.modules and "adding_plugin" not in sys.modules


def test_a_plug_in_is_called(runner: CliRunner, app: typer.Typer) -> None:
    assert runner.invoke(app, ["add", "2", "3"]).output == "5\n"
    assert runner.invoke(app, ["own"]).output == "built in\n"


def test_a_missing_package_is_named_with_the_command_that_installs_it(runner: CliRunner, app: typer.Typer) -> None:
    error = runner.invoke(app, ["greet"]).exception
    assert isinstance(error, DependencyError)
    assert str(error) == (
        "podx greet needs a_package_that_is_not_there, which is not installed: pip install 'podx[train]'"
    )


@pytest.mark.parametrize("target", ["nowhere:at_all", "nowhere.inside:at_all"])
def test_a_plug_in_that_is_not_there_is_listed_by_its_name(target: str) -> None:
    assert summary(EntryPoint("lost", target, ENTRY_POINTS)) == target
