"""The engines that the bench knows, by name.

Another engine joins without a change here: ``--engines package.module:attribute`` names an :class:`EngineKind` to
import.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from podx.errors import ConfigError
from podx.text.templates import Task
from podx_bench.engines.peers import PEERS
from podx_bench.workload.engine import Engine, EngineContext, EngineKind

__all__ = ["DEFAULT_ENGINES", "ENGINES", "Engine", "EngineContext", "EngineKind", "engine_kind", "select"]

AS_PUBLISHED = "as-published"
ENCODE_ONCE = "encode-once"
ENCODE_ONCE_FREE = "encode-once-unconstrained"
COMPILED = "torch-compile"
OURS = "podx"
OURS_IN_STEPS = "podx-steps"
ANY_GRAPH, STEP_GRAPHS = "auto", "steps"

_ITEM_TASKS = (Task.SEQUENTIAL, Task.TOPN)


def _made_by(target: str, *arguments: str | bool) -> Callable[[EngineContext], Engine]:
    """Makes an engine by ``module:callable``, imported when it is called: other engines' processes are free of it."""

    def make(context: EngineContext) -> Engine:
        module, _, name = target.partition(":")
        engine: Engine = getattr(importlib.import_module(f"podx_bench.engines.{module}"), name)(context, *arguments)
        return engine

    return make


_KINDS = (
    EngineKind(
        AS_PUBLISHED,
        "PyTorch as encode-once, prefix function included, but with the encoder run on every beam's copy of the input "
        "as in POD's published code, and for explanations its three equal groups of beams",
        _made_by("eager:EagerEngine", AS_PUBLISHED, True),
        needs_checkpoint=True,
        slow=True,
        reference=ENCODE_ONCE,
    ),
    EngineKind(
        ENCODE_ONCE,
        "PyTorch, transformers generate held to the catalog by a prefix function",
        _made_by("eager:EagerEngine", ENCODE_ONCE, True),
        needs_checkpoint=True,
        slow=True,
    ),
    EngineKind(
        ENCODE_ONCE_FREE,
        "PyTorch, transformers generate over the whole vocabulary, items read from the text",
        _made_by("eager:EagerEngine", ENCODE_ONCE, False),
        _ITEM_TASKS,
        needs_checkpoint=True,
        slow=True,
    ),
    EngineKind(
        COMPILED,
        "PyTorch as encode-once, encoder and decoder step compiled by torch.compile with the weights frozen in",
        _made_by("compiled:compiled_engine"),
        _ITEM_TASKS,
        needs_checkpoint=True,
        slow=True,
        reference=ENCODE_ONCE,
    ),
    EngineKind(
        OURS,
        "podx on ONNX Runtime, search inside the catalog's trie and in one graph, scores over the catalog's tokens",
        _made_by("runtime:RuntimeEngine", "catalog"),
        reference=ENCODE_ONCE,
    ),
    EngineKind(
        OURS_IN_STEPS,
        "podx as above, but a graph call for each decoding step and the search outside the graphs",
        _made_by("runtime:RuntimeEngine", "catalog", STEP_GRAPHS),
        _ITEM_TASKS,
        reference=OURS,
    ),
    EngineKind(
        "podx-vocabulary",
        "podx as above, but scores over the whole vocabulary as transformers computes them",
        _made_by("runtime:RuntimeEngine", "vocabulary"),
        _ITEM_TASKS,
        reference=ENCODE_ONCE,
    ),
    EngineKind(
        "podx-unconstrained",
        "podx on ONNX Runtime, search over the whole vocabulary, items read from the text",
        _made_by("runtime:RuntimeEngine", "text"),
        _ITEM_TASKS,
        slow=True,
        reference=ENCODE_ONCE_FREE,
    ),
)
ENGINES = {kind.name: kind for kind in (*_KINDS, *PEERS)}
DEFAULT_ENGINES = (AS_PUBLISHED, ENCODE_ONCE, ENCODE_ONCE_FREE, OURS)


def engine_kind(name: str) -> EngineKind:
    """The kind that a name stands for.

    Raises:
        ConfigError: no such engine, or the named module does not hold one.
    """
    if name in ENGINES:
        return ENGINES[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        raise ConfigError(
            f"unknown engine {name!r}: choose among {', '.join(ENGINES)}, or name one of your own as module:attribute"
        )
    try:
        kind = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"engine {name!r} cannot be imported ({error}): check the name and PYTHONPATH") from error
    if not isinstance(kind, EngineKind):
        raise ConfigError(f"engine {name!r} must be a podx_bench.engines.EngineKind, not {type(kind).__name__}")
    return kind


def select(
    names: Sequence[str] | None, has_checkpoint: bool, variants: Mapping[str, EngineKind] = MappingProxyType({})
) -> dict[str, EngineKind]:
    """Kinds by the names asked for, each once and in order; None: the default ones.

    Args:
        variants: engines made for this run, by name. Those that are not asked for come last.

    Raises:
        ConfigError: an engine is unknown, needs a checkpoint and there is none, or an environment that is missing.
    """
    kinds = {name: variants.get(name) or engine_kind(name) for name in (DEFAULT_ENGINES if names is None else names)}
    kinds |= {name: kind for name, kind in variants.items() if name not in kinds}
    if not kinds:
        raise ConfigError(f"--engines is empty: choose among {', '.join(ENGINES)}")
    needing = [name for name, kind in kinds.items() if kind.needs_checkpoint]
    if needing and not has_checkpoint:
        raise ConfigError(f"{', '.join(needing)} need --checkpoint: give the folder the bundle was exported from")
    for kind in kinds.values():
        if kind.interpreter is not None:
            kind.interpreter()  # now, and not when other engines have been measured for an hour
    return kinds
