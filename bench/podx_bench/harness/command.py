"""Running a function as a command of its own, errors told as ``podx`` tells them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import typer

from podx.errors import EXIT_CODE, PodxError


def run_command(function: Callable[..., Any]) -> None:
    """Call ``function`` with what stands on the command line; a podx error is one line on stderr and exit status 2."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(function)
    try:
        app()
    except PodxError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(EXIT_CODE) from None
