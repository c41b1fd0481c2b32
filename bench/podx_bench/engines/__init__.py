"""The engines that the bench knows, by name.

Another engine joins without a change here: ``--engines package.module:attribute`` names an :class:`EngineKind` to
import.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

from podx.errors import ConfigError
from podx.text.templates import ALL_TASKS, Task
from podx_bench.peers import place
from podx_bench.workload.work import Engine, EngineContext, EngineKind

__all__ = ["DEFAULT_ENGINES", "ENGINES", "PEERS", "Engine", "EngineContext", "EngineKind", "engine_kind", "select"]

AS_PUBLISHED, ENCODE_ONCE, ENCODE_ONCE_FREE = "as-published", "encode-once", "encode-once-unconstrained"
OURS = "podx"
_ITEM_TASKS = (Task.SEQUENTIAL, Task.TOPN)


def _call(target: str, *arguments: Any) -> Any:
    """Call ``module:callable``, imported now and not before: other engines' processes are free of it."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(f"podx_bench.{module}"), name)(*arguments)


def _made_by(target: str, *arguments: Any) -> Callable[[EngineContext], Engine]:
    return lambda context: _call(target, context, *arguments)


def _eager(
    name: str, summary: str, make: Callable[[EngineContext], Engine], tasks: tuple[Task, ...], reference: str | None
) -> EngineKind:
    return EngineKind(name, summary, make, tasks, needs_checkpoint=True, slow=True, reference=reference)


def _peer(name: str, summary: str) -> EngineKind:
    """An engine on another library, see :mod:`podx_bench.peers`."""
    return EngineKind(
        name,
        f"{summary}. It takes no prompt vectors, whole-word embeddings or catalog: it gets as many source tokens, "
        "beams and decoding steps as podx and searches the whole vocabulary, so only its speed is comparable",
        _made_by("peers.searching:peer_engine", name),
        _ITEM_TASKS,
        needs_checkpoint=True,
        slow=True,
        speed_only=True,
        prepare=partial(_call, "peers.prepare:prepare_peer", name),
        interpreter=place.interpreter,
    )


PEERS = (
    _peer("optimum", "Optimum's ORTModelForSeq2SeqLM: graphs on ONNX Runtime, transformers generate around them"),
    _peer("ctranslate2", "CTranslate2, float32"),
    _peer("ctranslate2-int8", "CTranslate2, int8 weights, activations quantised as it runs"),
    _peer(
        "ort-beamsearch",
        "ONNX Runtime's BeamSearch operator, encoder and decoder step exported by torch as its subgraphs",
    ),
)
_KINDS = (
    _eager(
        AS_PUBLISHED,
        "PyTorch as encode-once, prefix function included, but with the encoder run on every beam's copy of the input "
        "as in POD's published code, and for explanations its three equal groups of beams",
        _made_by("engines.eager:EagerEngine", AS_PUBLISHED, True),
        ALL_TASKS,
        ENCODE_ONCE,
    ),
    _eager(
        ENCODE_ONCE,
        "PyTorch, transformers generate held to the catalog by a prefix function",
        _made_by("engines.eager:EagerEngine", ENCODE_ONCE, True),
        ALL_TASKS,
        None,
    ),
    _eager(
        ENCODE_ONCE_FREE,
        "PyTorch, transformers generate over the whole vocabulary, items read from the text",
        _made_by("engines.eager:EagerEngine", ENCODE_ONCE, False),
        _ITEM_TASKS,
        None,
    ),
    _eager(
        "torch-compile",
        "PyTorch as encode-once, encoder and decoder step compiled by torch.compile with the weights frozen in",
        _made_by("engines.eager:EagerEngine", ENCODE_ONCE, True, True),
        _ITEM_TASKS,
        ENCODE_ONCE,
    ),
    EngineKind(
        OURS,
        "podx on ONNX Runtime, search inside the catalog's trie and in one graph, scores over the catalog's tokens",
        _made_by("engines.runtime:RuntimeEngine", "catalog"),
        reference=ENCODE_ONCE,
    ),
    EngineKind(
        "podx-steps",
        "podx as above, but a graph call for each decoding step and the search outside the graphs",
        _made_by("engines.runtime:RuntimeEngine", "catalog", "steps"),
        _ITEM_TASKS,
        reference=OURS,
    ),
    EngineKind(
        "podx-vocabulary",
        "podx as above, but scores over the whole vocabulary as transformers computes them",
        _made_by("engines.runtime:RuntimeEngine", "vocabulary"),
        _ITEM_TASKS,
        reference=ENCODE_ONCE,
    ),
    EngineKind(
        "podx-unconstrained",
        "podx on ONNX Runtime, search over the whole vocabulary, items read from the text",
        _made_by("engines.runtime:RuntimeEngine", "text"),
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
