"""Checkpoint → a folder for another stack: load, validate, write, compare, save."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import onnx

from podx.atomic import whole_folder
from podx.bundle import signature as sig
from podx.bundle.bundle import Bundle
from podx.bundle.id_lines import write_ids
from podx.bundle.manifest import Manifest, file_sha256
from podx.errors import ExportError
from podx_export.blocks.graph import BF16
from podx_export.layouts.comparison import compare_folder
from podx_export.layouts.transformers_folder import IDS_FILE, fill_folder, require_layout
from podx_export.layouts.triton_config import MODEL_NAME, config_text, least_release, server_graph
from podx_export.pipeline import DEFAULT_PARITY_USERS, Progress, export_checkpoint, silent
from podx_export.search.table_initializers import data_files
from podx_export.verify.validate import require_exportable
from podx_train.batches.templates import with_inference
from podx_train.checkpoint.checkpoint import load_checkpoint

CONFIG_FILE = "config.pbtxt"
RELEASE = "triton"
"""Among the facts of a manifest: the oldest release that runs the model."""


def export_transformers(
    checkpoint: Path,
    out: Path,
    precision: str = "fp32",
    parity_users: int = DEFAULT_PARITY_USERS,
    force: bool = False,
    progress: Progress = silent,
    inference: str | None = None,
) -> float:
    """Export a checkpoint to a folder that Optimum's ``ORTModelForSeq2SeqLM`` loads.

    Args: see :func:`podx_export.pipeline.export_checkpoint`. ``force`` replaces a folder of this layout.

    Returns:
        the largest difference of a log-probability from the eager model.

    Raises:
        CheckpointError: the checkpoint cannot be read. ConfigError: unknown ``inference``. ExportError: the model
            cannot be exported, or not in this layout. ParityError: the graphs do not answer like the eager model.
        DataError: ``out`` is in use.
    """
    with whole_folder(out.resolve(), IDS_FILE, force) as folder:
        progress("load the checkpoint")
        source = with_inference(load_checkpoint(checkpoint), inference)
        progress("validate")
        require_exportable(source, precision)
        require_layout(source, precision)
        progress("write graphs and tokenizers")
        fill_folder(source, folder)
        progress("compare with the eager model")
        return compare_folder(source, folder, parity_users)


def export_triton(
    checkpoint: Path,
    out: Path,
    precision: str = "fp32",
    parity_users: int = DEFAULT_PARITY_USERS,
    force: bool = False,
    progress: Progress = silent,
    inference: str | None = None,
) -> Manifest:
    """Export a checkpoint as the model ``podx`` of a model repository of Triton Inference Server.

    Args: see :func:`podx_export.pipeline.export_checkpoint`. ``out``: the repository; other models in it stay, and
    ``force`` replaces this model alone.

    Returns:
        what the bundle's manifest says, with the files of the repository.

    Raises:
        as :func:`podx_export.pipeline.export_checkpoint`, and ExportError: the model recommends no items, or no
            release is known to run it. CatalogError: a raw id holds a line break. DataError: the place is in use.
    """
    if precision == BF16:
        raise ExportError("not known which Triton runs bf16: choose --precision fp16, which is for GPUs too")
    out = out.resolve()
    with whole_folder(out / MODEL_NAME, CONFIG_FILE, force) as folder:
        bundle = folder / "bundle"
        manifest = export_checkpoint(checkpoint, bundle, precision, parity_users, False, progress, inference)
        if sig.NUMBERS_FILE not in manifest.files:
            raise ExportError("the layout triton holds item search, and this model has the task explanation alone")
        progress("write the model repository")
        release = _fill_model(Bundle.load(bundle), folder)
        shutil.rmtree(bundle)
        files = {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_file()}
        return replace(
            manifest,
            files={f"{MODEL_NAME}/{name.as_posix()}": file_sha256(path) for name, path in files.items()},
            provenance={**manifest.provenance, RELEASE: release},
        )


def _fill_model(bundle: Bundle, folder: Path) -> str:
    """Take graph and data out of a bundle; the oldest release that runs them."""
    model = onnx.load(str(bundle.path / sig.NUMBERS_FILE), load_external_data=False)
    server_graph(model)
    (folder / CONFIG_FILE).write_text(config_text(model, bundle.manifest.precision), encoding="utf-8")
    version = folder / "1"
    version.mkdir()
    write_ids(folder / "items.txt", bundle.catalog.items, "item")
    if {sig.USER, sig.USER_ROWS} & {value.name for value in model.graph.input}:
        write_ids(folder / "users.txt", bundle.users.ids, "user")
    for name in data_files(model):
        (bundle.path / name).rename(version / name)
    (version / "model.onnx").write_bytes(model.SerializeToString())
    onnx.checker.check_model(str(version / "model.onnx"))
    return least_release(model)[0]
