"""Options declared once: a frozen dataclass whose fields carry their flag, help, default and check.

    @dataclass(frozen=True)
    class ServingOptions(CheckedOptions):
        requests: Annotated[int, Flag("Requests of each turn.", least=1)] = 256

Making one checks it; :func:`with_options` makes a command line of it; msgspec reads and writes it as JSON.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_type_hints

import typer

from podx.errors import ConfigError


@dataclass(frozen=True)
class Flag:
    """A field's place on the command line, and what it may be.

    Attributes:
        help: one sentence.
        name: as ``-k,--count``; empty: the field's name with dashes.
        least: smallest value; above: a bound that the value exceeds. Of a tuple: of each of its values.
        choices: the values there are; empty: any.
        parse: makes the value of the text on the command line; None: typer does, by the field's type.
    """

    help: str
    name: str = ""
    least: float | None = None
    above: float | None = None
    choices: tuple[str, ...] = ()
    parse: Callable[[str], Any] | None = None

    def check(self, name: str, value: Any) -> None:
        """Refuse a value that is not allowed; None is.

        Raises:
            ConfigError: with the flag's name and what is allowed.
        """
        values = value if isinstance(value, tuple) else (value,)
        if self.least is not None and not values:
            raise ConfigError(f"{name} needs one or more numbers of at least {self.least:g}")
        for one in values:
            if one is None:
                continue
            if self.choices and one not in self.choices:
                raise ConfigError(f"{name} must be one of {', '.join(self.choices)}, not {str(one)!r}")
            if self.least is not None and one < self.least:
                raise ConfigError(f"{name} must be at least {self.least:g}, not {one}")
            if self.above is not None and not one > self.above:
                raise ConfigError(f"{name} must be above {self.above:g}, not {one}")


@dataclass(frozen=True)
class CheckedOptions:
    """Options whose flags are checked when they are made."""

    def __post_init__(self) -> None:
        """Check every flag.

        Raises:
            ConfigError: a value is not allowed.
        """
        for field, _, flag in _flags(type(self)):
            flag.check(flag_name(flag, field.name), getattr(self, field.name))


def flag_name(flag: Flag, field: str) -> str:
    """The flag as a user writes it, for messages."""
    return flag.name.partition(",")[0] or f"--{field.replace('_', '-')}"


def with_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function with a parameter of :class:`CheckedOptions` as one that takes a flag for each of its fields."""
    signature = inspect.signature(function)
    hints = get_type_hints(function, include_extras=True)
    place, kind = next((name, hint) for name, hint in hints.items() if _is_options(hint))
    parameters = [
        parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in signature.parameters.items()
        if name != place
    ]
    flags = list(_flags(kind))
    parameters += [_parameter(*one) for one in flags]

    @functools.wraps(function)
    def command(**given: Any) -> Any:
        values = {}
        for field, _, flag in flags:
            value = given.pop(field.name)
            values[field.name] = flag.parse(value) if flag.parse and value is not None else value
        return function(**given, **{place: kind(**values)})

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _is_options(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, CheckedOptions)


def _flags(kind: type) -> Iterator[tuple[dataclasses.Field[Any], Any, Flag]]:
    """Each field that has a flag: the field, its type, the flag."""
    hints = get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        parts = get_args(hints[field.name])
        flag = next((part for part in parts if isinstance(part, Flag)), None)
        if flag is not None:
            yield field, parts[0], flag


def _parameter(field: dataclasses.Field[Any], kind: Any, flag: Flag) -> inspect.Parameter:
    """A command's parameter of a field."""
    default = None if field.default is dataclasses.MISSING else field.default
    if flag.parse is not None:
        kind = str if default is not None else str | None
        default = ",".join(map(str, default)) if isinstance(default, tuple) else default and str(default)
    name = flag_name(flag, field.name)
    names = flag.name.split(",") if flag.name else [f"{name}/--no-{name[2:]}" if kind is bool else name]
    option = typer.Option(*names, help=flag.help)
    missing = field.default is dataclasses.MISSING
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        annotation=Annotated[kind, option],
        default=inspect.Parameter.empty if missing else default,
    )
