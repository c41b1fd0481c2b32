"""What a run measured, and the one file it is kept in. Every report is made from this file alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from podx_bench.harness.record_file import RecordFile
from podx_bench.harness.resources import MILLISECONDS

CONSTRAINED, UNCONSTRAINED, TEXT = "constrained", "unconstrained", "text"


@dataclass(frozen=True, kw_only=True)
class Timed:
    """What all measurements of an engine's time say.

    Attributes:
        batch_size: requests that the engine runs at a time.
        users_per_s: over all timed calls.
        peak_rss_mb: most memory the engine's process has held up to then, loading included (10^6 bytes). Batch sizes
            run in ascending order.
        ratio_vs_encode_once, ratio_vs_as_published: baseline's time ÷ own, median over the rounds; None: not run.
        source_tokens_mean, source_tokens_max: of the timed requests' inputs, prompt vectors and padding not counted.
        decoding_steps: of the deepest item, end of sequence included. These three: None where they are not known.
    """

    engine: str
    task: str
    batch_size: int
    users_per_s: float
    peak_rss_mb: float
    ratio_vs_encode_once: float | None
    ratio_vs_as_published: float | None
    source_tokens_mean: float | None = None
    source_tokens_max: int | None = None
    decoding_steps: int | None = None


@dataclass(frozen=True, kw_only=True)
class SpeedRecord(Timed):
    """Latency of one engine on one task and batch size.

    Attributes:
        p50_ms, p95_ms, p99_ms: of one call, that is of one batch. ms_per_user: over all timed calls.
        load_s: from the start of the process to its first answer.
        rounds: turns taken; calls: timed calls in them. round_ms: time of each round, all its calls together.
    """

    p50_ms: float
    p95_ms: float
    p99_ms: float
    ms_per_user: float
    load_s: float
    rounds: int
    calls: int
    round_ms: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class StreamRecord(Timed):
    """One engine given all users in one call and free to order them. ``round_s``: ``seconds`` alone."""

    users: int
    seconds: float
    round_s: tuple[float, ...]


@dataclass(frozen=True)
class GemmRecord:
    """How fast the machine multiplies matrices [rows, inner] · [inner, columns].

    Attributes:
        precision: ``fp32`` or ``int8``. operator: ONNX Runtime's.
        giga_ops_per_s: 10^9 multiplications and additions a second, of the median call. calls: timed ones.
        threads: of the operator.
    """

    precision: str
    operator: str
    rows: int
    inner: int
    columns: int
    giga_ops_per_s: float
    calls: int
    threads: int


@dataclass(frozen=True)
class RooflineRecord:
    """Time that the arithmetic of one user takes at the machine's own rate, put in by ``bench/studies/roofline.py``.

    Attributes:
        source_tokens: mean of the inputs, prompt vectors counted. decoding_steps: see :class:`SpeedRecord`.
        giga_ops: 10^9 multiplications and additions per user.
    """

    task: str
    batch_size: int
    precision: str
    source_tokens: float
    decoding_steps: int
    giga_ops: float
    ms_per_user: float


@dataclass(frozen=True, kw_only=True)
class AccuracyRecord:
    """Accuracy of one engine, or of a row that learns nothing, on one task.

    Attributes:
        decoding: how answers were searched for: ``constrained``, inside the catalog; ``unconstrained``, over the whole
            vocabulary; ``text``, an explanation.
        users: how many users (explanations: records) it was measured on.
        seconds: time of all calls; None for rows that run no model.
        metrics: by name. Lists: ``hr_1`` … ``ndcg_10``, and shares of the answers that are no item (``invalid``),
            repeat an earlier one (``duplicate``), are in the user's history (``seen``), or, top-N alone, are no
            candidate (``outside``). Texts: ``bleu_4``, ``rouge_1``, ``rouge_2``, ``rouge_l``, in percent.
        overlap: mean share of the first ten answers of the reference, ``overlap_with``, found (texts: share of equal
            texts); None: there is no reference. overlap_users: users that both answered.
        hr_10_loss: how much smaller HR@10 is than the reference's on those users, as a share of it (negative: it is
            larger); None: there is no reference, or it hits nothing.
    """

    engine: str = ""
    task: str
    decoding: str = CONSTRAINED
    users: int
    seconds: float | None = None
    metrics: Mapping[str, float]
    overlap: float | None = None
    overlap_with: str | None = None
    overlap_users: int = 0
    hr_10_loss: float | None = None

    @property
    def ms_per_user(self) -> float | None:
        """Time of all calls over the users."""
        return None if self.seconds is None else MILLISECONDS * self.seconds / self.users


@dataclass(frozen=True)
class Results:
    """A run.

    Attributes:
        label: name of the run in tables that compare several.
        environment: machine and versions. options: what was asked for. model: from the manifest.
        dataset: name, counts, ID scheme. engines: name → what it is, in the order asked for.
        variants: name of an engine with a bundle of its own → what the bundle's manifest says.
        gemm, rooflines: empty where the machine's rate was not measured.
    """

    label: str
    environment: Mapping[str, Any]
    options: Mapping[str, Any]
    model: Mapping[str, Any]
    dataset: Mapping[str, Any]
    engines: Mapping[str, str]
    speed: tuple[SpeedRecord, ...] = ()
    accuracy: tuple[AccuracyRecord, ...] = ()
    notes: tuple[str, ...] = ()
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    stream: tuple[StreamRecord, ...] = ()
    gemm: tuple[GemmRecord, ...] = ()
    rooflines: tuple[RooflineRecord, ...] = ()


BENCH_FILE = RecordFile("results.json", "podx-bench", 1, "podx bench", Results, {"floors": "rooflines"})
