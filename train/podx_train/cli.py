"""``podx train`` on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from podx.tasks import DEFAULT_TEMPLATES, load_templates, parse_tasks
from podx_train.data.dataset import Dataset
from podx_train.loop import TrainResult
from podx_train.options import Source, TrainOptions, method_options
from podx_train.processes import is_first_process, leave_processes
from podx_train.training import train_model

_DEFAULTS = TrainOptions()


def train(
    data: Annotated[Path, typer.Argument(help="Dataset folder, made by 'podx data prepare' or 'podx data synth'.")],
    out: Annotated[Path, typer.Option(help="Checkpoint folder to write.")],
    preset: Annotated[
        str | None, typer.Option(help="Shape with random weights: tiny (default), mini, t5-small.")
    ] = None,
    backbone: Annotated[str | None, typer.Option(help="A T5 with weights, by name or local folder.")] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Sentencepiece file, or 'train' to learn one (default with a preset).")
    ] = None,
    pieces: Annotated[int, typer.Option(help="Vocabulary of a trained tokeniser.")] = Source().pieces,
    tasks: Annotated[
        str | None, typer.Option(help="Comma-separated: sequential,topn,explanation. Default: all that have data.")
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help="pod; peapod: prompt vectors of each user as well (--user-prompts 3); p5: words in place of prompt "
            "vectors (--prompts 0 --batching mixed --inference discrete)."
        ),
    ] = "pod",
    prompts: Annotated[int | None, typer.Option(help=f"Prompt vectors a task; default {_DEFAULTS.prompts}.")] = None,
    batching: Annotated[str | None, typer.Option(help="alternated (default) or mixed.")] = None,
    inference: Annotated[
        str | None, typer.Option(help="bare (default): serve with ids alone; discrete: keep a worded template.")
    ] = None,
    user_prompts: Annotated[
        int | None, typer.Option(help="PeaPOD: prompt vectors made for each user from similar users.")
    ] = None,
    user_heads: Annotated[
        int, typer.Option(help="PeaPOD: attention heads over similar users; 0: a multi-layer perceptron.")
    ] = _DEFAULTS.user_heads,
    neighbours: Annotated[int, typer.Option(help="PeaPOD: similar users attended to.")] = _DEFAULTS.neighbours,
    user_vectors: Annotated[
        Path | None, typer.Option(help="PeaPOD: user embeddings of your own (.npy or .npz); default: factorisation.")
    ] = None,
    adapter: Annotated[
        str, typer.Option(help="none: train all weights; lora; prompt-only: prompts and whole-word table alone.")
    ] = _DEFAULTS.adapter,
    lora_rank: Annotated[int, typer.Option(help="Rank of LoRA matrices.")] = _DEFAULTS.lora_rank,
    epochs: Annotated[
        int, typer.Option(help="At most this many; 0 writes an untrained checkpoint.")
    ] = _DEFAULTS.epochs,
    updates: Annotated[
        int | None, typer.Option(help="At most this many optimiser steps; --schedule cosine ends there.")
    ] = None,
    max_minutes: Annotated[
        float | None, typer.Option(help="Stop after this long, within an epoch too; --resume goes on.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Records of an update, over all processes.")] = _DEFAULTS.batch_size,
    lr: Annotated[float, typer.Option(help="Learning rate of AdamW.")] = _DEFAULTS.lr,
    table_lr: Annotated[
        float | None, typer.Option(help="Times --lr for embeddings; default: 1 with --backbone, 30 with a preset.")
    ] = None,
    weight_decay: Annotated[float, typer.Option(help="Weight decay of AdamW.")] = _DEFAULTS.weight_decay,
    clip: Annotated[float, typer.Option(help="Largest gradient norm.")] = _DEFAULTS.clip,
    warmup: Annotated[int, typer.Option(help="Updates over which the learning rate rises.")] = _DEFAULTS.warmup,
    schedule: Annotated[str, typer.Option(help="Learning rate: constant or cosine.")] = _DEFAULTS.schedule,
    seed: Annotated[int, typer.Option(help="Seed of weights, order, segments and dropout.")] = _DEFAULTS.seed,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = _DEFAULTS.device,
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = _DEFAULTS.precision,
    templates: Annotated[Path | None, typer.Option(help="JSON file with wordings of your own.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the training in --out.")] = False,
    patience: Annotated[int, typer.Option(help="Epochs without improvement before stopping.")] = _DEFAULTS.patience,
    cumulative_patience: Annotated[
        bool, typer.Option("--cumulative-patience", help="Count them in all, not in a row.")
    ] = False,
    targets: Annotated[
        str, typer.Option(help="segment: one random segment a user and epoch; all: every training position.")
    ] = _DEFAULTS.targets,
    max_history: Annotated[
        int, typer.Option(help="Last items of a user that the model reads.")
    ] = _DEFAULTS.max_history,
    whole_word_on_prompt: Annotated[
        bool, typer.Option("--whole-word-on-prompt", help="Add whole-word row 0 to the prompt vectors.")
    ] = False,
    validation_users: Annotated[
        int | None, typer.Option(help="Validate on this many records a task; default: all.")
    ] = None,
    save_minutes: Annotated[float, typer.Option(help="How often to save within an epoch.")] = _DEFAULTS.save_minutes,
) -> None:
    """Train a POD model on a dataset folder and write a checkpoint folder."""
    given = {"prompts": prompts, "batching": batching, "inference": inference, "user_prompts": user_prompts}
    chosen = {**method_options(method), **{name: value for name, value in given.items() if value is not None}}
    options = TrainOptions(
        **chosen,
        user_heads=user_heads,
        neighbours=neighbours,
        user_vectors=None if user_vectors is None else str(user_vectors),
        adapter=adapter,
        lora_rank=lora_rank,
        tasks=None if tasks is None else parse_tasks(tasks),
        epochs=epochs,
        max_updates=updates,
        max_minutes=max_minutes,
        batch_size=batch_size,
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
        targets=targets,
        max_history=max_history,
        whole_word_on_prompt=whole_word_on_prompt,
        validation_users=validation_users,
        save_minutes=save_minutes,
    )
    source = Source(preset, backbone, tokenizer, pieces)
    wordings = DEFAULT_TEMPLATES if templates is None else load_templates(templates)
    result = train_model(Dataset.load(data), out, options, source, wordings, resume)
    if is_first_process():
        typer.echo(_summary(out, result))
    leave_processes()


def _summary(out: Path, result: TrainResult) -> str:
    if result.best_loss is None:
        return f"{out}: untrained checkpoint"
    ended = "; time was up, --resume goes on" if result.out_of_time else ""
    return (
        f"{out}: epoch {result.best_epoch} is best, mean validation loss {result.best_loss:.4f} "
        f"({result.epochs} epochs finished{ended})"
    )
