"""Sub-commands of the other packages: found by entry point, imported only when they are called.

A command is registered once, in the group ``podx.commands`` of ``pyproject.toml``: ``name = "module:object [extra]"``,
where the object is a Typer app or a function to be made one, and the extra is what has to be installed for it. What the
listing says of it is the first line of the module's docstring, which is read without importing the module.
"""

from __future__ import annotations

import ast
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from podx.errors import DependencyError

ENTRY_POINTS = "podx.commands"


class PluginGroup(TyperGroup):
    """A group that imports a plug-in's package only when its command is the one called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that is about to run: a plug-in is imported here."""
        point = _plugins().get(args[0])
        if point is None:
            return super().resolve_command(ctx, args)
        return point.name, _load(point), args[1:]

    def list_commands(self, ctx: Any) -> list[str]:
        """The group's own commands and plug-ins."""
        return [*super().list_commands(ctx), *_plugins()]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """For the listing: of a plug-in, a command that does nothing and has its summary."""
        point = _plugins().get(cmd_name)
        return super().get_command(ctx, cmd_name) if point is None else _as_command(cmd_name, _nothing, summary(point))


def _plugins() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


def _extra(point: EntryPoint) -> str:
    return next(iter(point.extras), point.name)


def _load(point: EntryPoint) -> Any:
    """The click command behind an entry point.

    Raises:
        DependencyError: something it needs is not installed.
    """
    try:
        target = point.load()
    except ModuleNotFoundError as error:
        raise DependencyError(
            f"podx {point.name} needs {error.name}, which is not installed: pip install 'podx[{_extra(point)}]'"
        ) from error
    return _as_command(point.name, target)


def _as_command(name: str, target: Any, summary: str | None = None) -> Any:
    if not isinstance(target, typer.Typer):
        app = typer.Typer(add_completion=False)
        app.command(name=name, help=summary)(target)
        target = app
    command = typer.main.get_command(target)
    command.name = name
    return command


def _nothing() -> None:
    """Body of a command that is only listed."""


def summary(point: EntryPoint) -> str:
    """What the listing says of a command: a sentence and the extra that it needs."""
    try:
        spec = find_spec(point.module)
    except ModuleNotFoundError:  # a package around it is not there
        spec = None
    if spec is None or spec.origin is None:
        return point.value
    docstring = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8")))
    if docstring is None:
        return point.value
    sentence = docstring.partition("\n")[0].removeprefix(f"``podx {point.name}``: ")
    return f"{sentence[:1].upper()}{sentence[1:]}  [podx\\[{_extra(point)}]]"
