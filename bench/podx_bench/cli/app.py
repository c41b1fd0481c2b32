"""``podx bench``: measure a bundle against eager PyTorch; bench accuracy, serving, scale and exactness."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from podx_bench.cli.commands import accuracy, bench, exactness, scale, serving

DEFAULT = "BUNDLE"
"""Name of the command that needs none, in the listing alone: a folder may be called so, too."""


class DefaultGroup(TyperGroup):
    """A group that takes what does not begin with a sub-command's name as arguments of its default command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the default command in front, unless a sub-command or help is asked for."""
        named = bool(args) and args[0] != DEFAULT and args[0] in self.commands
        if not named and (not args or args[0] not in ctx.help_option_names):
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that is about to run; the default one goes by the group's own name in messages."""
        name, command, rest = super().resolve_command(ctx, args)
        return ("" if name == DEFAULT else name), command, rest

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """All of the default command's help, then the sub-commands."""
        default = self.commands[DEFAULT]
        default.format_help(default.context_class(default, info_name="", parent=ctx), formatter)
        super().format_help(ctx, formatter)


app = typer.Typer(cls=DefaultGroup, add_completion=False)
app.command(name=DEFAULT)(bench)
for command in (accuracy, serving, scale, exactness):
    app.command()(command)
