"""``podx export``: export a checkpoint to a bundle of ONNX graphs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from podx.bundle.manifest import Manifest
from podx.errors import ConfigError
from podx_export.card import NOT_MEASURED
from podx_export.layouts.export import RELEASE, export_transformers, export_triton
from podx_export.pipeline import DEFAULT_PARITY_USERS, export_checkpoint

_MEGABYTE = 1e6
LAYOUTS: Mapping[str, Callable[..., Manifest | float]] = {
    "bundle": export_checkpoint,
    "transformers": export_transformers,
    "triton": export_triton,
}


def export(
    checkpoint: Annotated[Path, typer.Argument(metavar="CKPT", help="Folder that podx train wrote.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to make.")],
    layout: Annotated[
        str,
        typer.Option(
            "--layout",
            help="bundle: what podx loads; transformers: a folder for Optimum's ORTModelForSeq2SeqLM; "
            "triton: a model repository for Triton Inference Server.",
        ),
    ] = "bundle",
    precision: Annotated[
        str,
        typer.Option(
            "--precision",
            help="fp32; int8 (for CPUs: about a quarter of the size, several times faster); fp16, bf16 (for GPUs).",
        ),
    ] = "fp32",
    inference: Annotated[
        str | None,
        typer.Option(
            "--inference",
            help="bare: inputs are ids alone; discrete: a template's words stay: longer inputs. Default: as trained.",
        ),
    ] = None,
    parity_users: Annotated[
        int, typer.Option("--parity-users", min=1, help="Users per task on whom graphs and eager model are compared.")
    ] = DEFAULT_PARITY_USERS,
    force: Annotated[bool, typer.Option("--force", help="Replace the export that is there.")] = False,
) -> None:
    """Export a checkpoint to a bundle of ONNX graphs, and prove that it answers like the eager model."""
    if layout not in LAYOUTS:
        raise ConfigError(f"unknown --layout {layout!r}: choose among {', '.join(LAYOUTS)}")
    console = Console()
    with console.status("export") as status:
        result = LAYOUTS[layout](
            checkpoint, out, precision, parity_users, force, lambda stage: status.update(f"export: {stage}"), inference
        )
    if isinstance(result, Manifest):
        console.print(_summary(result, out))
    else:
        console.print(f"largest log-probability difference from eager: {result:.1e}")
    console.print(f"{layout}: {out}", soft_wrap=True)


def _summary(manifest: Manifest, out: Path) -> Table:
    table = Table(title="exported", show_header=False)
    table.add_row("tasks", ", ".join(manifest.answered))
    table.add_row("precision", manifest.precision)
    for task, template in manifest.templates.items():
        table.add_row(f"{task}: words kept", escape(template))
    size = sum((out / name).stat().st_size for name in manifest.files)
    table.add_row("size", f"{size / _MEGABYTE:.1f} MB in {len(manifest.files)} files")
    if RELEASE in manifest.provenance:
        table.add_row("Triton", f"{manifest.provenance[RELEASE]} or later")
    if NOT_MEASURED in manifest.parity:
        table.add_row("parity", f"not measured: {manifest.parity[NOT_MEASURED]}")
        return table
    table.add_row("largest log-probability difference from eager", f"{manifest.parity['max_difference']:.1e}")
    for cost in manifest.parity.get("cost", ()):
        table.add_row(f"{cost['task']}: top 10 shared with fp32", f"{cost['overlap']:.1%} ({cost['users']} users)")
        hits = f"{cost['hit_rate']:.3f} against {cost['fp32_hit_rate']:.3f} in fp32"
        table.add_row(f"{cost['task']}: HR@10 of the last known item", hits)
    table.add_row("lists equal to eager", f"{manifest.parity['equal_lists']:.0%} of {manifest.parity['requests']}")
    return table
