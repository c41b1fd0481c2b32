from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import pytest
import typer
from typer.testing import CliRunner

from podx.errors import ConfigError
from podx.flags import check, flag_of, option, with_flags


@dataclass(frozen=True)
class Baking:
    loaves: int = option(2, "How many loaves.", panel="Oven", least=1)
    degrees: float | None = option(None, "Degrees; default: as the recipe says.", above=0)
    flour: str = option("rye", "Kind of flour.", choices=("rye", "wheat"))
    share: float = option(0.5, "Share of flour.", least=0, most=1)
    most_minutes: int = option(60, "Minutes at most.", flag="--minutes", most=90)
    seeds: tuple[str, ...] | None = option(None, "Separated by commas.", parse=lambda text: tuple(text.split(",")))
    salted: bool = option(False, "With salt.")
    baker: str | None = option(None, "Who bakes.", required=True)
    sizes: tuple[int, ...] = option(
        (1, 32), "Sizes.", flag="-s,--sizes", least=1, parse=lambda text: tuple(map(int, text.split(",")))
    )
    crust: bool = option(True, "With crust.", flag="--crust/--no-crust")
    notes: str = "no option"

    def __post_init__(self) -> None:
        check(self)


def run(*arguments: str) -> tuple[Any, dict[str, Any]]:
    calls: list[dict[str, Any]] = []

    @with_flags(options=Baking, leave_out={"share"})
    def bake(
        oven: Annotated[str, typer.Argument()],
        options: Mapping[str, Any],
        quick: Annotated[bool, typer.Option("--quick")] = False,
    ) -> None:
        """Bake bread."""
        calls.append({"oven": oven, "options": options, "quick": quick})

    app = typer.Typer()
    app.command()(bake)
    result = CliRunner(env={"COLUMNS": "100", "TERM": "dumb"}).invoke(app, list(arguments))
    return result, calls[0] if calls else {}


def test_the_command_gets_what_was_given_alone() -> None:
    result, call = run("hot", "--loaves", "2", "--minutes", "5", "--seeds", "a,b", "--salted", "--baker", "me")
    assert result.exit_code == 0, result.output
    given = {"loaves": 2, "most_minutes": 5, "seeds": ("a", "b"), "salted": True, "baker": "me"}
    assert call == {"oven": "hot", "options": given, "quick": False}
    assert Baking(**call["options"]).degrees is None


def test_flags_may_have_several_names() -> None:
    _, call = run("hot", "--baker", "me", "-s", "8,4", "--no-crust")
    assert call["options"] == {"baker": "me", "sizes": (8, 4), "crust": False}
    assert run("hot", "--baker", "me", "--sizes", "8")[1]["options"]["sizes"] == (8,)
    assert "[default: 1,32]" in run("--help")[0].output


def test_help_has_panels_defaults_and_no_left_out_field() -> None:
    help_text = run("--help")[0].output
    assert "─ Oven ─" in help_text and "[default: rye]" in help_text and "--minutes" in help_text
    assert "--most-minutes" not in help_text and "--share" not in help_text and "--no-salted" not in help_text
    assert "--notes" not in help_text and "Bake bread." in help_text


def test_required_flags_and_types_are_asked_for() -> None:
    assert run("hot")[0].exit_code == 2
    assert run("hot", "--baker", "me", "--loaves", "many")[0].exit_code == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loaves": 0}, "--loaves must be at least 1, not 0"),
        ({"degrees": 0.0}, "--degrees must be above zero, not 0.0"),
        ({"degrees": float("nan")}, "--degrees must be above zero, not nan"),
        ({"flour": "oat"}, "unknown --flour 'oat': choose among rye, wheat"),
        ({"share": 1.5}, "--share must lie between 0 and 1, not 1.5"),
        ({"most_minutes": 91}, "--minutes must be at most 90, not 91"),
        ({"sizes": (4, 0)}, "-s must be at least 1, not (4, 0)"),
        ({"sizes": ()}, "-s must be at least 1, not ()"),
    ],
)
def test_values_out_of_bounds_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        Baking(**options)
    assert str(error.value) == message


def test_options_read_back_from_json() -> None:
    options = Baking(sizes=(8,), seeds=("a",))
    assert msgspec.json.decode(msgspec.json.encode(options), type=Baking) == options


def test_names_of_flags() -> None:
    assert (flag_of(Baking, "most_minutes"), flag_of(Baking(), "loaves")) == ("--minutes", "--loaves")
