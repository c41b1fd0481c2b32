"""Read a pickle that someone else wrote without running anything that it asks for.

``pickle.Unpickler`` calls what a pickle names, lets it choose keys to hash, and sets attributes of whatever lies on its
stack; a subclass would have to close each of these doors. Here ``pickletools`` of the standard library cuts the pickle
into instructions, and a small machine carries out those that build plain values. A class or function is kept as its
name (:class:`Name`), an object as what it was made of (:class:`Inert`). Nothing is imported, looked up or called,
except the functions that the caller hands in by name.
"""

from __future__ import annotations

import pickletools
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from podx.errors import CheckpointError

MAX_BYTES = 16 << 20
"""The structure of a model of hundreds of layers is far smaller; its weights are not in the pickle."""
MAX_INSTRUCTIONS = 4_000_000

Calls = Mapping[str, Callable[..., Any]]

_PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg", "commands": "subprocess", "cPickle": "pickle"}
"""Pickles of protocol 2 and below call these modules by their old names."""
_COMMON_CALLS = frozenset(
    {
        *(f"builtins.{name}" for name in ("set", "frozenset", "slice", "complex", "bytearray", "range", "getattr")),
        *(f"collections.{name}" for name in ("OrderedDict", "defaultdict", "deque", "Counter")),
        *("_codecs.encode", "copyreg._reconstructor", "functools.partial", "pathlib.PosixPath", "re._compile"),
        *("datetime.date", "datetime.datetime", "datetime.timedelta"),
    }
)


