"""Commands of the bench on the terminal: how wide they print, how far they are, and how errors are told."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console

from podx.errors import EXIT_CODE, PodxError
from podx_bench.harness.child import Tell

TABLE_WIDTH = 150
"""Characters that the widest table takes, and so the width where output does not go to a terminal."""
TELL_SECONDS = 60.0
"""Time between two lines of progress where output does not go to a terminal."""


def plain_lines() -> Tell:
    """Progress for a log file: a line on stderr now and then."""
    last = float("-inf")

    def tell(text: str) -> None:
        nonlocal last
        if time.monotonic() - last >= TELL_SECONDS:
            last = time.monotonic()
            print(text, file=sys.stderr, flush=True)

    return tell


@contextmanager
def telling(what: str, width: int = TABLE_WIDTH) -> Iterator[tuple[Console, Tell]]:
    """The terminal, or plain text of so many characters; and progress beside a spinner, or as lines on stderr."""
    console = Console()
    if not console.is_terminal:
        yield Console(width=width), plain_lines()
        return
    with console.status(what) as status:
        yield console, status.update


def run_command(function: Callable[..., Any]) -> None:
    """Call ``function`` with what stands on the command line; a podx error is one line on stderr and exit status 2."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(function)
    try:
        app()
    except PodxError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(EXIT_CODE) from None
