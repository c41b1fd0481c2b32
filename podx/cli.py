"""The command line. Sub-commands of the other parts are found by entry point and imported only when they are called."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from podx import __version__
from podx.errors import EXIT_CODE, DependencyError, PodxError
from podx.requests.types import Explanation, Recommendation

ENTRY_POINTS = "podx.commands"

# What the listing says of commands whose packages are not imported for it.
_SUMMARIES = {
    "data": "Prepare datasets from interactions, make a synthetic one, show statistics.  [podx\\[train]]",
    "train": "Train a POD model on a dataset folder.  [podx\\[train]]",
    "distill": "Train a smaller student of a checkpoint.  [podx\\[train]]",
    "import-pod": "Make a checkpoint from a model that POD's published code saved.  [podx\\[train]]",
    "export": "Export a checkpoint to a bundle of ONNX graphs.  [podx\\[export]]",
    "catalog": "Look at a bundle's catalogue, or change it without a new export.  [podx\\[export]]",
    "bench": "Benchmark a bundle against eager PyTorch: latency and accuracy; bench accuracy.  [podx\\[bench]]",
    "bench-service": "Throughput and latency against the number of clients that ask at once.  [podx\\[bench]]",
    "bench-certainty": "How often the answer is certain to be the model's best, and what that costs.  [podx\\[bench]]",
    "study": "Train and measure a sweep: k, batching, inference, heads.  [podx\\[bench]]",
    "bench-scale": "What the size of the catalogue costs: memory, loading, time of a step.  [podx\\[bench]]",
}
_EXTRAS = {
    "data": "train",
    "distill": "train",
    "import-pod": "train",
    "study": "bench",
    "catalog": "export",
    "bench-service": "bench",
    "bench-scale": "bench",
    "bench-certainty": "bench",
}

BundlePath = Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder that podx export wrote.")]
UserId = Annotated[str, typer.Option("--user", help="Raw user id.")]
Count = Annotated[int, typer.Option("-k", "--count", help="How many items.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
DeviceName = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
Threads = Annotated[int, typer.Option("--threads", help="Threads inside an operator; 0 = one per core.")]
UnknownUserName = Annotated[
    str, typer.Option("--unknown-user", help="error; nearest: read known users of a similar history instead.")
]


def _plugins() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


def _load_plugin(point: EntryPoint) -> Any:
    """The click command behind an entry point: a Typer app, or a function to be made one."""
    try:
        target = point.load()
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get(point.name, point.name)
        raise DependencyError(
            f"podx {point.name} needs {error.name}, which is not installed: pip install 'podx[{extra}]'"
        ) from error
    if not isinstance(target, typer.Typer):
        app = typer.Typer(add_completion=False)
        app.command(name=point.name)(target)
        target = app
    command = typer.main.get_command(target)
    command.name = point.name
    return command


class LazyGroup(TyperGroup):
    """A group that imports a plug-in's package only when its command is the one called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that is about to run: a plug-in is imported here."""
        point = _plugins().get(args[0])
        if point is None:
            return super().resolve_command(ctx, args)
        return point.name, _load_plugin(point), args[1:]

    def list_commands(self, ctx: Any) -> list[str]:
        """Own commands and plug-ins."""
        return [*super().list_commands(ctx), *_plugins()]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """For the listing, a plug-in's summary stands in for it."""
        point = _plugins().get(cmd_name)
        if point is None:
            return super().get_command(ctx, cmd_name)
        placeholder = typer.Typer(add_completion=False)
        placeholder.command(name=cmd_name, help=_SUMMARIES.get(cmd_name, point.value))(_nothing)
        command = typer.main.get_command(placeholder)
        command.name = cmd_name
        return command


def _nothing() -> None:
    """Body of a command that is only listed."""


