"""``podx train``: train a POD model on a dataset folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from accelerate import PartialState

from podx.errors import ConfigError
from podx.flags import with_flags
from podx.text.templates import DEFAULT_TEMPLATES, Task, load_templates
from podx_train.data.dataset import Dataset
from podx_train.options import (
    FAST,
    LARGE_CATALOG,
    OPTIONS_OF_THE_PAPER,
    PAPER,
    RECIPE_SOURCES,
    Source,
    TrainOptions,
    method_options,
    recipe_options,
)
from podx_train.training.cpu import keep_freed_memory
from podx_train.training.loop import TrainResult
from podx_train.training.processes import choose_device
from podx_train.training.ranking import below_popularity
from podx_train.training.train import train_model


@with_flags(options=TrainOptions, source=Source)
def train(
    data: Annotated[Path, typer.Argument(help="Dataset folder, made by 'podx data prepare' or 'podx data synth'.")],
    out: Annotated[Path, typer.Option(help="Checkpoint folder to write.")],
    *,
    method: Annotated[
        str | None,
        typer.Option(
            help="pod (default); p5: --prompts 0 --batching mixed --inference discrete; peapod: --user-prompts 3.",
            rich_help_panel="Recipe",
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="fast: one pass over a user, a token an item; large-catalog: the same for codes; paper: as published. "
            "Default: fast, or paper where --backbone, --preset, --method, --targets, --batching, --inference, "
            "--adapter, --user-prompts or --tasks with topn is given.",
            rich_help_panel="Recipe",
        ),
    ] = None,
    source: Mapping[str, Any],
    options: Mapping[str, Any],
    templates: Annotated[
        Path | None, typer.Option(help="JSON file with templates of your own.", rich_help_panel="Recipe")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the training in --out.", rich_help_panel="Running")
    ] = False,
) -> None:
    """Train a recommender on a dataset folder and write a checkpoint folder.

    \b
    Which recipe when
    \b
    --recipe fast     The default: the most accurate in the least time. Learns
                      the next item; ranks candidates by the same distribution.
    --recipe paper    Trains each task by itself, as the POD paper does.
    \b
    --method pod      Prompt vectors take the place of words, so that inputs
                      are short when the model serves.
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
    if recipe is None:
        of_the_paper = not OPTIONS_OF_THE_PAPER.isdisjoint({*options, *source}) or Task.TOPN in options.get("tasks", ())
        recipe = PAPER if method or of_the_paper else FAST
    chosen = TrainOptions(**{**recipe_options(recipe), **method_options(method or "pod"), **options})
    given = DEFAULT_TEMPLATES if templates is None else load_templates(templates)
    claim_memory(chosen)
    preset = {} if "backbone" in source else RECIPE_SOURCES[recipe]
    dataset = Dataset.load(data)
    if recipe == LARGE_CATALOG and dataset.item_codes is None:
        raise ConfigError(
            f"--recipe {LARGE_CATALOG} learns items as codes, which {data} does not have: make a dataset of codes with "
            f"'podx data index {data} --collaborative --out coded' and train on that, or take --recipe {FAST}"
        )
    finish(out, train_model(dataset, out, chosen, Source(**{**preset, **source}), given, resume))


def claim_memory(options: TrainOptions) -> None:
    """Keep freed memory in this process, where it is to train on a CPU."""
    if choose_device(options.device).type == "cpu":
        keep_freed_memory()


def finish(out: Path, result: TrainResult) -> None:
    """Print how a training ended, and leave the processes that trained together."""
    processes = PartialState()
    if processes.is_main_process:
        typer.echo(summary(out, result))
    processes.destroy_process_group()  # nothing with one process


def summary(out: Path, result: TrainResult) -> str:
    """How a training into the folder ``out`` ended, in a line."""
    if result.best_loss is None:
        return f"{out}: untrained checkpoint"
    best = f"mean validation loss {result.best_loss:.4f}"
    warning = ""
    ranked = [entry for entry in result.curve if "validation_ranking" in entry]
    if ranked:
        best = f"validation NDCG@10 {-result.best_loss:.4f}"
        if all(below_popularity(entry["validation_ranking"]) for entry in ranked):
            warning = (
                "\nwarning: it ranks validation items worse than popularity does, so do not serve it: "
                "train longer, or with more data"
            )
    ended = "; time was up, --resume goes on" if result.out_of_time else ""
    return f"{out}: epoch {result.best_epoch} is best, {best} ({result.epochs} epochs finished{ended}){warning}"
