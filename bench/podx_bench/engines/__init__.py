"""The engines that the bench knows, by name.

Another engine joins without a change here: ``--engines package.module:attribute`` names an :class:`EngineKind` to
import.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

from podx.errors import ConfigError
from podx.text.templates import Task
from podx_bench.peers import place
from podx_bench.workload.work import Engine, EngineContext, EngineKind

__all__ = ["DEFAULT_ENGINES", "ENGINES", "PEERS", "Engine", "EngineContext", "EngineKind", "engine_kind", "select"]

AS_PUBLISHED, ENCODE_ONCE, ENCODE_ONCE_FREE = "as-published", "encode-once", "encode-once-unconstrained"
OURS = "podx"


def _call(target: str, *arguments: Any) -> Any:
    """Call ``module:callable``, imported now and not before: other engines' processes are free of it."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(f"podx_bench.{module}"), name)(*arguments)


def _kind(name: str, summary: str, target: str, *arguments: Any, **more: Any) -> EngineKind:
    """An engine made by calling ``target`` with its context and the arguments."""
    return EngineKind(name, summary, lambda context: _call(target, context, *arguments), **more)


_EAGER, _OURS, _PEER = "engines.eager:EagerEngine", "engines.runtime:RuntimeEngine", "peers.searching:peer_engine"
_BY_EAGER: dict[str, Any] = {"needs_checkpoint": True, "slow": True}
_ITEMS: dict[str, Any] = {"tasks": (Task.SEQUENTIAL, Task.TOPN)}
PEERS = tuple(
    _kind(
        name,
        f"{summary}. It takes no prompt vectors, whole-word embeddings or catalog: it gets as many source tokens, "
        "beams and decoding steps as podx and searches the whole vocabulary, so only its speed is comparable",
        _PEER,
        name,
        speed_only=True,
        prepare=partial(_call, "peers.prepare:prepare_peer", name),
        interpreter=place.interpreter,
        **_BY_EAGER,
    )
    for name, summary in {
        "ctranslate2": "CTranslate2, float32",
        "ctranslate2-int8": "CTranslate2, int8 weights, activations quantised as it runs",
        "ort-beamsearch": "ONNX Runtime's BeamSearch operator, encoder and decoder step exported by torch as its "
        "subgraphs",
        "openvino-t5": "OpenVINO, float32, converted by Optimum Intel, transformers generate around it",
    }.items()
)
_OPTIMUM = _kind(
    "optimum",
    "Optimum's ORTModelForSeq2SeqLM: the POD model as podx export --layout transformers writes it, on ONNX Runtime; "
    "transformers generate around it as in encode-once, prefix function included",
    "peers.optimum_ort:OptimumEngine",
    prepare=partial(_call, "peers.prepare:prepare_optimum"),
    interpreter=place.interpreter,
    reference=ENCODE_ONCE,
    writes_freely=True,
    **_BY_EAGER,
)
_OPENVINO = _kind(
    "openvino",
    "OpenVINO on the recommend.onnx that podx runs, in float32, with the beams and answers that the graph defaults to",
    "peers.openvino_graph:OpenVinoEngine",
    interpreter=place.interpreter,
    reference=ENCODE_ONCE,
    **_ITEMS,
)
# fmt: off
_KINDS = (
    _kind(
        AS_PUBLISHED,
        "PyTorch as encode-once, prefix function included, but with the encoder run on every beam's copy of the input "
        "as in POD's published code, and for explanations its three equal groups of beams",
        _EAGER, AS_PUBLISHED, True, **_BY_EAGER, reference=ENCODE_ONCE,
    ),
    _kind(
        ENCODE_ONCE,
        "PyTorch with its fused attention (SDPA), in float32, transformers generate held to the catalog by a prefix "
        "function; of one-pass models whose items have one length without a step for the end, as podx",
        _EAGER, ENCODE_ONCE, True, **_BY_EAGER,
    ),
    _kind(
        ENCODE_ONCE_FREE, "PyTorch, transformers generate over the whole vocabulary, items read from the text",
        _EAGER, ENCODE_ONCE, False, **_ITEMS, **_BY_EAGER, writes_freely=True,
    ),
    _kind(
        "torch-compile",
        "PyTorch as encode-once, encoder and decoder step compiled by torch.compile with the weights frozen in",
        _EAGER, ENCODE_ONCE, True, True, **_ITEMS, **_BY_EAGER, reference=ENCODE_ONCE,
    ),
    _kind(
        "encode-once-unfused", "PyTorch as encode-once, with transformers' own attention instead of the fused one",
        _EAGER, ENCODE_ONCE, True, False, None, "eager", **_BY_EAGER, reference=ENCODE_ONCE,
    ),
    _kind(
        "encode-once-bf16", "PyTorch as encode-once, with weights and activations in bfloat16",
        _EAGER, ENCODE_ONCE, True, False, "bfloat16", **_BY_EAGER, reference=ENCODE_ONCE,
    ),
    _kind(
        OURS,
        "podx on ONNX Runtime, search inside the catalog's trie and in one graph, scores over the catalog's tokens (of "
        "one-pass models over siblings)",
        _OURS, reference=ENCODE_ONCE,
    ),
    _kind(
        "podx-steps", "podx as above, but a graph call for each decoding step and the search outside the graphs",
        _OURS, None, "steps", **_ITEMS, reference=OURS,
    ),
    _kind(
        "podx-numbers",
        "podx as above, but by the graph that is given numbers in place of tokens, as a service in another language "
        "runs it",
        "engines.numbers:NumbersEngine", **_ITEMS, reference=OURS,
    ),
    _kind(
        "podx-uncaptured", "podx as above, but on CUDA the search is not replayed as a CUDA graph",
        _OURS, None, "auto", False, **_ITEMS, reference=OURS,
    ),
    _kind(
        "podx-arm-bf16", "podx as above, but on an Arm processor products of float32 are computed in bf16",
        _OURS, None, "auto", True, True, reference=OURS,
    ),
    _kind(
        "podx-vocabulary", "podx as above, but scores over the whole vocabulary as transformers computes them",
        _OURS, "vocabulary", reference=ENCODE_ONCE, writes_freely=True,
    ),
    _kind(
        "podx-unconstrained", "podx on ONNX Runtime, search over the whole vocabulary, items read from the text",
        _OURS, "text", **_ITEMS, slow=True, reference=ENCODE_ONCE_FREE, writes_freely=True,
    ),
)
# fmt: on
ENGINES = {kind.name: kind for kind in (*_KINDS, _OPTIMUM, _OPENVINO, *PEERS)}
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
    names: Sequence[str] | None,
    has_checkpoint: bool,
    variants: Mapping[str, EngineKind] = MappingProxyType({}),
    one_pass: bool = False,
) -> dict[str, EngineKind]:
    """Kinds by the names asked for, each once and in order; None: the default ones.

    Args:
        variants: engines made for this run, by name. Those that are not asked for come last.
        one_pass: the model is a one-pass model, of which the default engines do not write freely.

    Raises:
        ConfigError: an engine is unknown, needs a checkpoint and there is none, or an environment that is missing; or
            it writes freely and the model cannot.
    """
    kinds = {name: variants.get(name) or engine_kind(name) for name in (DEFAULT_ENGINES if names is None else names)}
    free = [name for name, kind in kinds.items() if kind.writes_freely and one_pass]
    if free and names is not None:
        raise ConfigError(f"{', '.join(free)} cannot run a one-pass model, which scores siblings: leave it out")
    kinds = {name: kind for name, kind in kinds.items() if name not in free}
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
