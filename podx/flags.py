"""Options declared once: as fields of a frozen dataclass, from which checks and command-line flags come.

A field made by :func:`option` has its default, its help and the range it must lie in. :func:`check` refuses what lies
outside, and :func:`with_flags` gives a command one flag for each field.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_type_hints

from podx.errors import ConfigError

_KEY = "option"
_Command = Callable[..., None]


@dataclass(frozen=True)
class Option:
    """What a field says of itself beside its type and default; see :func:`option`."""

    help: str
    panel: str | None
    flag: str | None
    choices: tuple[str, ...]
    least: float | None
    most: float | None
    above: float | None
    parse: Callable[[str], Any] | None
    required: bool


def option(
    default: Any,
    help: str,
    *,
    panel: str | None = None,
    flag: str | None = None,
    choices: Collection[str] = (),
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    parse: Callable[[str], Any] | None = None,
    required: bool = False,
) -> Any:
    """A field of a dataclass that is an option of a command too.

    Args:
        default: value of the field, and of the flag. A value of None is never checked.
        help: what ``--help`` says.
        panel: heading of ``--help`` under which the option stands.
        flag: name on the command line, or several with commas between, the first for messages; None: the field's.
        choices: the only values it may have.
        least, most: bounds, themselves included; of a tuple: of each value, and there must be one.
        above: a bound that is not included.
        parse: makes the value of the text that is given on the command line; None: the field's type does.
        required: the command line asks for it although the field has a default.
    """
    declared = Option(help, panel, flag, tuple(choices), least, most, above, parse, required)
    return dataclasses.field(default=default, metadata={_KEY: declared})


def declared(options: Any) -> Iterator[tuple[dataclasses.Field[Any], Option]]:
    """The fields of a dataclass, or of an instance, that :func:`option` made."""
    return ((field, field.metadata[_KEY]) for field in dataclasses.fields(options) if _KEY in field.metadata)


def flag_of(options: Any, name: str) -> str:
    """The flag of a field, such as ``--batch-size``."""
    flags = {field.name: option.flag for field, option in declared(options)}
    return (flags.get(name) or "--" + name.replace("_", "-")).partition(",")[0]


def check(options: Any) -> None:
    """Check every declared field of a dataclass instance; call it in ``__post_init__``.

    Raises:
        ConfigError: a value is not among the choices, or out of its bounds.
    """
    for field, option in declared(options):
        value, flag = getattr(options, field.name), flag_of(options, field.name)
        if value is None:
            continue
        if option.choices and value not in option.choices:
            raise ConfigError(f"unknown {flag} {value!r}: choose among {', '.join(option.choices)}")
        within, values = _bounds(option), value if isinstance(value, tuple) else (value,)
        if within and not (values and all(_inside(each, option) for each in values)):
            raise ConfigError(f"{flag} must {within}, not {value}")


def _inside(value: float, option: Option) -> bool:
    """Whether a number is within its bounds; NaN is not."""
    return (
        (option.least is None or value >= option.least)
        and (option.most is None or value <= option.most)
        and (option.above is None or value > option.above)
    )


def _bounds(option: Option) -> str:
    if option.least is not None and option.most is not None:
        return f"lie between {option.least} and {option.most}"
    if option.least is not None:
        return f"be at least {option.least}"
    if option.above is not None:
        return f"be above {option.above or 'zero'}"
    return "" if option.most is None else f"be at most {option.most}"


def with_flags(
    leave_out: Collection[str] = (), **classes: type
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a Typer command a flag for each declared field of dataclasses.

    ``with_flags(options=TrainOptions)`` replaces the command's parameter ``options`` by those flags. The command gets a
    dictionary there of the fields that were given on the command line, for example for ``TrainOptions(**options)``.

    Args:
        leave_out: fields that get no flag.
        classes: for each parameter to replace, the dataclass whose fields take its place.
    """

    def decorate(command: _Command) -> _Command:
        import typer  # here, so that the dataclasses can be used without it

        chosen = {
            parameter: {f.name: o.parse for f, o in declared(cls) if f.name not in leave_out}
            for parameter, cls in classes.items()
        }
        parameters = [inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)]
        for parameter in inspect.signature(command, eval_str=True).parameters.values():
            if parameter.name in classes:
                flags = _parameters(classes[parameter.name])
                parameters += [flags[name] for name in chosen[parameter.name]]
            else:
                parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

        @functools.wraps(command)
        def wrapper(ctx: Any, **values: Any) -> None:
            for parameter, parsers in chosen.items():
                of_class = {name: values.pop(name) for name in parsers}
                given = {n: v for n, v in of_class.items() if ctx.get_parameter_source(n).name != "DEFAULT"}
                values[parameter] = {n: parse(v) if (parse := parsers[n]) else v for n, v in given.items()}
            command(**values)

        wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return wrapper

    return decorate


def _parameters(cls: type) -> Mapping[str, inspect.Parameter]:
    """A Typer parameter for each declared field."""
    import typer

    kinds = get_type_hints(cls)
    result = {}
    for field, option in declared(cls):
        kind = kinds[field.name]
        names = (option.flag or flag_of(cls, field.name)).split(",") if option.flag or kind is bool else ()
        info = typer.Option(*names, help=option.help, rich_help_panel=option.panel)
        default = inspect.Parameter.empty if option.required else field.default
        if option.parse is not None:
            kind = str if field.default is not None else str | None
            default = ",".join(map(str, default)) if isinstance(default, tuple) else default
        result[field.name] = inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info]
        )
    return result
