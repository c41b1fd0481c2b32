"""The checkpoint folder, and the state from which a training goes on.

A folder holds

- ``config.json``, ``model.safetensors``, ``spiece.model``, ``dataset/`` (sequences and raw ids) and ``training.json``:
  the checkpoint, of the epoch with the lowest validation loss so far;
- ``explanation_tokens.json``: which tokens the explanations that it learnt from are made of;
- ``users.safetensors``: frozen user embeddings, where users have prompt vectors of their own;
- ``trainer.safetensors``: where training stands (weights, optimiser, counters), for ``--resume``;
- ``train_log.jsonl`` and ``loss.png``, for people.

Every file is written under a temporary name and renamed, and ``config.json`` comes last: without it a folder is no
checkpoint. What must agree is in one file: the weights carry the epoch they are of, and the whole trainer state is one
safetensors file with its counters in the header. So a kill at any instant leaves the old state or the new one.
No pickle is written or read.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from podx.atomic import replace_file, write_text
from podx.bundle.catalog import Catalog
from podx.errors import CheckpointError, DataError, TokenizerError
from podx.text.inputs import InputEncoder
from podx.text.tokenizer import Tokenizer
from podx_train.data.dataset import Dataset
from podx_train.data.explanations import explanation_targets
from podx_train.model.adapters import build_model, merge_adapter
from podx_train.model.config import PodConfig
from podx_train.model.pod_t5 import PodT5
from podx_train.model.presets import TOKENIZER_FILE

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
TRAINING_FILE = "training.json"
TRAINER_FILE = "trainer.safetensors"
USERS_FILE = "users.safetensors"
EXPLANATION_TOKENS_FILE = "explanation_tokens.json"
DATASET_FOLDER = "dataset"

_HEADER = "podx"
_MODEL_PREFIX = "model."
_OPTIMIZER_STATE = ("step", "exp_avg", "exp_avg_sq", "average")
_OPTIMIZER_PREFIX = "optimizer."


@dataclass(frozen=True)
class Sequences:
    """Users' items. ``items``: int32 [interactions]; ``offsets``: int32 [users + 1], where each user's items start."""

    items: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int32]

    def of(self, user: int) -> npt.NDArray[np.int32]:
        """All items of a user, in order of time."""
        return self.items[self.offsets[user - 1] : self.offsets[user]]


@dataclass(frozen=True)
class Checkpoint:
    """A trained model and all that is needed to use it.

    Attributes:
        model: on the CPU, in evaluation mode; what an adapter learnt is merged into the backbone's matrices.
        config: how the model was trained.
        tokenizer: its sentencepiece model.
        user_ids, item_ids: raw id of user and item number i + 1.
        sequences: the users' items, held-out ones included.
        training: curve, seed, best epoch, options, environment; ``{}`` where the file is missing.
        item_texts: how item number i + 1 is written; None: as its number.
        explanation_tokens: tokens of the explanations in the training part, end of sequence among them, ascending,
            int64 [tokens]; None where there are none, and in checkpoints of older versions.
    """

    model: PodT5
    config: PodConfig
    tokenizer: Tokenizer
    user_ids: list[str]
    item_ids: list[str]
    sequences: Sequences
    training: dict[str, Any]
    item_texts: list[str] | None = None
    explanation_tokens: npt.NDArray[np.int64] | None = None

    def catalog(self) -> Catalog:
        """The items as the model writes them."""
        return Catalog.create(self.item_ids, self.tokenizer, self.item_texts)

    def encoder(self) -> InputEncoder:
        """Writes inputs as in training."""
        texts, config = self.item_texts, self.config
        text = str if texts is None else lambda number: texts[number - 1]
        return InputEncoder(
            self.tokenizer, text, config.whole_word_rows, config.item_prefix, config.parsed_templates(), config.one_pass
        )


def model_tensors(model: PodT5) -> dict[str, Tensor]:
    """Every weight once, by its first name: tied weights appear a single time."""
    return {name: parameter.detach().cpu().contiguous() for name, parameter in model.named_parameters()}


def set_model_tensors(model: PodT5, tensors: Mapping[str, Tensor], where: Path) -> None:
    """Fill a model's weights.

    Raises:
        CheckpointError: a weight is missing, unknown, or of another shape.
    """
    parameters = dict(model.named_parameters())
    wrong = sorted(parameters.keys() ^ tensors.keys())
    wrong += [name for name in parameters.keys() & tensors.keys() if parameters[name].shape != tensors[name].shape]
    if wrong:
        raise CheckpointError(
            f"{where} does not fit the checkpoint's configuration ({', '.join(wrong[:3])}): copy again"
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])


def save_dataset(folder: Path, dataset: Dataset) -> None:
    """Write sequences, raw ids and the tokens of explanations, beside the tokeniser, which is there already.

    What a start of training that never saved left there is replaced.
    """
    bare = dataclasses.replace(
        dataset,
        explanations={split: [] for split in dataset.explanations},
        test_negatives=None,
        validation_negatives=None,
    )
    bare.save(folder / DATASET_FOLDER, force=True)
    if explanations := dataset.explanations["train"]:
        tokenizer = Tokenizer(folder / TOKENIZER_FILE)
        targets = explanation_targets([record.explanation for record in explanations], tokenizer)
        tokens = sorted({token for target in targets for token in target})
        write_text(folder / EXPLANATION_TOKENS_FILE, json.dumps(tokens))


def publish(folder: Path, model: PodT5, training: Mapping[str, Any], epoch: int) -> None:
    """Make ``model`` the folder's checkpoint; the tokeniser and :func:`save_dataset` came before."""
    write_tensors(folder / WEIGHTS_FILE, model_tensors(model), {"epoch": epoch})
    write_text(folder / TRAINING_FILE, json.dumps(training, indent=2))
    write_text(folder / CONFIG_FILE, model.config.to_json())


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """A safetensors file that :func:`read_tensors` reads. ``header``: JSON values."""
    metadata = {_HEADER: json.dumps(dict(header))}
    replace_file(path, lambda partial: save_file(dict(tensors), partial, metadata=metadata))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All tensors of a safetensors file of ours, and its header.

    Raises:
        CheckpointError: it is missing, damaged, or not ours.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is missing: the checkpoint is incomplete, copy it again or train again")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[_HEADER])
            return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged or was not written by podx ({error}): copy it again") from error


