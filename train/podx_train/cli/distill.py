"""``podx distill`` on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from podx.text.templates import load_templates
from podx_train.cli.train import summary
from podx_train.data.dataset import Dataset
from podx_train.model.student import StudentShape
from podx_train.training.distill import DistillOptions, distill_model
from podx_train.training.options import TrainOptions
from podx_train.training.processes import is_first_process, leave_processes

_DEFAULTS = TrainOptions()
_DISTILLING = DistillOptions(StudentShape())


def distill(
    teacher: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="The teacher, made by 'podx train'.")],
    data: Annotated[Path, typer.Option(help="The dataset folder that the teacher was trained on.")],
    out: Annotated[Path, typer.Option(help="Checkpoint folder of the student to write.")],
    decoder_layers: Annotated[int, typer.Option(help="Decoder layers of the student.")],
    encoder_layers: Annotated[int | None, typer.Option(help="Its encoder layers; default: the teacher's.")] = None,
    d_ff: Annotated[
        int | None, typer.Option(help="Inner width of its feed-forward layers; default: the teacher's.")
    ] = None,
    weight: Annotated[
        float, typer.Option(help="Share of the teacher's distributions in the loss; the rest is the data's.")
    ] = _DISTILLING.weight,
    temperature: Annotated[
        float, typer.Option(help="Divides the logits of both; above 1, unlikely tokens count more.")
    ] = _DISTILLING.temperature,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Start the student from random weights, not from the teacher's.")
    ] = False,
    epochs: Annotated[
        int, typer.Option(help="At most this many; 0 writes the student as it was cut out.")
    ] = _DEFAULTS.epochs,
    updates: Annotated[
        int | None, typer.Option(help="At most this many optimiser steps; --schedule cosine ends there.")
    ] = None,
    max_minutes: Annotated[
        float | None, typer.Option(help="Stop after this long, within an epoch too; --resume goes on.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Records of an update, over all processes.")] = _DEFAULTS.batch_size,
    batching: Annotated[str, typer.Option(help="alternated or mixed.")] = _DEFAULTS.batching,
    targets: Annotated[
        str, typer.Option(help="segment: one random segment a user and epoch; all: every training position.")
    ] = _DEFAULTS.targets,
    lr: Annotated[float, typer.Option(help="Learning rate of AdamW.")] = _DEFAULTS.lr,
    table_lr: Annotated[
        float | None, typer.Option(help="Times --lr for embeddings; default: 1, with --from-scratch 30.")
    ] = None,
    weight_decay: Annotated[float, typer.Option(help="Weight decay of AdamW.")] = _DEFAULTS.weight_decay,
    clip: Annotated[float, typer.Option(help="Largest gradient norm.")] = _DEFAULTS.clip,
    warmup: Annotated[int, typer.Option(help="Updates over which the learning rate rises.")] = _DEFAULTS.warmup,
    schedule: Annotated[str, typer.Option(help="Learning rate: constant or cosine.")] = _DEFAULTS.schedule,
    seed: Annotated[int, typer.Option(help="Seed of order, segments and dropout.")] = _DEFAULTS.seed,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = _DEFAULTS.device,
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = _DEFAULTS.precision,
    templates: Annotated[
        Path | None, typer.Option(help="JSON file with wordings; default: those of the teacher.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the training in --out.")] = False,
    patience: Annotated[int, typer.Option(help="Epochs without improvement before stopping.")] = _DEFAULTS.patience,
    cumulative_patience: Annotated[
        bool, typer.Option("--cumulative-patience", help="Count them in all, not in a row.")
    ] = False,
    validation_users: Annotated[
        int | None, typer.Option(help="Validate on this many records a task; default: all.")
    ] = None,
    save_minutes: Annotated[float, typer.Option(help="How often to save within an epoch.")] = _DEFAULTS.save_minutes,
) -> None:
    """Train a smaller student of a checkpoint: from the data, and from the teacher's token distributions."""
    options = TrainOptions(
        epochs=epochs,
        max_updates=updates,
        max_minutes=max_minutes,
        batch_size=batch_size,
        batching=batching,
        targets=targets,
        lr=lr,
        table_lr=table_lr,
        weight_decay=weight_decay,
        clip=clip,
        warmup=warmup,
        schedule=schedule,
        seed=seed,
        device=device,
        precision=precision,
        patience=patience,
        cumulative_patience=cumulative_patience,
        validation_users=validation_users,
        save_minutes=save_minutes,
    )
    shape = StudentShape(decoder_layers, encoder_layers, d_ff)
    distilling = DistillOptions(shape, weight, temperature, from_scratch)
    wordings = None if templates is None else load_templates(templates)
    result = distill_model(teacher, Dataset.load(data), out, distilling, options, wordings, resume)
    if is_first_process():
        typer.echo(summary(out, result))
    leave_processes()
