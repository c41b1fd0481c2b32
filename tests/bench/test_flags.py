"""Options declared once: as a command line, as checks, as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import msgspec
import pytest
import typer
from typer.testing import CliRunner

from podx.errors import ConfigError
from podx.text.templates import Task, parse_tasks
from podx_bench.harness.flags import CheckedOptions, Flag, with_options
from podx_bench.options import parse_numbers


@dataclass(frozen=True)
class Options(CheckedOptions):
    """One field of each kind."""

    minutes: Annotated[float, Flag("No default.", above=0)]
    sizes: Annotated[tuple[int, ...], Flag("Sizes.", least=1, parse=partial(parse_numbers, flag="--sizes"))] = (1, 32)
    tasks: Annotated[tuple[Task, ...] | None, Flag("Tasks.", parse=parse_tasks)] = None
    k: Annotated[int, Flag("Answers.", "-k,--count", least=1)] = 10
    spin: Annotated[bool, Flag("Spin.")] = False
    device: Annotated[str, Flag("Device.", choices=("cpu", "cuda"))] = "cpu"
    most_users: Annotated[int | None, Flag("Users.", least=1)] = None


def run(arguments: list[str]) -> tuple[Path, Options]:
    """What a command line makes of its arguments."""
    given: list[tuple[Path, Options]] = []

    def command(folder: Annotated[Path, typer.Argument(help="A folder.")], options: Options) -> None:
        """A command."""
        given.append((folder, options))

    app = typer.Typer()
    app.command()(with_options(command))
    CliRunner().invoke(app, arguments, catch_exceptions=False)
    return given[0]


def test_flags_make_options() -> None:
    assert run(["f", "--minutes", "2"]) == (Path("f"), Options(2.0))
    words = [
        "f",
        "--minutes",
        "2",
        "--sizes",
        "8,4",
        "--tasks",
        "topn",
        "-k",
        "3",
        "--spin",
        "--device",
        "cuda",
        "--most-users",
        "5",
    ]
    assert run(words)[1] == Options(2.0, (4, 8), (Task.TOPN,), 3, True, "cuda", 5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"minutes": 0}, "--minutes must be above 0, not 0"),
        ({"sizes": (0, 4)}, "--sizes must be at least 1, not 0"),
        ({"sizes": ()}, "--sizes needs one or more"),
        ({"k": 0}, "-k must be at least 1"),
        ({"device": "tpu"}, "--device must be one of cpu, cuda, not 'tpu'"),
        ({"most_users": 0}, "--most-users must be at least 1"),
    ],
)
def test_what_is_not_allowed_is_refused_by_name(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Options(**{"minutes": 1.0, **wrong})  # type: ignore[arg-type]


def test_options_read_back_from_json() -> None:
    options = Options(1.5, tasks=(Task.TOPN,))
    assert msgspec.json.decode(msgspec.json.encode(options), type=Options) == options