def read_config(path: Path | str) -> PodConfig:
    """The configuration of a checkpoint's model.

    Raises:
        CheckpointError: the folder is missing, unfinished, damaged, or of another format version.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise CheckpointError(
            f"there is no checkpoint folder at {folder}: make one with podx train DATA --out {folder}"
        )
    if not (folder / CONFIG_FILE).is_file():
        hint = "it was stopped before its first epoch ended" if (folder / TRAINER_FILE).exists() else "wrong folder?"
        raise CheckpointError(f"{folder} holds no finished checkpoint, {CONFIG_FILE} is missing ({hint})")
    return PodConfig.from_json(_read_text(folder / CONFIG_FILE))


def load_checkpoint(path: Path | str) -> Checkpoint:
    """Read a checkpoint folder.

    Raises:
        CheckpointError: the folder is missing, unfinished, damaged, or of another format version.
        DependencyError: it was trained with LoRA, and ``peft`` is not installed.
    """
    folder, config = Path(path), read_config(path)
    try:
        tokenizer = Tokenizer(folder / TOKENIZER_FILE)
        dataset = Dataset.load(folder / DATASET_FOLDER)
    except (TokenizerError, DataError) as error:
        raise CheckpointError(f"the checkpoint {folder} is damaged: {error}") from error
    tensors, header = read_tensors(folder / WEIGHTS_FILE)
    model = build_model(config)
    set_model_tensors(model, tensors, folder / WEIGHTS_FILE)
    if model.user_prompts is not None:
        model.user_prompts.fill(read_tensors(folder / USERS_FILE)[0], folder / USERS_FILE)
    training = _read_training(folder / TRAINING_FILE) | {"weights_epoch": header.get("epoch")}
    return Checkpoint(
        model=merge_adapter(model).eval(),
        config=config,
        tokenizer=tokenizer,
        user_ids=dataset.user_ids,
        item_ids=dataset.item_ids,
        sequences=Sequences(dataset.items, dataset.offsets),
        training=training,
        item_texts=dataset.item_texts,
        explanation_tokens=_read_explanation_tokens(folder / EXPLANATION_TOKENS_FILE, tokenizer),
    )


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): copy the checkpoint again") from error


def _read_explanation_tokens(path: Path, tokenizer: Tokenizer) -> npt.NDArray[np.int64] | None:
    if not path.exists():
        return None
    try:
        tokens = msgspec.json.decode(_read_text(path), type=list[int])
    except msgspec.DecodeError as error:
        raise CheckpointError(f"{path} is damaged ({error}): copy the checkpoint again") from error
    if tokens != sorted(set(tokens)) or not {tokenizer.eos_id} <= set(tokens) <= set(range(tokenizer.vocab_size)):
        raise CheckpointError(f"{path} does not list tokens of {TOKENIZER_FILE} in order: copy the checkpoint again")
    return np.array(tokens, dtype=np.int64)


def _read_training(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        content = json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path} is damaged ({error}): copy the checkpoint again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} must hold a JSON object: copy the checkpoint again")
    return content


def save_trainer(folder: Path, model: PodT5, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Write where training stands, in one file and one rename.

    Args:
        state: counters and the like, JSON values.
    """
    tensors = {_MODEL_PREFIX + name: tensor for name, tensor in model_tensors(model).items()}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{_OPTIMIZER_PREFIX}{key}.{name}"] = torch.as_tensor(value).detach().cpu().contiguous()
    write_tensors(folder / TRAINER_FILE, tensors, state)


def restore_trainer(model: PodT5, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], where: Path) -> None:
    """Put back weights and optimiser state that :func:`save_trainer` wrote.

    Raises:
        CheckpointError: the weights are not those of ``model``; ``where`` is the file to name.
    """
    weights = {n.removeprefix(_MODEL_PREFIX): t for n, t in tensors.items() if n.startswith(_MODEL_PREFIX)}
    set_model_tensors(model, weights, where)
    for name, parameter in model.named_parameters():
        saved = {key: tensors.get(f"{_OPTIMIZER_PREFIX}{key}.{name}") for key in _OPTIMIZER_STATE}
        state = {key: value.clone().to(parameter.device) for key, value in saved.items() if value is not None}
        if state:
            optimizer.state[parameter] = state