app = typer.Typer(
    cls=LazyGroup,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train POD recommenders, export them to ONNX, benchmark them and serve them without torch.",
)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False) -> None:
    if version:
        typer.echo(__version__)
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
def recommend(
    bundle: BundlePath,
    user: UserId,
    history: Annotated[
        str | None, typer.Option("--history", help="Items, oldest first, separated by commas; default: the known ones.")
    ] = None,
    exclude: Annotated[str | None, typer.Option("--exclude", help="Items that must not come back.")] = None,
    allow: Annotated[str | None, typer.Option("--allow", help="The only items that may come back.")] = None,
    include_seen: Annotated[bool, typer.Option("--include-seen", help="Let items of the history come back.")] = False,
    keep_last: Annotated[
        bool, typer.Option("--keep-last", help="Read the last items of a history that is too long.")
    ] = False,
    unknown_user: UnknownUserName = "error",
    k: Count = 10,
    as_json: AsJson = False,
    device: DeviceName = "auto",
    threads: Threads = 0,
) -> None:
    """The items a user most likely turns to next."""
    from podx.recommender import load

    recommender = load(
        bundle,
        _device(device),
        threads=threads,
        long_history="keep-last" if keep_last else "error",
        unknown_user=_unknown_user(unknown_user),
    )
    answers = recommender.recommend(
        user, _split(history), k, _split(exclude) or (), _split(allow), exclude_seen=not include_seen
    )
    stood_in = {"known": "", "nearest": " (by the most similar known users)", "mean": " (of whom nothing is known)"}
    title = f"next for {user}{stood_in[answers.user]}"
    if as_json and stood_in[answers.user]:
        typer.echo(f"note: {title}", err=True)  # beside the JSON, which stays a list of items
    _show(title, answers, as_json)


@app.command()
def rank(
    bundle: BundlePath,
    user: UserId,
    candidates: Annotated[str, typer.Option("--candidates", help="Items to choose among, separated by commas.")],
    k: Count = 10,
    as_json: AsJson = False,
    device: DeviceName = "auto",
    threads: Threads = 0,
) -> None:
    """The best of some candidates for a user."""
    from podx.recommender import load

    recommender = load(bundle, _device(device), threads=threads)
    _show(f"best for {user}", recommender.rank(user, _split(candidates) or [], k), as_json)


@app.command()
def explain(
    bundle: BundlePath,
    user: UserId,
    item: Annotated[str, typer.Option("--item", help="Raw item id.")],
    diversity_penalty: Annotated[float, typer.Option("--diversity-penalty", help="0: one group of beams.")] = 0.0,
    as_json: AsJson = False,
    device: DeviceName = "auto",
    threads: Threads = 0,
) -> None:
    """One sentence on why an item suits a user."""
    from podx.decoding.options import TextSearchOptions
    from podx.recommender import load

    recommender = load(bundle, _device(device), threads=threads)
    answer: Explanation = recommender.explain(user, item, TextSearchOptions(diversity_penalty=diversity_penalty))
    typer.echo(json.dumps(asdict(answer), ensure_ascii=False) if as_json else answer.text)


@app.command()
def encode(
    bundle: BundlePath,
    requests: Annotated[
        Path,
        typer.Argument(metavar="REQUESTS.jsonl", help="A request per line, as JSON: user; history, or candidates; …"),
    ],
    out: Annotated[Path | None, typer.Option("--out", help="File to write; default: the standard output.")] = None,
    items: Annotated[
        Path | None, typer.Option("--items", help="File to write the raw ids of all items to; line n has item n.")
    ] = None,
    include_seen: Annotated[bool, typer.Option("--include-seen", help="Let items of the history come back.")] = False,
    keep_last: Annotated[
        bool, typer.Option("--keep-last", help="Read the last items of a history that is too long.")
    ] = False,
    unknown_user: UnknownUserName = "error",
) -> None:
    """Write requests as recommend.onnx reads them, for a service in any language."""
    from podx.bundle.bundle import Bundle
    from podx.requests.encoder import RequestEncoder
    from podx.requests.lines import encode_lines, item_lines, write_lines

    loaded = Bundle.load(bundle)
    encoder = RequestEncoder(loaded, "keep-last" if keep_last else "error", _unknown_user(unknown_user))
    encoded = encode_lines(requests, encoder, not include_seen)
    if out is not None:
        write_lines(out, encoded)
    else:
        for line in encoded:
            typer.echo(line)
    if items is not None:
        write_lines(items, item_lines(loaded.catalog.items))


def _device(name: str) -> Any:
    """Checked by the session, which knows what there is."""
    return name


def _unknown_user(name: str) -> Any:
    """Checked where it is used."""
    return name


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
