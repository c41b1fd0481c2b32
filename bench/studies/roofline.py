"""The roofline: how long one user's matrix products take at the machine's own measured rate, which no engine can beat.

    python bench/studies/roofline.py RESULTS/results.json [--checkpoint CHECKPOINT]

Give it results that ``podx bench`` has just written on this machine: the rate, and with the checkpoint the roofline of
every timed cell, are put into them, and their report is drawn again.

The rate is measured through ONNX Runtime, which podx runs on, in a process of its own with the threads of the engines:
fp32 as MatMul, int8 as DynamicQuantizeMatMul, whose time holds the quantising of its input. The weight is t5-small's
first feed-forward matrix; the rows are those of one user's 20 beams, of 32 users' beams, and of 32 inputs of 44 tokens.

Counted are the products with weights, two operations (a multiplication and an addition) for each weight and row:

- the encoder, for each source token: 4 · d_model · inner for attention and 2 · d_model · d_ff (3 where the feed-forward
  part is gated) in each layer;
- the cross-attention keys and values, for each source token: 2 · d_model · inner in each decoder layer;
- the decoder, for each beam and step: 6 · d_model · inner (self-attention's four matrices, cross-attention's query and
  output) and the feed-forward part, in each layer. The first step has one beam, the others have all:
  1 + (steps - 1) · beams rows a user.

Not counted: scores of attention, norms, softmax, and the output layer, which is cut to the catalog's tokens. A search
that drops beams early does less and may need less time than this. For t5-small at 41 source tokens this gives 1.55,
0.26 and 0.044 · 10^9 operations for the encoder, the cross keys and values, and a beam's step.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import typer
from onnx import numpy_helper, parser

from podx.errors import ConfigError
from podx_bench.harness.child import run_in_child, thread_environment
from podx_bench.harness.records import BENCH_FILE, GemmRecord, Results, RooflineRecord, SpeedRecord
from podx_bench.harness.resources import MILLISECONDS
from podx_bench.harness.terminal import run_command
from podx_bench.pages.render import write_report
from podx_bench.report.bench import bench_report

ROWS = (20, 640, 1408)
INNER, COLUMNS = 512, 2048
OPERATORS = {"fp32": "MatMul", "int8": "DynamicQuantizeMatMul"}
NODES = {"fp32": "MatMul (x, weight)", "int8": "com.microsoft.DynamicQuantizeMatMul (x, weight, scale)"}
SECONDS_PER_SHAPE = 0.3
LEAST_CALLS, MOST_CALLS, WARM_UP_CALLS = 5, 500, 3
TIMEOUT_S = 120.0
MEASURE = "roofline:measure"
INT8_LIMIT = 64
"""Weights within it are multiplied exactly on every processor: two products of uint8 and int8 fit into int16."""
GIGA = 1e9
OPS_PER_PRODUCT = 2
"""A multiplication and an addition."""


@dataclass(frozen=True)
class Arithmetic:
    """Operations of the encoder and of the cross-attention's keys and values for a source token, and of a beam-step."""

    encoder_ops: int
    memory_ops: int
    beam_ops: int

    @classmethod
    def of_backbone(cls, backbone: Mapping[str, Any]) -> Arithmetic:
        """From the fields of a ``T5Config``."""
        width = backbone["d_model"]
        square = OPS_PER_PRODUCT * width * backbone["num_heads"] * backbone["d_kv"]
        matrices = 3 if str(backbone["feed_forward_proj"]).startswith("gated") else 2
        forward = OPS_PER_PRODUCT * matrices * width * backbone["d_ff"]
        layers, decoder_layers = backbone["num_layers"], backbone["num_decoder_layers"]
        return cls(
            layers * (4 * square + forward), decoder_layers * 2 * square, decoder_layers * (6 * square + forward)
        )

    @classmethod
    def of_checkpoint(cls, checkpoint: Path) -> Arithmetic:
        """From a checkpoint folder.

        Raises:
            CheckpointError: its configuration cannot be read.
        """
        from podx_train.checkpoint.checkpoint import CONFIG_FILE  # brings torch, which other engines' bench needs not
        from podx_train.model.config import PodConfig

        return cls.of_backbone(PodConfig.from_json((checkpoint / CONFIG_FILE).read_text(encoding="utf-8")).backbone)


def rate_at(gemm: Sequence[GemmRecord], precision: str, rows: float) -> float | None:
    """Operations a second that products of so many rows can reach at most; None: not measured.

    The best rate of the measured shapes up to the first that has as many rows, so that the bound is never too slow.
    """
    rates = {record.rows: record.giga_ops_per_s for record in gemm if record.precision == precision}
    if not rates:
        return None
    enough = min((measured for measured in rates if measured >= rows), default=max(rates))
    return GIGA * max(rate for measured, rate in rates.items() if measured <= enough)


