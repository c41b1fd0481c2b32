"""How to train: every option of :func:`podx_train.training.train.train_model`, declared and checked once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec

from podx.errors import ConfigError
from podx.flags import check, flag_of, option
from podx.text.templates import Task, parse_tasks
from podx_train.model.config import (
    DEFAULT_LORA_RANK,
    DEFAULT_MAX_HISTORY,
    DEFAULT_NEIGHBOURS,
    DEFAULT_PROMPTS,
    DEFAULT_USER_HEADS,
    NO_ADAPTER,
)
from podx_train.model.presets import DEFAULT_PRESET, PRESETS, parse_layers
from podx_train.model.tokenizer_training import DEFAULT_PIECES

TRAIN_TOKENIZER = "train"
"""Value of ``--tokenizer`` that asks for a model learnt from the dataset."""

RANDOM_EMBEDDING_LR = 30.0
"""AdamW moves every weight by about the learning rate, but T5 starts its token embedding at deviation 1, ten times that
of its matrices and more: at one rate for all, a random embedding hardly moves in the few updates a small model gets."""

RANDOM, COOCCURRENCE, COPY = "random", "cooccurrence", "copy"
"""Where items start (``--item-init``) and where layers do (``--layer-init``)."""

MODEL_OPTIONS = frozenset(
    {
        *("tasks", "prompts", "max_history", "whole_word_on_prompt", "inference"),
        *("user_prompts", "user_heads", "neighbours", "user_vectors", "adapter", "lora_rank", "ceiling"),
    }
)
"""Fields of :class:`TrainOptions` that shape the model; a student takes them from its teacher."""

_FREE_ON_RESUME = {
    *("epochs", "max_updates", "max_minutes", "patience", "cumulative_patience", "device", "precision", "save_minutes")
}
_FORMER_NAMES = {"table_lr": "embedding_lr"}

METHODS: Mapping[str, Mapping[str, Any]] = {
    "pod": {},
    "p5": {"prompts": 0, "batching": "mixed", "inference": "discrete"},
    "peapod": {"user_prompts": 3},
}
"""Options that each method of the literature differs in from POD."""

FAST, PAPER, LARGE_CATALOG = "fast", "paper", "large-catalog"
_ONE_PASS: Mapping[str, Any] = {
    "targets": "pass",
    "item_init": COOCCURRENCE,
    "skip": 0.25,
    "max_history": 50,
    "batch_size": 128,
    "lr": 1e-3,
    "average": 0.999,
    "embedding_lr": 11.3,  # √128: T5 scales the output layer by 1/√d, so tables move in other units than matrices
    "beta2": 0.98,
    "weight_decay": 0.02,
    "warmup": 100,
    "epochs": 60,
    "validation_users": 5000,
}
_CODES: Mapping[str, Any] = {"layer_init": COPY, "label_smoothing": 0.35, "ceiling": 0.2}
RECIPES: Mapping[str, Mapping[str, Any]] = {FAST: _ONE_PASS, PAPER: {}, LARGE_CATALOG: {**_ONE_PASS, **_CODES}}
"""What each recipe sets of :class:`TrainOptions`; that of the paper is their defaults."""
RECIPE_SOURCES: Mapping[str, Mapping[str, Any]] = {
    FAST: {"preset": "flat", "pieces": 512},
    PAPER: {},
    LARGE_CATALOG: {"preset": "flat", "pieces": 512, "dropout": 0.35},
}
"""What each recipe sets of :class:`Source` where there is no backbone. No words are read, so few pieces do."""
OPTIONS_OF_THE_PAPER = frozenset(
    {"backbone", "preset", "targets", "batching", "inference", "adapter", "user_prompts", "user_vectors"}
)
"""Options that make ``paper`` the recipe where none is named."""


def method_options(method: str) -> Mapping[str, Any]:
    """What a method sets, see :data:`METHODS`; a ConfigError where there is no such method."""
    return _named("--method", METHODS, method)


def recipe_options(recipe: str) -> Mapping[str, Any]:
    """What a recipe sets, see :data:`RECIPES`; a ConfigError where there is no such recipe."""
    return _named("--recipe", RECIPES, recipe)


def _named(flag: str, known: Mapping[str, Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    if name not in known:
        raise ConfigError(f"unknown {flag} {name!r}: choose among {', '.join(known)}")
    return known[name]


_recipe = partial(option, panel="Recipe")
_model = partial(option, panel="Model")
_peapod = partial(option, panel="PeaPOD")
_length = partial(option, panel="How long")
_optimiser = partial(option, panel="Optimiser")
_running = partial(option, panel="Running")


@dataclass(frozen=True)
class TrainOptions:
    """Options of a training.

    Raises:
        ConfigError: an option is unknown or out of its bounds.
    """

    tasks: tuple[Task, ...] | None = _recipe(
        None, "Comma-separated: sequential,topn,explanation. Default: all that have data.", parse=parse_tasks
    )
    prompts: int = _recipe(DEFAULT_PROMPTS, "Prompt vectors a task.", least=0)
    batching: str = _recipe(
        "alternated",
        "alternated: a batch of each task in turn; mixed: tasks share batches.",
        choices=("alternated", "mixed"),
    )
    inference: str = _recipe(
        "bare",  # validation, test and serving read ids alone, as in the POD paper
        "bare: serve with ids alone; discrete: keep the first worded template of each task (P5).",
        choices=("bare", "discrete"),
    )
    targets: str = _recipe(
        "segment",
        "segment: one random segment a user and epoch; all: every training position, a record each; "
        "pass: every training position in one pass over the user (items written as codes, else a token each).",
        choices=("segment", "all", "pass"),
    )
    skip: float = _recipe(
        0.0, "Chance that a position learns the item after the next one (--targets pass).", least=0, most=0.5
    )
    item_init: str = _recipe(
        RANDOM,
        "Where item tokens of random weights start: random, or cooccurrence: near what users take beside them in "
        "training (--targets pass).",
        choices=(RANDOM, COOCCURRENCE),
    )
    layer_init: str = _recipe(
        RANDOM,
        "Where layers of random weights start: random, or copy: attention hands on the last items, so that their "
        "neighbours are recommended from the first update on (--targets pass).",
        choices=(RANDOM, COPY),
    )
    label_smoothing: float = _recipe(
        0.0, "Share of a token's target spread over its siblings (--targets pass).", least=0, most=0.9
    )
    ceiling: float = _recipe(
        1.0,
        "How likely an item's last token may be among its siblings where its others are unlikely, so that a search is "
        "soon certain; 1: no limit (--targets pass).",
        above=0,
        most=1,
    )
    adapter: str = _recipe(
        NO_ADAPTER,
        "none: all weights learn; lora: low-rank matrices; prompt-only: nothing of the backbone.",
        choices=("none", "lora", "prompt-only"),
    )
    lora_rank: int = _recipe(DEFAULT_LORA_RANK, "Rank of LoRA matrices.", least=1)
    max_history: int = _model(DEFAULT_MAX_HISTORY, "Last items of a user that the model reads.", least=1)
    whole_word_on_prompt: bool = _model(False, "Add whole-word row 0 to the prompt vectors.")
    user_prompts: int = _peapod(0, "Prompt vectors made for each user from similar users; --method peapod: 3.", least=0)
    user_heads: int = _peapod(
        DEFAULT_USER_HEADS, "Attention heads over similar users; 0: a multi-layer perceptron.", least=0
    )
    neighbours: int = _peapod(DEFAULT_NEIGHBOURS, "Similar users attended to.", least=1)
    user_vectors: str | None = _peapod(
        None, "User embeddings of your own (.npy or .npz); default: factorisation of the training interactions."
    )
    epochs: int = _length(30, "At most this many; 0 writes an untrained checkpoint.", least=0)
    max_updates: int | None = _length(
        None, "At most this many optimiser steps; --schedule cosine ends there.", flag="--updates", least=1
    )
    max_minutes: float | None = _length(
        None, "Stop after this long, validation included, within an epoch too; --resume goes on.", above=0
    )
    patience: int = _length(5, "Epochs without improvement before stopping.", least=1)
    cumulative_patience: bool = _length(False, "Count them in all, not in a row.")  # as the published code does
    validation_users: int | None = _length(
        None, "Validate on this many records a task, always the same; default: all.", least=1
    )
    batch_size: int = _optimiser(64, "Records of an update, over all processes.", least=1)
    lr: float = _optimiser(5e-4, "Learning rate of AdamW.", above=0)
    embedding_lr: float | None = _optimiser(
        None,  # of tokens, whole words and prompts
        "Times --lr for embeddings; default: 1 where they come with weights, 30 where they start at random.",
        above=0,
    )
    weight_decay: float = _optimiser(0.01, "Weight decay of AdamW.", least=0)
    beta2: float = _optimiser(0.999, "How slowly AdamW forgets squared gradients.", above=0, most=1)
    clip: float = _optimiser(1.0, "Largest gradient norm.", above=0)
    warmup: int = _optimiser(0, "Updates over which the learning rate rises from zero.", least=0)
    schedule: str = _optimiser(
        "constant",
        "Learning rate: constant, or cosine down to zero over --epochs or --updates, whichever ends first.",
        choices=("constant", "cosine"),
    )
    average: float = _optimiser(
        0.0,
        "Validate and keep a moving average of the weights, this share of which stays at each update.",
        least=0,
        most=1,
    )
    seed: int = _running(0, "Seed of weights, order, segments and dropout.", least=0)
    device: str = _running("auto", "auto, cpu or cuda.", choices=("auto", "cpu", "cuda"))
    precision: str = _running(
        "auto",
        "auto: bf16 on a GPU that has it, fp32 elsewhere; fp32; bf16, on CPUs that have it too.",
        choices=("auto", "fp32", "bf16"),
    )
    save_minutes: float = _running(10.0, "How often to save within an epoch.", above=0)

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        check(self)
        if self.one_pass and self.batching == "mixed":
            raise ConfigError("--targets pass reads one task a batch: leave --batching mixed out")
        if self.one_pass and self.inference == "discrete":
            raise ConfigError("--targets pass reads items and no words: leave --inference discrete out")
        started = self.item_init != RANDOM or self.layer_init != RANDOM
        if not self.one_pass and (self.skip or self.label_smoothing or started or self.ceiling < 1):
            raise ConfigError(
                "--skip, --label-smoothing, --ceiling, --item-init and --layer-init are for one pass over a user: "
                "add --targets pass, or leave them out"
            )

    @property
    def one_pass(self) -> bool:
        """Whether one pass over a user trains all its positions."""
        return self.targets == "pass"

    def as_json(self) -> dict[str, Any]:
        """The options as JSON values."""
        content: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self))
        return content

    def refuse_changes(self, earlier: Mapping[str, Any]) -> None:
        """Check that a resumed training goes on as it began.

        Raises:
            ConfigError: an option that shapes the result differs; all such options are named.
        """
        now = self.as_json()
        before = TrainOptions().as_json()  # of options that are newer than the training
        before |= {_FORMER_NAMES.get(name, name): value for name, value in earlier.items()}
        free = _FREE_ON_RESUME - ({"epochs", "max_updates"} if self.schedule == "cosine" else set())
        changed = [name for name in now if name not in free and before[name] != now[name]]
        if changed:
            listed = ", ".join(f"{flag_of(self, name)} was {before[name]}, is {now[name]}" for name in changed)
            raise ConfigError(f"--resume goes on with the options training began with ({listed}): give the same ones")


@dataclass(frozen=True)
class Source:
    """Where weights and tokeniser come from: the smallest preset, unless a preset or a backbone is named.

    Raises:
        ConfigError: options conflict, or there is no such preset.
    """

    preset: str | None = _model(None, f"Shape with random weights: {', '.join(PRESETS)}; default: {DEFAULT_PRESET}.")
    layers: tuple[int, int] | None = _model(
        None, "Layers of a preset's encoder and decoder, such as 2,6; default: the preset's own.", parse=parse_layers
    )
    backbone: str | None = _model(None, "A T5 with weights, by name or local folder.")
    tokenizer: str | None = _model(
        None, "Sentencepiece file, or 'train' to learn one; default: train with a preset, else the backbone's own."
    )
    pieces: int = _model(DEFAULT_PIECES, "Vocabulary of a trained tokeniser.")
    dropout: float | None = _model(None, "Dropout; default: the preset's or the backbone's own.", least=0, most=0.9)

    def __post_init__(self) -> None:
        """Refuse conflicts; without either, the smallest preset is meant."""
        check(self)
        if self.backbone and self.layers:
            raise ConfigError("--backbone and --layers conflict: a backbone has its own layers")
        if self.preset and self.backbone:
            raise ConfigError("--preset and --backbone conflict: a preset has random weights, a backbone its own")
        if self.backbone and self.tokenizer == TRAIN_TOKENIZER:
            raise ConfigError(
                "--backbone and --tokenizer train conflict: a backbone's weights know only its own tokens; "
                "leave --tokenizer out, or use --preset"
            )
        if not self.backbone and (self.preset or DEFAULT_PRESET) not in PRESETS:
            raise ConfigError(f"unknown --preset {self.preset!r}: choose among {', '.join(PRESETS)}")

    @property
    def preset_name(self) -> str:
        """The preset, where there is no backbone."""
        return self.preset or DEFAULT_PRESET

    @property
    def trains_tokenizer(self) -> bool:
        """Whether the tokeniser is learnt from the dataset."""
        return not self.backbone and self.tokenizer in (None, TRAIN_TOKENIZER)

    def as_json(self) -> dict[str, Any]:
        """What a resumed training must agree on."""
        facts: dict[str, Any] = {"preset": None if self.backbone else self.preset_name, "backbone": self.backbone}
        facts |= {} if self.layers is None else {"layers": list(self.layers)}
        return facts if self.dropout is None else facts | {"dropout": self.dropout}
