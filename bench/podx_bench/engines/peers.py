"""The peers by name: engines on other libraries, see :mod:`podx_bench.peers`."""

from __future__ import annotations

from functools import partial
from importlib import import_module

from podx.text.templates import Task
from podx_bench.peers.place import interpreter
from podx_bench.workload.engine import Engine, EngineContext, EngineKind

TASKS = (Task.SEQUENTIAL, Task.TOPN)
SAME_WORK = (
    "It takes no prompt vectors, whole-word embeddings or catalog: it gets as many source tokens, beams and decoding "
    "steps as podx and searches the whole vocabulary, so only its speed is comparable"
)
SUMMARIES = {
    "optimum": "Optimum's ORTModelForSeq2SeqLM: graphs on ONNX Runtime, transformers generate around them",
    "ctranslate2": "CTranslate2, float32",
    "ctranslate2-int8": "CTranslate2, int8 weights, activations quantised as it runs",
    "ort-beamsearch": "ONNX Runtime's BeamSearch operator, encoder and decoder step exported by torch as its subgraphs",
}


def _prepare(name: str, context: EngineContext) -> EngineContext:
    from podx_bench.peers.prepare import prepare_peer

    return prepare_peer(name, context)


def _make(name: str, context: EngineContext) -> Engine:
    from podx_bench.peers.convert import MODULES
    from podx_bench.peers.searching import PeerEngine

    return PeerEngine(context, partial(import_module(MODULES[name]).open_search, name))


def _kind(name: str, summary: str) -> EngineKind:
    return EngineKind(
        name,
        f"{summary}. {SAME_WORK}",
        partial(_make, name),
        TASKS,
        needs_checkpoint=True,
        slow=True,
        speed_only=True,
        prepare=partial(_prepare, name),
        interpreter=interpreter,
    )


PEERS = tuple(_kind(name, summary) for name, summary in SUMMARIES.items())
