"""*encode-once* with its model compiled by ``torch.compile``.

Compiled are the encoder and the decoder step with its output layer, each whole, without a break in the graph, for
shapes that vary, and with the weights frozen in: the faster of the two ways on a CPU, for matrices are then packed
once. The search around them, ``generate`` with its prefix function, is Python as before. Everything is compiled before
the first request: minutes, which count as loading.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from transformers import T5ForConditionalGeneration

from podx_bench.engines.eager import EagerEngine
from podx_bench.workload.engine import EngineContext
from podx_bench.workload.work import WorkItem

COMPILE_OPTIONS: dict[str, Any] = {"options": {"freezing": True}}
WARM_UP = ((2, 2), (3, 3), (1, 2), (1, 3), (5, 1))
"""Requests and items of each call before the first request: the compiler treats one request apart from several, and
takes a size for fixed until it has met a second."""


def compiled_engine(context: EngineContext) -> EagerEngine:
    """The engine, compiled and warmed up.

    Raises:
        PodxError: as :class:`podx_bench.engines.eager.EagerEngine`.
    """
    engine = EagerEngine(context, "encode-once", constrained=True)
    compile_model(engine.backbone)
    user, items = engine.user_ids[0], tuple(engine.item_ids)
    for requests, length in WARM_UP:
        engine.run([WorkItem(user, items[:length])] * requests)
    return engine


def compile_model(backbone: T5ForConditionalGeneration) -> None:
    """Have the model's two entry points compiled when they are first called."""
    modules = cast(tuple[Any, ...], (backbone.encoder, backbone))
    for module in modules:
        module.forward = torch.compile(module.forward, dynamic=True, **COMPILE_OPTIONS)