def rooflines(
    record: SpeedRecord, arithmetic: Arithmetic, gemm: Sequence[GemmRecord], prompt_vectors: int, beams: int
) -> list[RooflineRecord]:
    """A roofline for each precision that was measured, of the cell that a record is of; none without its lengths.

    Args:
        prompt_vectors: that the model puts before each input. beams: of the search.
    """
    if record.source_tokens_mean is None or record.decoding_steps is None:
        return []
    batch, steps, tokens = record.batch_size, record.decoding_steps, record.source_tokens_mean + prompt_vectors
    parts = (  # (operations a user, rows of each product)
        ((arithmetic.encoder_ops + arithmetic.memory_ops) * tokens, batch * tokens),
        (arithmetic.beam_ops, batch),
        (arithmetic.beam_ops * (steps - 1) * beams, batch * beams),
    )
    giga = sum(ops for ops, _ in parts) / GIGA
    records = []
    for precision in dict.fromkeys(measured.precision for measured in gemm):
        ms = MILLISECONDS * sum(ops / (rate_at(gemm, precision, rows) or float("inf")) for ops, rows in parts)
        records.append(RooflineRecord(record.task, batch, precision, tokens, steps, giga, ms))
    return records


def product_graph(precision: str) -> onnx.ModelProto:
    """``x`` float [rows, 512] · a constant [512, 2048] → ``y``, the constant in the given precision."""
    random, shape = np.random.default_rng(0), (INNER, COLUMNS)
    constants: dict[str, npt.NDArray[Any]] = {"weight": random.standard_normal(shape, dtype=np.float32)}
    if precision == "int8":
        constants = {
            "weight": random.integers(-INT8_LIMIT, INT8_LIMIT, size=shape, dtype=np.int8),
            "scale": np.full(COLUMNS, 1 / INT8_LIMIT, np.float32),
        }
    model = parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]> '
        f"product (float[rows, {INNER}] x) => (float[rows, {COLUMNS}] y) {{ y = {NODES[precision]} }}"
    )
    model.graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in constants.items())
    return model


def measure(threads: int, spin: bool, seconds: float = SECONDS_PER_SHAPE) -> list[GemmRecord]:
    """A record for each precision and number of rows, in this process."""
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
    records = []
    for precision, operator in OPERATORS.items():
        graph = product_graph(precision).SerializeToString()
        session = ort.InferenceSession(graph, settings, providers=["CPUExecutionProvider"])
        for rows in ROWS:
            taken = _times(session, rows, seconds)
            rate = OPS_PER_PRODUCT * rows * INNER * COLUMNS / float(np.median(taken)) / GIGA
            records.append(GemmRecord(precision, operator, rows, INNER, COLUMNS, rate, len(taken), threads))
    return records


def _times(session: ort.InferenceSession, rows: int, seconds: float) -> list[float]:
    """Seconds of each call, as many calls as the time allows."""
    binding = session.io_binding()  # so that no copy of the result is timed
    binding.bind_cpu_input("x", np.random.default_rng(1).standard_normal((rows, INNER), dtype=np.float32))
    binding.bind_output("y")
    for _ in range(WARM_UP_CALLS):
        session.run_with_iobinding(binding)
    taken: list[float] = []
    while len(taken) < LEAST_CALLS or (sum(taken) < seconds and len(taken) < MOST_CALLS):
        start = time.perf_counter()
        session.run_with_iobinding(binding)
        taken.append(time.perf_counter() - start)
    return taken


def measure_apart(threads: int, spin: bool) -> tuple[GemmRecord, ...]:
    """:func:`measure` in a process of its own; an EngineError where that fails."""
    environment = thread_environment(threads, spin) | {"PYTHONPATH": str(Path(__file__).parent)}
    names = {"name": "the measurement of the machine's own rate", "advice": "leave the roofline out of the report"}
    options = {**names, "environment": environment, "timeout": TIMEOUT_S}
    records: tuple[GemmRecord, ...] = run_in_child(MEASURE, threads, spin, returns=tuple[GemmRecord, ...], **options)
    return records


def with_rooflines(results: Results, checkpoint: Path | None) -> Results:
    """Results with the machine's rate, and with a checkpoint the roofline of every cell that was timed.

    Raises:
        ConfigError: the run was not on a CPU. CheckpointError: the checkpoint cannot be read.
        EngineError: the measurement failed.
    """
    if results.environment["device"] != "cpu":
        raise ConfigError("the roofline is measured on a CPU: give results of a run with --device cpu")
    gemm = measure_apart(results.environment["threads"], results.options["spin"])
    if checkpoint is None:
        return dataclasses.replace(results, gemm=gemm, rooflines=())
    work, beams = Arithmetic.of_checkpoint(checkpoint), results.options["beams"]
    prompts = results.model["prompts"] + results.model.get("user_prompts", 0)
    cells = {(record.task, record.batch_size): record for record in reversed(results.speed)}
    found = (rooflines(cells[cell], work, gemm, prompts, beams) for cell in reversed(cells))
    return dataclasses.replace(results, gemm=gemm, rooflines=tuple(record for records in found for record in records))


def main(
    results: Annotated[Path, typer.Argument(metavar="RESULTS", help="results.json that podx bench wrote.")],
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="Folder the bundle was exported from.")
    ] = None,
) -> None:
    """Put the roofline into results of podx bench, and draw their report again."""
    found = with_rooflines(BENCH_FILE.read(results), checkpoint)
    BENCH_FILE.write(results.parent, found)
    typer.echo(write_report(bench_report([found]), results.parent))


if __name__ == "__main__":
    run_command(main)
