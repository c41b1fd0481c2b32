"""A whole torch module that was saved with ``torch.save(model, file)``, read without its code and without running any.

Such a file is a zip archive: ``data.pkl`` describes the tree of modules, ``data/0``, ``data/1``, … hold the weights.
The pickle is read by :mod:`podx_train.published.safe_pickle`. torch before 1.6 wrote another format; it is refused.
"""

from __future__ import annotations

import math
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from podx.errors import CheckpointError
from podx_train.published.safe_pickle import Calls, Inert, Name, read_pickle

MAX_DEPTH = 64
MAX_MODULES = 100_000
PICKLE_NAME = "data.pkl"

_DAMAGE = (zipfile.BadZipFile, OSError, EOFError, ValueError, LookupError, ArithmeticError, RuntimeError, struct.error)
"""What zipfile raises on archives that are not as they should be; what it does not support is a RuntimeError."""

_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "BFloat16Storage": torch.bfloat16,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
"""Types of numbers by torch's names of their storages."""


@dataclass(frozen=True, slots=True)
class Storage:
    """Numbers in the archive. ``kind``: torch's name of their type; ``key``: file in ``data/``; ``count``: of them."""

    kind: str
    key: str
    count: int


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor as the pickle describes it: a view of a storage; offset and strides count numbers, not bytes."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class SavedModule:
    """What a saved module holds.

    Attributes:
        path: the file.
        class_name: full name of the module's class, which is not imported.
        parameters: all parameters by their dotted names, those that are tied under each name.
        attributes: plain values (numbers, text, None) among the attributes of the outermost module.
        config: plain values of its attribute ``config``.
    """

    path: Path
    class_name: str
    parameters: dict[str, StoredTensor]
    attributes: dict[str, Any]
    config: dict[str, Any]

    def tensors(self, names: list[str]) -> dict[str, Tensor]:
        """Values of several parameters, float32, in memory of their own.

        Raises:
            CheckpointError: one is not there, or the file does not hold what it says of it.
        """
        lacking = [name for name in names if name not in self.parameters]
        if lacking:
            raise CheckpointError(
                f"{self.path} holds no parameter {lacking[0]}: it is not a model of the expected kind"
            )
        with _opened(self.path) as read:
            return {name: _tensor(self.path, read, self.parameters[name]) for name in names}


def read_module(path: Path) -> SavedModule:
    """Read the tree of a saved module; weights are read later, when they are asked for.

    Raises:
        CheckpointError: the file is missing, damaged, no saved module, or asks for something to be run.
    """
    with _opened(path) as read:
        root = read_pickle(read(PICKLE_NAME), _CALLS, _storage, str(path))
    state = root.state if isinstance(root, Inert) else None
    if not isinstance(root, Inert) or not isinstance(state, dict) or "_modules" not in state:
        held = "a dictionary (of weights alone?)" if isinstance(root, dict) else "something else"
        raise CheckpointError(
            f"{path} holds {held}, not a whole model: save one with torch.save(model, FILE), as POD's pretrain.py does"
        )
    config = state.get("config")
    return SavedModule(
        path=path,
        class_name=str(root.of),
        parameters=_parameters(root, path),
        attributes=_plain(state),
        config=_plain(config.state) if isinstance(config, Inert) else {},
    )


def _plain(state: Any) -> dict[str, Any]:
    if not isinstance(state, dict):
        return {}
    return {k: v for k, v in state.items() if isinstance(k, str) and (v is None or isinstance(v, (str, int, float)))}


def _parameters(root: Inert, path: Path) -> dict[str, StoredTensor]:
    """Parameters by dotted name, without recursion; the same module may come under several names."""
    found: dict[str, StoredTensor] = {}
    waiting, count = [("", root, 0)], 0
    while waiting:
        prefix, module, depth = waiting.pop()
        count += 1
        if depth > MAX_DEPTH or count > MAX_MODULES:
            raise CheckpointError(f"{path}: its modules are nested without end or too many: it is no model")
        state = module.state if isinstance(module.state, dict) else {}
        held, children = (
            table if isinstance(table := state.get(key), dict) else {} for key in ("_parameters", "_modules")
        )
        for name, value in held.items():
            if value is None:  # a bias that the layer does without
                continue
            if not isinstance(value, StoredTensor):
                raise CheckpointError(f"{path}: parameter {prefix}{name} is no plain tensor: save it unquantised")
            found[f"{prefix}{name}"] = value
        modules = {name: child for name, child in children.items() if isinstance(child, Inert)}
        waiting += [(f"{prefix}{name}.", child, depth + 1) for name, child in modules.items()]
    return found


def _whole(values: Any) -> tuple[int, ...]:
    """Sizes or strides, checked."""
    if not isinstance(values, tuple) or not all(type(value) is int and 0 <= value < 1 << 48 for value in values):
        raise ValueError("a size of a tensor is no whole number")
    return values


