"""Training few weights of a pretrained backbone: LoRA, or the prompts alone.

``lora`` (Hu et al., ICLR 2022, by the library ``peft``): every matrix of attention (q, k, v, o) and of the feed-forward
layers (wi, wo) gets a product of two matrices of low rank, beginning at zero; the matrices themselves stay.
``prompt-only``: nothing of the backbone moves.

Under both, what the backbone never had is trained in full: prompt vectors, whole-word table, whatever makes the prompt
vectors of users, and the rows that item codes brought to the token embedding and to an output layer of its own.
Position biases, norms and all other rows stay to the bit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from podx.errors import CheckpointError, ConfigError, DependencyError
from podx.text.inputs import item_target_tokens
from podx.text.tokenizer import Tokenizer
from podx_train.data.dataset import Dataset
from podx_train.model.config import NO_ADAPTER, PodConfig
from podx_train.model.pod_t5 import PodT5

LORA, PROMPT_ONLY = "lora", "prompt-only"
ADAPTERS = (NO_ADAPTER, LORA, PROMPT_ONLY)
LORA_TARGETS = ("q", "k", "v", "o", "wi", "wi_0", "wi_1", "wo")
"""Names of the linear layers of a T5, gated ones included; the output layer is not among them."""
LORA_SCALE = 2
"""``lora_alpha`` over the rank: the weight of the low-rank product beside the matrix."""

_LORA_MARK = ".lora_"
Group = dict[str, Any]


def load_peft() -> ModuleType:
    try:
        import peft
    except ImportError as error:
        raise DependencyError(f"LoRA needs peft ({error}): pip install 'podx[peft]'") from error
    return peft


def add_adapter(model: PodT5) -> PodT5:
    """Put the matrices that ``model.config.adapter`` asks for into the backbone, in place; the same model.

    Raises:
        ConfigError: no such adapter. DependencyError: ``peft`` is not installed.
    """
    config = model.config
    if config.adapter not in ADAPTERS:
        raise ConfigError(f"unknown adapter {config.adapter!r}: choose among {', '.join(ADAPTERS)}")
    if config.adapter == LORA:
        peft = load_peft()
        shape = peft.LoraConfig(
            r=config.lora_rank,
            lora_alpha=LORA_SCALE * config.lora_rank,
            lora_dropout=0.0,
            target_modules=list(LORA_TARGETS),
        )
        peft.inject_adapter_in_model(shape, model.backbone)
    return model


def build_model(config: PodConfig) -> PodT5:
    """A model of a checkpoint's shape, its weights yet to be filled; torch's generator is left as it was.

    Raises:
        CheckpointError: the configuration describes no T5.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            return add_adapter(PodT5(config))
    except (TypeError, ValueError, KeyError, RuntimeError, ZeroDivisionError) as error:
        raise CheckpointError(f"the checkpoint's configuration describes no T5 ({error}): copy it again") from error


def merge_adapter(model: PodT5) -> PodT5:
    """Add each low-rank product to its matrix, in place: a plain T5 that answers alike; the same model.

    Raises:
        DependencyError: ``peft`` is not installed.
    """
    if model.config.adapter == LORA:
        load_peft()
        from peft.tuners.tuners_utils import BaseTunerLayer

        for name, layer in list(model.backbone.named_modules()):
            if isinstance(layer, BaseTunerLayer):
                layer.merge()
                model.backbone.set_submodule(name, layer.get_base_layer())
    if model.config.adapter != NO_ADAPTER:
        model.backbone.requires_grad_(True)
        model.config = dataclasses.replace(model.config, adapter=NO_ADAPTER)
    return model


def code_rows(dataset: Dataset, tokenizer: Tokenizer) -> npt.NDArray[np.int64]:
    """Rows of the token embedding that belong to item codes, int64, ascending; none where items have no codes.

    Raises:
        TokenizerError: the tokeniser cannot write an item.
    """
    if dataset.item_codes is None or dataset.item_texts is None:
        return np.zeros(0, dtype=np.int64)
    tokens = item_target_tokens(tokenizer, dataset.item_texts)
    return np.unique(np.concatenate([np.array(of_item, dtype=np.int64) for of_item in tokens]))


def freeze(model: PodT5, dataset: Dataset, tokenizer: Tokenizer) -> None:
    """Leave only what ``model.config.adapter`` names to be trained; call it once, on the device of training."""
    if model.config.adapter == NO_ADAPTER:
        return
    for name, parameter in model.backbone.named_parameters():
        parameter.requires_grad_(_LORA_MARK in name)
    rows = code_rows(dataset, tokenizer)
    model.trained_rows = len(rows)
    if not len(rows):
        return
    for table in model.token_tables():
        table.requires_grad_(True)
        _train_rows(table, rows)


def _train_rows(table: Tensor, rows: npt.NDArray[np.int64]) -> None:
    """Let gradients reach these rows alone."""
    mask = torch.zeros((len(table), 1), dtype=table.dtype, device=table.device)
    mask[torch.from_numpy(rows).to(table.device)] = 1.0
    table.register_hook(lambda gradient: gradient * mask)


def trained_groups(model: PodT5, groups: Iterable[Mapping[str, Any]]) -> list[Group]:
    """Groups for an optimiser without what is frozen.

    Tables of which only some rows are trained go into groups without weight decay, for decay knows no rows.
    """
    by_rows = {id(table) for table in model.token_tables()} if model.trained_rows is not None else set()
    result: list[Group] = []
    for group in groups:
        trained = [parameter for parameter in group["params"] if parameter.requires_grad]
        whole = [parameter for parameter in trained if id(parameter) not in by_rows]
        part = [parameter for parameter in trained if id(parameter) in by_rows]
        result += [{**group, "params": whole}, {**group, "params": part, "weight_decay": 0.0}]
    return [group for group in result if group["params"]]
