"""Checkpoint → a folder for another stack: load, validate, write, compare, save."""

from __future__ import annotations

from pathlib import Path

from podx.atomic import whole_folder
from podx_export.layouts.comparison import compare_folder
from podx_export.layouts.transformers_folder import IDS_FILE, fill_folder, require_layout
from podx_export.pipeline import DEFAULT_PARITY_USERS, Progress, silent
from podx_export.verify.validate import require_exportable
from podx_train.batches.templates import with_inference
from podx_train.checkpoint.checkpoint import load_checkpoint


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
