"""How to train: every option in one frozen place, checked once."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from podx.errors import ConfigError, DataError, DeviceError
from podx.text.templates import ALL_TASKS, Task
from podx_train.data.dataset import Dataset
from podx_train.model.pod_t5 import (
    DEFAULT_LORA_RANK,
    DEFAULT_MAX_HISTORY,
    DEFAULT_NEIGHBOURS,
    DEFAULT_PROMPTS,
    DEFAULT_USER_HEADS,
    NO_ADAPTER,
)
from podx_train.model.presets import DEFAULT_PRESET, PRESETS
from podx_train.model.tokenizer_training import DEFAULT_PIECES

TRAIN_TOKENIZER = "train"
"""Value of ``--tokenizer`` that asks for a model learnt from the dataset."""

RANDOM_TABLE_LR = 30.0
"""AdamW moves every weight by about the learning rate, but T5 starts its token embedding at deviation 1, ten times that
of its matrices and more: at one rate for all, a random embedding hardly moves in the few updates a small model gets."""

_CHOICES: Mapping[str, tuple[str, ...]] = {
    "batching": ("alternated", "mixed"),
    "targets": ("segment", "all"),
    "schedule": ("constant", "cosine"),
    "inference": ("bare", "discrete"),
    "adapter": ("none", "lora", "prompt-only"),
    "device": ("auto", "cpu", "cuda"),
    "precision": ("auto", "fp32", "bf16"),
}
_LEAST = {
    "epochs": 0,
    "batch_size": 1,
    "patience": 1,
    "warmup": 0,
    "prompts": 0,
    "max_history": 1,
    "seed": 0,
    "user_prompts": 0,
    "user_heads": 0,
    "neighbours": 1,
    "lora_rank": 1,
}
_FREE_ON_RESUME = {
    "epochs",
    "max_updates",
    "max_minutes",
    "patience",
    "cumulative_patience",
    "device",
    "precision",
    "save_minutes",
}


METHODS: Mapping[str, Mapping[str, Any]] = {
    "pod": {},
    "p5": {"prompts": 0, "batching": "mixed", "inference": "discrete"},
    "peapod": {"user_prompts": 3},
}
"""Options that each method of the literature differs in from POD."""


def method_options(method: str) -> Mapping[str, Any]:
    """What a method sets; see :data:`METHODS`.

    Raises:
        ConfigError: no such method.
    """
    if method not in METHODS:
        raise ConfigError(f"unknown --method {method!r}: choose among {', '.join(METHODS)}")
    return METHODS[method]


@dataclass(frozen=True)
class TrainOptions:
    """Options of a training.

    Attributes:
        tasks: None: every task the dataset has data for.
        prompts: prompt vectors a task.
        batching: ``alternated`` or ``mixed``.
        epochs: at most this many; 0 writes an untrained checkpoint.
        max_updates: at most this many optimiser steps; None: no limit.
        max_minutes: stop after this long, validation included; None: no limit.
        batch_size: records of an update, all processes together.
        lr, weight_decay, clip: AdamW's learning rate and decay, largest gradient norm.
        table_lr: how many times ``lr`` the embedding tables (tokens, whole words, prompts) learn at; None: 1 for a
            backbone with weights, :data:`RANDOM_TABLE_LR` for a preset.
        warmup: updates over which the learning rate rises from zero.
        schedule: ``constant``, or ``cosine`` down to zero over ``epochs`` or ``max_updates``, whichever ends first.
        patience: epochs without improvement before training stops.
        cumulative_patience: count them in all rather than in a row, as the published code does.
        targets: ``segment`` or ``all``, see :func:`podx_train.batches.samplers.sequential_pool`.
        validation_users: validate on this many records a task, always the same; None: on all.
        save_minutes: how often to save within an epoch.
        precision: ``auto`` is bf16 on a GPU that has it, fp32 elsewhere; ``bf16`` works on CPUs that have it as well.
        inference: ``bare``: validation, test and serving read ids alone, as in the paper; ``discrete``: they read the
            first worded template of the task (P5).
        user_prompts, user_heads, neighbours: PeaPOD's prompt vectors of a user, see :class:`PodConfig`.
        user_vectors: file with user embeddings; None: matrix factorisation of the training interactions.
        adapter, lora_rank: which weights are trained, see :class:`PodConfig`.
    """

    tasks: tuple[Task, ...] | None = None
    prompts: int = DEFAULT_PROMPTS
    batching: str = "alternated"
    epochs: int = 30
    max_updates: int | None = None
    max_minutes: float | None = None
    batch_size: int = 64
    lr: float = 5e-4
    table_lr: float | None = None
    weight_decay: float = 0.01
    clip: float = 1.0
    warmup: int = 0
    schedule: str = "constant"
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    patience: int = 5
    cumulative_patience: bool = False
    targets: str = "segment"
    max_history: int = DEFAULT_MAX_HISTORY
    whole_word_on_prompt: bool = False
    validation_users: int | None = None
    save_minutes: float = 10.0
    inference: str = "bare"
    user_prompts: int = 0
    user_heads: int = DEFAULT_USER_HEADS
    neighbours: int = DEFAULT_NEIGHBOURS
    user_vectors: str | None = None
    adapter: str = NO_ADAPTER
    lora_rank: int = DEFAULT_LORA_RANK

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ConfigError(f"unknown {_flag(name)} {getattr(self, name)!r}: choose among {', '.join(choices)}")
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise ConfigError(f"{_flag(name)} must be at least {least}, not {getattr(self, name)}")
        for name in ("lr", "table_lr", "clip", "save_minutes", "max_minutes"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{_flag(name)} must be above zero, not {value}")
        if not self.weight_decay >= 0:
            raise ConfigError(f"--weight-decay must be at least 0, not {self.weight_decay}")
        for name in ("validation_users", "max_updates"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{_flag(name)} must be at least 1, not {value}")

    def as_json(self) -> dict[str, Any]:
        """The options as JSON values."""
        return dataclasses.asdict(self) | {"tasks": None if self.tasks is None else [t.value for t in self.tasks]}

    def refuse_changes(self, earlier: Mapping[str, Any]) -> None:
        """Check that a resumed training goes on as it began.

        Raises:
            ConfigError: an option that shapes the result differs; all such options are named.
        """
        own = self.as_json()
        free = _FREE_ON_RESUME - ({"epochs", "max_updates"} if self.schedule == "cosine" else set())
        usual = TrainOptions().as_json()  # of an option that is newer than the training
        changed = [name for name in own if name not in free and earlier.get(name, usual[name]) != own[name]]
        if changed:
            listed = ", ".join(f"{_flag(name)} was {earlier.get(name)}, is {own[name]}" for name in changed)
            raise ConfigError(f"--resume goes on with the options training began with ({listed}): give the same ones")


@dataclass(frozen=True)
class Source:
    """Where weights and tokeniser come from.

    Attributes:
        preset: name of a preset with random weights; None with a backbone.
        backbone: name or folder of a T5 with weights; None with a preset.
        tokenizer: a sentencepiece file, or ``train``; None: the backbone's own, for a preset ``train``.
        pieces: vocabulary of a trained tokeniser.
        layers: of encoder and decoder; None: the preset's.
    """

    preset: str | None = None
    backbone: str | None = None
    tokenizer: str | None = None
    pieces: int = DEFAULT_PIECES
    layers: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        """Refuse conflicts; without either, the smallest preset is meant."""
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
        return facts if self.layers is None else facts | {"layers": list(self.layers)}


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def choose_tasks(dataset: Dataset, asked: tuple[Task, ...] | None) -> tuple[Task, ...]:
    """The tasks to train.

    Raises:
        DataError: explanations were asked for and there are none to learn from.
    """
    has_explanations = bool(dataset.explanations["train"])
    if asked is None:
        return tuple(task for task in ALL_TASKS if task is not Task.EXPLANATION or has_explanations)
    if Task.EXPLANATION in asked and not has_explanations:
        raise DataError(
            "the dataset has no training explanations (explanation.json): leave explanation out of --tasks, "
            "or prepare the data from interactions with a review column"
        )
    return asked


def choose_device(asked: str) -> torch.device:
    """The device to train on.

    Raises:
        DeviceError: a GPU was asked for and torch finds none.
    """
    if asked == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda")
    if asked == "cuda":
        raise DeviceError("--device cuda: torch finds no GPU here; use --device cpu, or install torch's CUDA wheel")
    return torch.device("cpu")


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Whether to train in bf16.

    Raises:
        DeviceError: bf16 was asked for on a device without it.
    """
    on_gpu = device.type == "cuda" and torch.cuda.is_bf16_supported()
    able = on_gpu or (device.type == "cpu" and cpu_multiplies_bf16())
    if precision == "bf16" and not able:
        raise DeviceError("--precision bf16 needs a GPU or a CPU that has bf16: use --precision fp32 or auto")
    return precision == "bf16" or (precision == "auto" and on_gpu)


def cpu_multiplies_bf16() -> bool:
    """Whether this CPU has instructions for matrix products in bf16 (AMX or AVX-512 BF16)."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
