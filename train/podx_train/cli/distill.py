"""``podx distill``: train a smaller student of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from podx.flags import with_flags
from podx.text.templates import load_templates
from podx_train.checkpoint.checkpoint import read_config
from podx_train.cli.train import claim_memory, finish
from podx_train.data.dataset import Dataset
from podx_train.model.student import StudentShape
from podx_train.options import MODEL_OPTIONS, TrainOptions
from podx_train.training.distill import DistillOptions, distill_model, student_recipe


@with_flags(shape=StudentShape, distilling=DistillOptions, options=TrainOptions, leave_out=MODEL_OPTIONS)
def distill(
    teacher: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="The teacher, made by 'podx train'.")],
    data: Annotated[Path, typer.Option(help="The dataset folder that the teacher was trained on.")],
    out: Annotated[Path, typer.Option(help="Checkpoint folder of the student to write.")],
    shape: Mapping[str, Any],
    distilling: Mapping[str, Any],
    options: Mapping[str, Any],
    templates: Annotated[
        Path | None, typer.Option(help="JSON file with templates; default: those of the teacher.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the training in --out.")] = False,
) -> None:
    """Train a smaller student of a checkpoint: from the data, and from the teacher's token distributions."""
    how = DistillOptions(StudentShape(**shape), **distilling)
    given = None if templates is None else load_templates(templates)
    chosen = TrainOptions(**{**student_recipe(read_config(teacher)), **options})
    claim_memory(chosen)
    finish(out, distill_model(teacher, Dataset.load(data), out, how, chosen, given, resume))
