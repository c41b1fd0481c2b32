"""What a reader must know to judge the figures: machine, model, data, bundles, and what arithmetic allows."""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from typing import Any

from podx_bench.harness.records import Results
from podx_bench.pages.render import Facts
from podx_bench.pages.table import NONE, Column, Row, TextTable, figures_table, short

INT8 = "int8"


def precision_name(precision: str, environment: Mapping[str, Any]) -> str:
    """A precision, int8 with the instructions that multiply it on the machine of the run, where they are known."""
    instructions = environment.get("instruction_set")
    return f"{precision} ({instructions})" if precision == INT8 and instructions else precision


def environment_rows(results: Results) -> Facts:
    """Model, data, bundles and machine of a run of ``podx bench``."""
    return [*model_rows(results), *_bundle_rows(results), *_rate_rows(results), *machine_rows(results.environment)]


def model_rows(run: Any) -> Facts:
    """Model, data and search of a run: of results that have ``model``, ``dataset``, ``options`` and ``environment``."""
    dataset = run.dataset
    return [
        ("model", _model_line(run.model, run.environment)),
        ("parity at export", plain(run.model["parity"]) or "unknown"),
        (
            "data",
            f"{dataset['name']}: {dataset['users']:,} users, {dataset['items']:,} items, {dataset['interactions']:,} "
            f"interactions, {dataset['scheme']} ids",
        ),
        ("search", f"{run.options['beams']} beams, {run.options['k']} answers"),
    ]


def machine_rows(environment: Mapping[str, Any]) -> Facts:
    """Hardware and versions, see :func:`podx_bench.harness.environment.describe`."""
    instructions, peers = environment.get("instruction_set"), _versions(environment.get("peers", {}))
    said = f"podx {environment['podx']} ({environment['podx_commit'] or 'no commit known'})"
    return [
        ("processor", f"{environment['cpu']}, {environment['usable_cores']} usable cores"),
        *([("int8 instructions", instructions)] if instructions else []),
        ("memory", f"{environment['memory_gb']} GB"),
        ("graphics", environment["gpu"] or "none"),
        ("device", f"{environment['device']}, {environment['threads']} threads for every engine"),
        ("system", f"{environment['os']}, Python {environment['python']}"),
        ("versions", f"{said}, {_versions(environment['packages'])}"),
        *([("versions of the peers", peers)] if peers else []),
    ]


def _versions(packages: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in packages.items())


def _bundle_rows(results: Results) -> Facts:
    """Precision, size and what export measured, of every bundle beside the run's own."""
    return [
        (
            f"bundle of {engine}",
            f"{precision_name(model['precision'], results.environment)}, {model['bundle_mb']} MB; at export: "
            f"{plain(model['parity']) or 'unknown'}",
        )
        for engine, model in results.variants.items()
    ]


def _rate_rows(results: Results) -> Facts:
    """How fast the machine multiplies matrices."""
    rates = {(record.precision, record.rows): short(record.giga_ops_per_s) for record in results.gemm}
    rows = sorted({record.rows for record in results.gemm})
    parts = [
        f"{precision_name(name, results.environment)} {' / '.join(rates.get((name, count), NONE) for count in rows)}"
        for name in dict.fromkeys(record.precision for record in results.gemm)
    ]
    shape = " / ".join(f"{count:,}" for count in rows)
    said = f"{', '.join(parts)} · 10⁹ operations/s through ONNX Runtime, {shape} rows by "
    return [("matrix products", f"{said}{r.inner} × {r.columns:,} weights") for r in results.gemm[:1]]


def plain(value: Any) -> str:
    """Facts as one line of text: the keys of what is nested, floats in short."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {plain(inner)}" for key, inner in value.items())
    if isinstance(value, (list, tuple)):
        return "; ".join(plain(inner) for inner in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _model_line(model: Mapping[str, Any], environment: Mapping[str, Any]) -> str:
    size = f"{model['parameters']:,} weights, " if model["parameters"] else ""
    epoch = model["best_epoch"]
    trained = "untrained" if epoch in (None, 0) else f"best epoch {epoch}"
    stored = f"{model['bundle_mb']} MB, " if "bundle_mb" in model else ""
    users = f" and {model['user_prompts']} a user" if model.get("user_prompts") else ""
    precision = precision_name(model["precision"], environment)
    return f"{size}{stored}{precision}, {model['prompts']} prompt vectors a task{users}, {trained}"


def roofline_tables(results: Results) -> list[TextTable]:
    """What the machine's own rate of multiplying matrices allows; empty where it was not measured."""
    first = ("task", "batch", "precision")
    rows: list[Row] = [
        ((r.task, str(r.batch_size), precision_name(r.precision, results.environment)), [r]) for r in results.rooflines
    ]
    return [figures_table("Roofline", first, rows, _ROOFLINE_COLUMNS, (_ROOFLINE_NOTE,))] if rows else []


_ROOFLINE_COLUMNS = (
    Column("tokens with prompts", attrgetter("source_tokens"), "{:.1f}".format),
    Column("10⁹ operations/user", attrgetter("giga_ops")),
    Column("ms/user", attrgetter("ms_per_user")),
)
_ROOFLINE_NOTE = (
    "Matrix products of all beams at the rate that ONNX Runtime's own operators reach on this machine, nothing else "
    "counted. A search that drops beams early does less and may need less time."
)
