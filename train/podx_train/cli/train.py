"""``podx train`` on the command line."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from podx.text.templates import DEFAULT_TEMPLATES, load_templates, parse_tasks
from podx_train.data.dataset import Dataset
from podx_train.model.presets import parse_layers
from podx_train.training.loop import TrainResult
from podx_train.training.options import Source, TrainOptions, method_options
from podx_train.training.processes import is_first_process, leave_processes
from podx_train.training.training import train_model

_DEFAULTS = TrainOptions()

_recipe = partial(typer.Option, rich_help_panel="Recipe")
_model = partial(typer.Option, rich_help_panel="Model")
_peapod = partial(typer.Option, rich_help_panel="PeaPOD")
_length = partial(typer.Option, rich_help_panel="How long")
_optimiser = partial(typer.Option, rich_help_panel="Optimiser")
_running = partial(typer.Option, rich_help_panel="Running")


def train(
    data: Annotated[Path, typer.Argument(help="Dataset folder, made by 'podx data prepare' or 'podx data synth'.")],
    out: Annotated[Path, typer.Option(help="Checkpoint folder to write.")],
    method: Annotated[
        str, _recipe(help="pod; p5: --prompts 0 --batching mixed --inference discrete; peapod: --user-prompts 3.")
    ] = "pod",
    tasks: Annotated[
        str | None, _recipe(help="Comma-separated: sequential,topn,explanation. Default: all that have data.")
    ] = None,
    prompts: Annotated[int | None, _recipe(help=f"Prompt vectors a task; default {_DEFAULTS.prompts}.")] = None,
    batching: Annotated[
        str | None, _recipe(help="alternated (default): a batch of each task in turn; mixed: tasks share batches.")
    ] = None,
    inference: Annotated[
        str | None, _recipe(help="bare (default): serve with ids alone; discrete: keep a worded template.")
    ] = None,
    templates: Annotated[Path | None, _recipe(help="JSON file with wordings of your own.")] = None,
    targets: Annotated[
        str, _recipe(help="segment: one random segment a user and epoch; all: every training position.")
    ] = _DEFAULTS.targets,
    adapter: Annotated[
        str, _recipe(help="none: all weights learn; lora: low-rank matrices; prompt-only: nothing of the backbone.")
    ] = _DEFAULTS.adapter,
    lora_rank: Annotated[int, _recipe(help="Rank of LoRA matrices.")] = _DEFAULTS.lora_rank,
    preset: Annotated[str | None, _model(help="Shape with random weights: tiny (default), mini, t5-small.")] = None,
    layers: Annotated[
        str | None, _model(help="Layers of a preset's encoder and decoder, such as 2,6; default: the preset's own.")
    ] = None,
    backbone: Annotated[str | None, _model(help="A T5 with weights, by name or local folder.")] = None,
    tokenizer: Annotated[
        str | None, _model(help="Sentencepiece file, or 'train' to learn one (default with a preset).")
    ] = None,
    pieces: Annotated[int, _model(help="Vocabulary of a trained tokeniser.")] = Source().pieces,
    max_history: Annotated[int, _model(help="Last items of a user that the model reads.")] = _DEFAULTS.max_history,
    whole_word_on_prompt: Annotated[
        bool, _model("--whole-word-on-prompt", help="Add whole-word row 0 to the prompt vectors.")
    ] = False,
    user_prompts: Annotated[
        int | None, _peapod(help="Prompt vectors made for each user from similar users; default 0, PeaPOD 3.")
    ] = None,
    user_heads: Annotated[
        int, _peapod(help="Attention heads over similar users; 0: a multi-layer perceptron.")
    ] = _DEFAULTS.user_heads,
    neighbours: Annotated[int, _peapod(help="Similar users attended to.")] = _DEFAULTS.neighbours,
    user_vectors: Annotated[
        Path | None, _peapod(help="User embeddings of your own (.npy or .npz); default: factorisation.")
    ] = None,
    epochs: Annotated[int, _length(help="At most this many; 0 writes an untrained checkpoint.")] = _DEFAULTS.epochs,
    updates: Annotated[
        int | None, _length(help="At most this many optimiser steps; --schedule cosine ends there.")
    ] = None,
    max_minutes: Annotated[
        float | None, _length(help="Stop after this long, within an epoch too; --resume goes on.")
    ] = None,
    patience: Annotated[int, _length(help="Epochs without improvement before stopping.")] = _DEFAULTS.patience,
    cumulative_patience: Annotated[
        bool, _length("--cumulative-patience", help="Count them in all, not in a row.")
    ] = False,
    validation_users: Annotated[int | None, _length(help="Validate on this many records a task; default: all.")] = None,
    batch_size: Annotated[int, _optimiser(help="Records of an update, over all processes.")] = _DEFAULTS.batch_size,
    lr: Annotated[float, _optimiser(help="Learning rate of AdamW.")] = _DEFAULTS.lr,
    table_lr: Annotated[
        float | None,
        _optimiser(help="Times --lr for embeddings; default: 1 with --backbone, 30 with a preset or an adapter."),
    ] = None,
    weight_decay: Annotated[float, _optimiser(help="Weight decay of AdamW.")] = _DEFAULTS.weight_decay,
    clip: Annotated[float, _optimiser(help="Largest gradient norm.")] = _DEFAULTS.clip,
    warmup: Annotated[int, _optimiser(help="Updates over which the learning rate rises.")] = _DEFAULTS.warmup,
    schedule: Annotated[str, _optimiser(help="Learning rate: constant or cosine.")] = _DEFAULTS.schedule,
    seed: Annotated[int, _running(help="Seed of weights, order, segments and dropout.")] = _DEFAULTS.seed,
    device: Annotated[str, _running(help="auto, cpu or cuda.")] = _DEFAULTS.device,
    precision: Annotated[str, _running(help="auto, fp32 or bf16.")] = _DEFAULTS.precision,
    resume: Annotated[bool, _running("--resume", help="Go on with the training in --out.")] = False,
    save_minutes: Annotated[float, _running(help="How often to save within an epoch.")] = _DEFAULTS.save_minutes,
) -> None:
    """Train a recommender on a dataset folder and write a checkpoint folder.

    \b
    Which recipe when
    \b
    --method pod      The usual choice. Prompt vectors take the place of words,
                      so that inputs are short when the model serves.
    --method peapod   Prompt vectors of each user as well, from similar users:
                      where tastes differ and users have histories to compare.
    --method p5       The baseline to compare with: words, no prompt vectors,
                      tasks mixed in a batch. Longer inputs, more padding.
    \b
    ids               Chosen before, with the dataset. Numbers need nothing;
                      codes ('podx data index') tell the model which items are
                      taken together.
    \b
    --adapter none    All weights learn; the only way with a preset.
    --adapter lora    A pretrained --backbone stays; small matrices beside its
                      own learn, so the optimiser needs little memory.
    --adapter prompt-only   Only prompt vectors and other new tables learn, for
                      a backbone that nothing may change.
    \b
    --targets segment One target a user and epoch, drawn anew: as published.
    --targets all     Every training position is a target once an epoch.
    """
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
    source = Source(preset, backbone, tokenizer, pieces, None if layers is None else parse_layers(layers))
    wordings = DEFAULT_TEMPLATES if templates is None else load_templates(templates)
    result = train_model(Dataset.load(data), out, options, source, wordings, resume)
    if is_first_process():
        typer.echo(summary(out, result))
    leave_processes()


def summary(out: Path, result: TrainResult) -> str:
    """How a training into the folder ``out`` ended, in a line."""
    if result.best_loss is None:
        return f"{out}: untrained checkpoint"
    ended = "; time was up, --resume goes on" if result.out_of_time else ""
    return (
        f"{out}: epoch {result.best_epoch} is best, mean validation loss {result.best_loss:.4f} "
        f"({result.epochs} epochs finished{ended})"
    )