def _storage(persistent_id: Any) -> Storage:
    """What torch writes for the numbers of a tensor: ("storage", type, key, device, count)."""
    match persistent_id:
        case ("storage", Name() as kind, str(key), _, count):
            return Storage(kind.name, key, _whole((count,))[0])
    raise ValueError("not the reference to a storage that torch.save writes")


def _view(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> StoredTensor:
    if not isinstance(storage, Storage):
        raise ValueError("a tensor without numbers")
    view = StoredTensor(storage, _whole((offset,))[0], _whole(size), _whole(stride))
    if len(view.size) != len(view.stride) or len(view.size) > 8:
        raise ValueError("a tensor of impossible shape")
    last = view.offset + sum((s - 1) * t for s, t in zip(view.size, view.stride, strict=True))
    count = math.prod([*view.size])
    if count > storage.count or (count and last >= storage.count):
        raise ValueError("a tensor that is larger than its numbers")
    return view


def _first(value: Any, *_: Any) -> Any:
    """A parameter is its tensor."""
    return value


def _ordered(pairs: Any = (), *_: Any) -> dict[Any, Any]:
    if pairs:
        raise ValueError("an ordered dictionary of an old kind")
    return {}


_CALLS: Calls = {
    "torch._utils._rebuild_tensor": _view,
    "torch._utils._rebuild_tensor_v2": _view,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "collections.OrderedDict": _ordered,
}


@contextmanager
def _opened(path: Path) -> Iterator[Callable[[str], bytes]]:
    """What reads the parts of an archive of torch.save, which is checked before anything of it is read."""
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}: name the model.pt that POD's pretrain.py wrote")
    try:
        if not zipfile.is_zipfile(path):
            raise CheckpointError(
                f"{path} is no zip archive: it is cut off, or torch older than 1.6 wrote it, whose format podx does "
                f"not read. Copy it again, or save it anew with torch 1.6 or later"
            )
        archive = zipfile.ZipFile(path)
    except _DAMAGE as error:
        raise CheckpointError(f"{path} is a damaged archive ({error}): copy it again") from error
    with archive:
        parts = _parts(path, archive)

        def read(name: str) -> bytes:
            if name not in parts:
                raise CheckpointError(f"{path} lacks its part {name[:40]!r}: it is damaged, copy it again")
            try:
                return archive.read(parts[name])
            except _DAMAGE as error:
                raise CheckpointError(f"{path} is damaged in its part {name} ({error}): copy it again") from error

        if "byteorder" in parts and read("byteorder") != b"little":
            raise CheckpointError(f"{path} was written on a big-endian machine: save it on a little-endian one")
        yield read


def _parts(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The files by name; refuses archives that torch.save does not write: compressed, encrypted, overlapping."""
    infos = archive.infolist()
    heads = [info.filename for info in infos if info.filename.split("/")[1:] == [PICKLE_NAME]]
    if len(heads) != 1 or len({info.filename for info in infos}) != len(infos):
        raise CheckpointError(f"{path} is an archive, but not one of torch.save: name the model.pt of POD")
    prefix = heads[0].removesuffix(PICKLE_NAME)
    parts = {info.filename.removeprefix(prefix): info for info in infos if info.filename.startswith(prefix)}
    if "constants.pkl" in parts:
        raise CheckpointError(f"{path} is a TorchScript program: name a model saved with torch.save")
    stored = all(i.compress_type == zipfile.ZIP_STORED and i.compress_size == i.file_size for i in infos)
    total = sum(info.file_size for info in infos)
    if not stored or total > path.stat().st_size or any(info.flag_bits & 1 for info in infos):
        raise CheckpointError(
            f"{path} is compressed or says that it holds more than it does, which torch.save never writes: "
            f"unpack it if it was packed again, or copy it again"
        )
    return parts


def _tensor(path: Path, read: Callable[[str], bytes], stored: StoredTensor) -> Tensor:
    """The values of a tensor, float32."""
    kind = _DTYPES.get(stored.storage.kind)
    if kind is None:
        raise CheckpointError(f"{path} holds numbers of type {stored.storage.kind}: save it in float32")
    content = read(f"data/{stored.storage.key}")
    if len(content) != stored.storage.count * kind.itemsize:
        raise CheckpointError(
            f"{path}: part data/{stored.storage.key} has {len(content):,} bytes where {stored.storage.count:,} numbers "
            f"were promised: it is damaged, copy it again"
        )
    if not content:
        return torch.zeros(stored.size)
    numbers = torch.frombuffer(bytearray(content), dtype=kind)
    return numbers.as_strided(stored.size, stored.stride, stored.offset).to(torch.float32, copy=True).contiguous()
