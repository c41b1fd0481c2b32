"""What a training starts from: a preset or backbone, or a teacher (:mod:`podx_train.training.distill`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from podx.text.templates import Task
from podx.text.tokenizer import Tokenizer
from podx_train.batches.templates import Templates
from podx_train.data.dataset import Dataset
from podx_train.model.adapters import require_usable
from podx_train.model.pod_t5 import NO_ADAPTER, PodT5
from podx_train.training.options import RANDOM_EMBEDDING_LR, TRAIN_TOKENIZER, Source, TrainOptions
from podx_train.training.setup import new_model, tokenizer_bytes


def own_loss(model: PodT5) -> nn.Module:
    """The objective of plain training: the model's own forward, Eq. (1) of the POD paper."""
    return model


@dataclass(frozen=True)
class Start:
    """How to make what a training works on.

    Attributes:
        facts: what a resumed training must agree on, JSON values; ``training.json`` shows them as its ``source``.
        options: the command's options behind ``facts``, for an error message.
        tokenizer: makes the sentencepiece model.
        names_tokenizer: whether the tokeniser is one that somebody named: a resumed training must have that very one.
        model: makes the model to train, for these tasks and this tokeniser.
        embedding_scale: how many times the learning rate the embedding tables learn at by default.
        users: frozen arrays of users' prompt vectors; None: made from the dataset or read from a file.
        objective: wraps the model, which is on its device, in a module whose forward is the training loss.
    """

    facts: Mapping[str, Any]
    options: str
    tokenizer: Callable[[], bytes]
    names_tokenizer: bool
    model: Callable[[tuple[Task, ...], Tokenizer], PodT5]
    embedding_scale: float = 1.0
    users: Mapping[str, Tensor] | None = None
    objective: Callable[[PodT5], nn.Module] = own_loss


def start_from(source: Source, options: TrainOptions, dataset: Dataset, templates: Templates) -> Start:
    """Plain training from a preset or a backbone.

    Raises:
        ConfigError: an adapter that cannot work with it. DependencyError: the adapter's library is not installed.
    """
    require_usable(options, source)
    learnt = source.backbone and options.adapter == NO_ADAPTER  # an adapter trains none of a backbone's own rows
    return Start(
        facts=source.as_json(),
        options="--preset or --backbone",
        tokenizer=lambda: tokenizer_bytes(source, dataset, templates),
        names_tokenizer=source.tokenizer not in (None, TRAIN_TOKENIZER),
        model=lambda tasks, tokenizer: new_model(source, options, tasks, tokenizer, dataset, templates),
        embedding_scale=1.0 if learnt else RANDOM_EMBEDDING_LR,
    )
