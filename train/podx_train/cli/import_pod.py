"""``podx import-pod``: make a checkpoint from a model that POD's published code saved."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from podx.errors import ConfigError
from podx_train.model.config import DEFAULT_MAX_HISTORY
from podx_train.model.presets import backbone_tokenizer
from podx_train.published.import_pod import import_pod as run_import
from podx_train.published.import_pod import summary


def import_pod(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL.pt", help="What POD's pretrain.py saved. Nothing in it is run.")
    ],
    data: Annotated[Path, typer.Option(help="The dataset folder that the model was trained on.")],
    out: Annotated[Path, typer.Option(help="Checkpoint folder to write.")],
    tokenizer: Annotated[
        Path | None, typer.Option(help="Sentencepiece file of the T5 that the model began as.")
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help="That T5, by name or local folder (t5-small); only its tokeniser is taken.")
    ] = None,
    max_history: Annotated[
        int, typer.Option(help="Last items of a user that the model reads; the published code has 20.")
    ] = DEFAULT_MAX_HISTORY,
) -> None:
    """Make a checkpoint folder from a model that the published code of POD (or RDRec) saved."""
    if (tokenizer is None) == (backbone is None):
        raise ConfigError("say which tokeniser the model has: --tokenizer FILE or --backbone NAME, one of the two")
    pieces = tokenizer or backbone_tokenizer(str(backbone))
    typer.echo(summary(out, run_import(model, data, out, pieces, max_history)))
