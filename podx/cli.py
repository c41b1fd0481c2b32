"""The command line: what the runtime itself can do, and a place for the sub-commands of the other packages."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

import podx
from podx.errors import EXIT_CODE, PodxError
from podx.flags import option, with_flags
from podx.plugins import PluginGroup
from podx.requests.types import Recommendation

BundlePath = Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder that podx export wrote.")]
UserId = Annotated[str, typer.Option("--user", help="Raw user id.")]
Count = Annotated[int, typer.Option("-k", "--count", help="How many items.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
History = Annotated[
    str | None, typer.Option("--history", help="Items, oldest first, separated by commas; default: the known ones.")
]
IncludeSeen = Annotated[bool, typer.Option("--include-seen", help="Let items of the history come back.")]


@dataclass(frozen=True)
class LoadFlags:
    """Flags of every command that loads a bundle's graphs; arguments of :func:`podx.load`, which checks them."""

    device: str = option("auto", "auto, cpu or cuda.")
    threads: int = option(0, "Threads inside an operator; 0 = one per core.")
    arm_bf16: bool = option(False, "On an Arm processor, compute products of fp32 in bf16.", flag="--arm-bf16")


@dataclass(frozen=True)
class ReadingFlags:
    """Flags of every command that reads histories."""

    keep_last: bool = option(False, "Read the last items of a history that is too long.", flag="--keep-last")
    unknown_user: str = option("error", "error; nearest: read known users of a similar history instead.")


def reading_arguments(given: dict[str, Any]) -> dict[str, Any]:
    """Those flags as arguments of :func:`podx.load`."""
    long_history = "keep-last" if given.pop("keep_last", False) else "error"
    return {"long_history": long_history, **given}


app = typer.Typer(
    cls=PluginGroup,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train POD recommenders, export them to ONNX, benchmark them and serve them without torch.",
)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False) -> None:
    if version:
        typer.echo(podx.__version__)
        raise typer.Exit


def _split(ids: str | None) -> list[str] | None:
    return None if ids is None else [part.strip() for part in ids.split(",") if part.strip()]


def _show(title: str, answers: Sequence[Recommendation], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps([asdict(answer) for answer in answers], ensure_ascii=False))
        return
    table = Table(title=Text(title))  # Text: a "[" in an id is no markup
    table.add_column("#", justify="right")
    table.add_column("item", overflow="fold")
    table.add_column("score", justify="right")
    for place, answer in enumerate(answers, start=1):
        table.add_row(str(place), Text(answer.item), f"{answer.score:.4f}")
    Console().print(table)


@app.command()
@with_flags(reading=ReadingFlags, load=LoadFlags)
def recommend(
    bundle: BundlePath,
    user: UserId,
    history: History = None,
    exclude: Annotated[str | None, typer.Option("--exclude", help="Items that must not come back.")] = None,
    allow: Annotated[str | None, typer.Option("--allow", help="The only items that may come back.")] = None,
    include_seen: IncludeSeen = False,
    reading: Any = None,
    k: Count = 10,
    as_json: AsJson = False,
    load: Any = None,
) -> None:
    """The items a user most likely turns to next."""
    recommender = podx.load(bundle, **load, **reading_arguments(reading), tasks=["sequential"])
    answers = recommender.recommend(
        user, _split(history), k, _split(exclude) or (), _split(allow), exclude_seen=not include_seen
    )
    notes = {"known": "", "nearest": " (by the most similar known users)", "mean": " (of whom nothing is known)"}
    title = f"next for {user}{notes[answers.user]}"
    if as_json and notes[answers.user]:
        typer.echo(f"note: {title}", err=True)  # beside the JSON, which stays a list of items
    _show(title, answers, as_json)


@app.command()
@with_flags(reading=ReadingFlags, load=LoadFlags)
def rank(
    bundle: BundlePath,
    user: UserId,
    candidates: Annotated[str, typer.Option("--candidates", help="Items to choose among, separated by commas.")],
    history: History = None,
    reading: Any = None,
    k: Count = 10,
    as_json: AsJson = False,
    load: Any = None,
) -> None:
    """The best of some candidates for a user."""
    recommender = podx.load(bundle, **load, **reading_arguments(reading), tasks=["topn"])
    answers = recommender.rank(user, _split(candidates) or [], k, history=_split(history))
    _show(f"best for {user}", answers, as_json)


@app.command()
@with_flags(search=podx.TextSearchOptions, load=LoadFlags)
def explain(
    bundle: BundlePath,
    user: UserId,
    item: Annotated[str, typer.Option("--item", help="Raw item id.")],
    as_json: AsJson = False,
    search: Any = None,
    load: Any = None,
) -> None:
    """One sentence on why an item suits a user."""
    options = podx.TextSearchOptions(**search)
    answer = podx.load(bundle, **load, tasks=["explanation"]).explain(user, item, options)
    typer.echo(json.dumps(asdict(answer), ensure_ascii=False) if as_json else answer.text)


@app.command()
def ids(
    bundle: BundlePath,
    items: Annotated[
        Path | None, typer.Option("--items", help="File to write; line n has the raw id of item n.")
    ] = None,
    users: Annotated[Path | None, typer.Option("--users", help="The same of users.")] = None,
) -> None:
    """Write raw ids in the order of their numbers, for services in other languages (recommend_numbers.onnx)."""
    from podx.bundle.bundle import Bundle
    from podx.bundle.id_lines import write_ids

    loaded = Bundle.load(bundle)
    for path, table, what in ((items, loaded.catalog.items, "item"), (users, loaded.users.ids, "user")):
        if path is not None:
            write_ids(path, table, what)


@app.command()
def push(
    bundle: BundlePath,
    name: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Model on the Hugging Face Hub.")],
    private: Annotated[bool, typer.Option("--private", help="If it is made now, show it to its owner alone.")] = False,
    message: Annotated[str | None, typer.Option("--message", help="Of the commit; default: the version.")] = None,
) -> None:
    """Write a bundle and its card to the Hugging Face Hub."""
    from podx.hub import push_bundle

    typer.echo(push_bundle(bundle, name, private, message))


def main() -> None:
    """Run the command line; what a user can cause is told on stderr without a traceback, with exit status 2."""
    try:
        app()
    except PodxError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error}: check that the path is right, that you may read and write there, and that the disk has room")


def _fail(message: str) -> NoReturn:
    Console(stderr=True, soft_wrap=True).print(Text.assemble(("error: ", "bold red"), message))
    raise SystemExit(EXIT_CODE) from None
