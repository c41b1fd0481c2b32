"""The engines that the bench knows, by name.

Another engine joins without a change here: ``--engines package.module:attribute`` names an :class:`EngineKind` to
import.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from podx.errors import ConfigError
from podx.text.templates import Task
from podx_bench.engines.peers import PEERS
from podx_bench.workload.engine import Engine, EngineContext, EngineKind

__all__ = [
    "DEFAULT_ENGINES",
    "ENGINES",
    "Engine",
    "EngineContext",
    "EngineKind",
    "engine_kind",
    "select",
]

AS_PUBLISHED = "as-published"
ENCODE_ONCE = "encode-once"
ENCODE_ONCE_FREE = "encode-once-unconstrained"
COMPILED = "torch-compile"
OURS = "podx"
OURS_IN_STEPS = "podx-steps"
ANY_GRAPH, STEP_GRAPHS = "auto", "steps"

_ITEM_TASKS = (Task.SEQUENTIAL, Task.TOPN)


def _eager(mode: str, constrained: bool = True) -> EngineKind:
    """Kind of an engine that runs the checkpoint in PyTorch."""

    def make(context: EngineContext) -> Engine:
        from podx_bench.engines.eager import EagerEngine

        return EagerEngine(context, mode, constrained)

    if mode == AS_PUBLISHED:
        summary = (
            "PyTorch as encode-once, prefix function included, but with the encoder run on every beam's copy of the "
            "input as in POD's published code, and for explanations its three equal groups of beams"
        )
        return EngineKind(AS_PUBLISHED, summary, make, needs_checkpoint=True, slow=True, reference=ENCODE_ONCE)
    if constrained:
        summary = "PyTorch, transformers generate held to the catalogue by a prefix function"
        return EngineKind(ENCODE_ONCE, summary, make, needs_checkpoint=True, slow=True)
    summary = "PyTorch, transformers generate over the whole vocabulary, items read from the text"
    return EngineKind(ENCODE_ONCE_FREE, summary, make, _ITEM_TASKS, needs_checkpoint=True, slow=True)


def _compiled(context: EngineContext) -> Engine:
    from podx_bench.engines.compiled import compiled_engine

    return compiled_engine(context)


def _runtime(
    name: str,
    summary: str,
    search: str,
    tasks: tuple[Task, ...],
    reference: str,
    slow: bool,
    graph: str = ANY_GRAPH,
) -> EngineKind:
    """Kind of an engine that runs the bundle."""

    def make(context: EngineContext) -> Engine:
        from podx_bench.engines.runtime import RuntimeEngine

        return RuntimeEngine(context, search, graph)

    return EngineKind(name, summary, make, tasks, slow=slow, reference=reference)


_KINDS = (
    _eager(AS_PUBLISHED),
    _eager(ENCODE_ONCE),
    _eager(ENCODE_ONCE, constrained=False),
    EngineKind(
        COMPILED,
        "PyTorch as encode-once, encoder and decoder step compiled by torch.compile with the weights frozen in",
        _compiled,
        _ITEM_TASKS,
        needs_checkpoint=True,
        slow=True,
        reference=ENCODE_ONCE,
    ),
    _runtime(
        OURS,
        "podx on ONNX Runtime, search inside the catalogue's trie and in one graph, scores over the catalogue's tokens",
        "catalog",
        (*_ITEM_TASKS, Task.EXPLANATION),
        ENCODE_ONCE,
        slow=False,
    ),
    _runtime(
        OURS_IN_STEPS,
        "podx as above, but a graph call for each decoding step and the search outside the graphs",
        "catalog",
        _ITEM_TASKS,
        OURS,
        slow=False,
        graph=STEP_GRAPHS,
    ),
    _runtime(
        "podx-vocabulary",
        "podx as above, but scores over the whole vocabulary as transformers computes them",
        "vocabulary",
        _ITEM_TASKS,
        ENCODE_ONCE,
        slow=False,
    ),
    _runtime(
        "podx-unconstrained",
        "podx on ONNX Runtime, search over the whole vocabulary, items read from the text",
        "text",
        _ITEM_TASKS,
        ENCODE_ONCE_FREE,
        slow=True,
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
