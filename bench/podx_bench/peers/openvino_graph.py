"""OpenVINO: ``recommend.onnx`` as the bundle has it, read and run by another library than ONNX Runtime.

What the graph has a default for becomes a constant when OpenVINO reads it. Int8 bundles cannot be run: rows are
rounded by scales of their own, which OpenVINO 2026.4 takes for one scale per column.
"""

from __future__ import annotations

from collections.abc import Sequence

from podx.bundle.bundle import Bundle
from podx.bundle.signature import ITEMS, RECOMMEND_FILE
from podx.decoding.options import DEFAULT_BEAMS
from podx.errors import ConfigError, DeviceError
from podx.graphs.model import batch_feeds
from podx.recommender import DEFAULT_K
from podx.requests.batch import ItemBatch
from podx.text.batches import in_batches
from podx.text.templates import Task
from podx_bench.workload.work import Answer, EngineContext, RequestReader, WorkItem

ADVICE = "or leave openvino out of --engines"


class OpenVinoEngine:
    """Runs ``recommend.onnx`` of a bundle in float32.

    Raises:
        ConfigError: the bundle is not in float32 or has no such graph, or other beams or answers than the graph's
            defaults are asked for.
        DeviceError: another device than the CPU was asked for.
    """

    def __init__(self, context: EngineContext) -> None:
        self._bundle = Bundle.load(context.bundle, verify=False)
        require_runnable(self._bundle, context)
        import openvino

        self._context, self._reader = context, RequestReader(self._bundle, context.task)
        settings = {
            "INFERENCE_NUM_THREADS": context.threads,
            "INFERENCE_PRECISION_HINT": "f32",  # else bfloat16 where the processor has it
            "PERFORMANCE_HINT": "LATENCY",  # all threads for one batch
        }
        compiled = openvino.Core().compile_model(self._bundle.file(RECOMMEND_FILE), "CPU", settings)
        self._request = compiled.create_infer_request()

    def run(self, requests: Sequence[WorkItem]) -> list[Answer]:
        """See :class:`podx_bench.workload.work.Engine`. Of many requests, those with as many items go together."""
        read = [request.items for request in requests]
        size = self._context.batch_size or len(requests)
        return in_batches(read, size, lambda rows: self._run_batch([requests[row] for row in rows]))

    def _run_batch(self, requests: Sequence[WorkItem]) -> list[Answer]:
        manifest, known = self._bundle.manifest, self._bundle.catalog.items
        ranked = self._context.task is Task.TOPN
        named = [self._reader.items(one.items if ranked else (*one.exclude, *one.items)) for one in requests]
        denied, allowed = ([named[0][:0]] * len(named), named) if ranked else (named, [None] * len(named))
        text, task_id = self._reader.batch(requests), manifest.task_id(self._context.task)
        feeds = batch_feeds(ItemBatch(text, task_id, denied, allowed, self._context.k), manifest.user_prompts > 0)
        self._request.start_async(feeds)  # infer, on one thread, keeps quiet about a failure and the last answers
        self._request.wait()
        found = self._request.get_tensor(ITEMS).data.tolist()
        return [Answer(tuple(known.raw(item) for item in row if item)) for row in found]


def require_runnable(bundle: Bundle, context: EngineContext) -> None:
    """Raise what :class:`OpenVinoEngine` says."""
    if context.device != "cpu":
        raise DeviceError(f"openvino is measured on the CPU only: use --device cpu, {ADVICE}")
    if (context.beams, context.k) != (DEFAULT_BEAMS, DEFAULT_K):
        raise ConfigError(
            f"OpenVINO makes constants of the defaults in {RECOMMEND_FILE}: use --beams {DEFAULT_BEAMS} and "
            f"-k {DEFAULT_K}, {ADVICE}"
        )
    precision = bundle.manifest.precision
    if precision != "fp32" or not bundle.manifest.levels:
        raise ConfigError(
            f"openvino needs a bundle in fp32 with {RECOMMEND_FILE}, and this is one in {precision}: export it with "
            f"--precision fp32, {ADVICE}"
        )