@dataclass(frozen=True, slots=True, eq=False)
class Name:
    """A class or function that a pickle names; it is not imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{_PYTHON_2.get(self.module, self.module)}.{self.name}"


@dataclass(slots=True, eq=False)
class Inert:
    """What an object was made of.

    Attributes:
        of: its class, or the function that would have made it.
        arguments: what that would have been called with.
        state: what its attributes would have been set from; None if nothing.
        items: elements it would have been given.
        pairs: entries it would have been given.
    """

    of: Name
    arguments: Any
    state: Any = None
    items: list[Any] = field(default_factory=list)
    pairs: dict[Any, Any] = field(default_factory=dict)


def read_pickle(content: bytes, calls: Calls, persistent: Callable[[Any], Any], where: str) -> Any:
    """The value a pickle describes, of protocol 2 to 5.

    Args:
        content: the pickle.
        calls: our own functions to call in place of those that the pickle names, by full name.
        persistent: our own function from a persistent id to its value.
        where: what to call the pickle in messages.

    Returns:
        plain values, :class:`Name`, :class:`Inert`, and what ``calls`` and ``persistent`` return. Structures may hold
        themselves. Entries of a dictionary whose key is no plain scalar are left out: hashing a key that
        someone else chose can take for ever.

    Raises:
        CheckpointError: it is damaged, too large, or asks to run a function of the standard library that makes no data.
    """
    if len(content) > MAX_BYTES:
        raise CheckpointError(
            f"{where}: describes its structure in {len(content):,} bytes, podx reads at most {MAX_BYTES:,}: "
            f"the file holds more than a model's weights; save the model alone"
        )
    machine = _Machine(calls, persistent, where)
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
            if count >= MAX_INSTRUCTIONS:
                raise CheckpointError(f"{where}: has more than {MAX_INSTRUCTIONS:,} instructions: it is no model")
            machine.step(opcode.name, argument)
    except (ValueError, LookupError, TypeError, ArithmeticError, RecursionError, MemoryError) as error:
        raise CheckpointError(
            f"{where}: is damaged or no pickle of a model ({error!r:.200}): copy or download it again"
        ) from error
    return machine.stack[-1] if machine.stack else None


class _Machine:
    """The stack, the marks on it, and the memo of a pickle that is being read."""

    def __init__(self, calls: Calls, persistent: Callable[[Any], Any], where: str) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._calls = calls
        self.persistent = persistent
        self._where = where

    def step(self, name: str, argument: Any) -> None:
        """Carry out one instruction.

        Raises:
            CheckpointError: an instruction that saved models do not use, or a call that is refused.
        """
        action = _ACTIONS.get(name)
        if action is None:
            raise CheckpointError(
                f"{self._where}: uses the pickle instruction {name}, which torch.save does not: refused"
            )
        action(self, argument)

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def take(self, count: int | None) -> list[Any]:
        """The last ``count`` values, off the stack; None: all since the last mark."""
        start = self.marks.pop() if count is None else len(self.stack) - count
        if start < 0:
            raise IndexError("the stack is empty")
        taken = self.stack[start:]
        del self.stack[start:]
        return taken

    def put(self, place: int | None) -> None:
        self._memo[len(self._memo) if place is None else place] = self.stack[-1]

    def get(self, place: int) -> None:
        self.push(self._memo[place])

    def name(self, module: Any, name: Any) -> None:
        if not isinstance(name, str) or not isinstance(module, str):
            raise TypeError("a class is named by something else than text")
        self.push(Name(module, name))

    def call(self, called: Any, arguments: Any) -> None:
        if not isinstance(called, Name) or not isinstance(arguments, tuple):
            raise TypeError("a call of something that is no function")
        own = self._calls.get(str(called))
        if own is not None:
            self.push(own(*arguments))
            return
        if str(called) not in _COMMON_CALLS and str(called).partition(".")[0] in sys.stdlib_module_names:
            raise CheckpointError(
                f"{self._where}: asks to run {called}, which no saved model needs. Nothing was run. "
                f"Do not open this file with torch.load or pickle; get the model from its authors"
            )
        self.push(Inert(called, arguments))

    def make(self, called: Any, *arguments: Any) -> None:
        if not isinstance(called, Name):
            raise TypeError("an object of something that is no class")
        ordered = str(called) == "collections.OrderedDict"
        self.push({} if ordered else Inert(called, arguments if len(arguments) > 1 else arguments[0]))

    def build(self, state: Any) -> None:
        target = self.stack[-1]
        if isinstance(target, Inert):
            target.state = state
        elif not isinstance(target, dict):  # an ordered dictionary may have attributes; they are of no use
            raise TypeError("the state of something that has none")

    def extend(self, values: list[Any]) -> None:
        target = self.stack[-1]
        elements = target.items if isinstance(target, Inert) else target
        if not isinstance(elements, list):
            raise TypeError("elements of something that is no list")
        elements.extend(values)

    def set_entries(self, flat: list[Any]) -> None:
        target = self.stack[-1]
        entries = target.pairs if isinstance(target, Inert) else target
        if not isinstance(entries, dict) or len(flat) % 2:
            raise TypeError("entries of something that is no dictionary")
        for key, value in zip(flat[::2], flat[1::2], strict=True):
            if key is None or isinstance(key, (str, bool)) or (isinstance(key, int) and abs(key) < 1 << 60):
                entries[key] = value


_VALUES = (
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
)
_ACTIONS: Mapping[str, Callable[[_Machine, Any], object]] = {
    **dict.fromkeys(_VALUES, _Machine.push),
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda machine, _: None),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine.put),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _Machine.get),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_SET": lambda machine, _: machine.push([]),  # a set is kept as a list, for its elements would be hashed
    "FROZENSET": lambda machine, _: machine.push(machine.take(None)),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.take(None))),
    "TUPLE1": lambda machine, _: machine.push(tuple(machine.take(1))),
    "TUPLE2": lambda machine, _: machine.push(tuple(machine.take(2))),
    "TUPLE3": lambda machine, _: machine.push(tuple(machine.take(3))),
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "POP": lambda machine, _: machine.take(1),
    "POP_MARK": lambda machine, _: machine.take(None),
    "DUP": lambda machine, _: machine.push(machine.stack[-1]),
    "APPEND": lambda machine, _: machine.extend(machine.take(1)),
    "APPENDS": lambda machine, _: machine.extend(machine.take(None)),
    "ADDITEMS": lambda machine, _: machine.extend(machine.take(None)),
    "SETITEM": lambda machine, _: machine.set_entries(machine.take(2)),
    "SETITEMS": lambda machine, _: machine.set_entries(machine.take(None)),
    "GLOBAL": lambda machine, named: machine.name(*named.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.name(*machine.take(2)),
    "REDUCE": lambda machine, _: machine.call(*machine.take(2)),
    "NEWOBJ": lambda machine, _: machine.make(*machine.take(2)),
    "NEWOBJ_EX": lambda machine, _: machine.make(*machine.take(3)),
    "BUILD": lambda machine, _: machine.build(*machine.take(1)),
    "BINPERSID": lambda machine, _: machine.push(machine.persistent(*machine.take(1))),
}
