"""The frozen arrays that users' prompt vectors are made from: where they come from, and their file.

``users.safetensors`` in a checkpoint folder holds them once. The trainer's state does not repeat them; it keeps their
digest, so that a training goes on only with the embeddings it began with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from podx.errors import CheckpointError, ConfigError, DataError
from podx_train.checkpoint.checkpoint import USERS_FILE, read_tensors, write_tensors
from podx_train.console import console, progress_bar
from podx_train.data.dataset import Dataset
from podx_train.model.config import DEFAULT_USER_WIDTH, PodConfig
from podx_train.model.pod_t5 import PodT5
from podx_train.model.user_prompts import EMBEDDINGS, FROZEN, KNOWN, NEIGHBOURS
from podx_train.options import TrainOptions
from podx_train.users.factorisation import FactorisationOptions, factorise, training_pairs
from podx_train.users.neighbours import nearest_users

RAW_IDS, VECTORS = "raw_ids", "vectors"
"""Arrays of a ``.npz`` file of user embeddings."""

FEWEST_USERS = 2
"""With an embedding: one to ask, one to answer."""


@dataclass(frozen=True)
class UserVectors:
    """User embeddings. ``vectors``: float32 [users, width] by user number - 1; ``known``: bool [users], who has one."""

    vectors: npt.NDArray[np.float32]
    known: npt.NDArray[np.bool_]


def read_user_vectors(path: Path, dataset: Dataset) -> UserVectors:
    """Embeddings of one's own.

    ``.npy``: float [users, width], row u - 1 of user number u. ``.npz``: ``raw_ids`` (text) [n] and ``vectors``
    [n, width]; users of the dataset that it lacks have no embedding, ids that the dataset lacks are passed over.

    Raises:
        DataError: the file is missing, damaged, or not of that form.
    """
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            given, numbers = content, np.arange(len(content))
        else:
            with content:
                given, raw = content[VECTORS], content[RAW_IDS].tolist()
            number_of = {raw_id: number for number, raw_id in enumerate(dataset.user_ids)}
            numbers = np.array([number_of.get(str(raw_id), -1) for raw_id in raw], dtype=np.int64)
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise DataError(
            f"{path} holds no user embeddings ({error}): write an array [users, width] with numpy.save, "
            f"or {RAW_IDS} and {VECTORS} with numpy.savez"
        ) from error
    _check(path, given, numbers, dataset)
    vectors = np.zeros((dataset.user_count, given.shape[1]), dtype=np.float32)
    known = np.zeros(dataset.user_count, dtype=np.bool_)
    vectors[numbers[numbers >= 0]] = given[numbers >= 0]
    known[numbers[numbers >= 0]] = True
    return UserVectors(vectors, known)


def _check(path: Path, given: npt.NDArray[Any], numbers: npt.NDArray[np.int64], dataset: Dataset) -> None:
    """Refuse embeddings that cannot be meant for this dataset."""
    if given.ndim != 2 or not given.shape[1] or not np.issubdtype(given.dtype, np.floating):
        raise DataError(
            f"{path}: embeddings must be floating-point numbers [users, width], not {given.dtype} {given.shape}"
        )
    if path.suffix == ".npy" and len(given) != dataset.user_count:
        raise DataError(f"{path} has {len(given)} rows for {dataset.user_count} users: give a row for every user")
    if len(numbers) != len(given):
        raise DataError(f"{path}: {len(numbers)} raw ids for {len(given)} vectors: give one for each")
    found = numbers[numbers >= 0]
    if len(np.unique(found)) < len(found):
        raise DataError(f"{path} names a user twice: give each once")
    if len(found) < FEWEST_USERS:
        raise DataError(f"{path} has embeddings of {len(found)} of the dataset's users: check its raw ids")
    if not np.isfinite(given).all():
        raise DataError(f"{path} holds NaN or infinity: leave such users out of an .npz file")


def factorised(dataset: Dataset, width: int, seed: int, visible: bool = False) -> UserVectors:
    """Embeddings by matrix factorisation of the training interactions, scaled so that a number's mean square is 1.

    Args:
        visible: show progress on a terminal.
    """
    options = FactorisationOptions(width, seed=seed)
    with progress_bar(visible) as bar:
        shown = bar.add_task("user embeddings", total=options.sweeps)
        factors = factorise(
            *training_pairs(dataset),
            dataset.user_count,
            dataset.item_count,
            options,
            lambda done, of: bar.update(shown, completed=done),
        )
    scale = np.sqrt(np.mean(np.square(factors.users, dtype=np.float64)))
    return UserVectors((factors.users / max(scale, 1e-12)).astype(np.float32), np.ones(dataset.user_count, np.bool_))


def user_fields(options: TrainOptions, dataset: Dataset, model_width: int) -> dict[str, Any]:
    """The entries of :class:`PodConfig` that say how users' vectors are made; ``model_width``: of the backbone.

    Raises:
        DataError: the file of one's own embeddings cannot be used. ConfigError: options conflict.
    """
    if not options.user_prompts:
        if options.user_vectors is not None:
            raise ConfigError("--user-vectors needs --user-prompts above 0 (or --method peapod)")
        return {}
    width, known = min(DEFAULT_USER_WIDTH, model_width), dataset.user_count
    if options.user_vectors is not None:
        given = read_user_vectors(Path(options.user_vectors), dataset)
        width, known = given.vectors.shape[1], int(given.known.sum())
    if known < FEWEST_USERS:
        raise DataError(f"prompt vectors from similar users need {FEWEST_USERS} users, the dataset has {known}")
    return {
        "user_prompts": options.user_prompts,
        "user_heads": options.user_heads,
        "user_width": width,
        "neighbours": min(options.neighbours, known - 1),
        "user_count": dataset.user_count,
    }


def user_arrays(config: PodConfig, options: TrainOptions, dataset: Dataset, visible: bool = False) -> dict[str, Tensor]:
    """The frozen arrays of :class:`podx_train.model.user_prompts.UserPrompts`, made anew.

    Raises:
        DataError: the file of one's own embeddings cannot be used.
    """
    if options.user_vectors is None:
        users = factorised(dataset, config.user_width, options.seed, visible)
    else:
        users = read_user_vectors(Path(options.user_vectors), dataset)
    near = nearest_users(users.vectors, users.known, config.neighbours)
    arrays = {EMBEDDINGS: users.vectors, NEIGHBOURS: near, KNOWN: users.known}
    return {name: torch.from_numpy(np.concatenate([np.zeros_like(a[:1]), a])) for name, a in arrays.items()}


def digest(arrays: Mapping[str, Tensor]) -> str:
    """Of the frozen arrays, hexadecimal."""
    found = hashlib.sha256()
    for name in FROZEN:
        found.update(arrays[name].contiguous().numpy().tobytes())
    return found.hexdigest()


def write_users(
    config: PodConfig, folder: Path, options: TrainOptions, dataset: Dataset, ready: Mapping[str, Tensor] | None
) -> None:
    """Write ``users.safetensors`` into the checkpoint folder, when training begins; nothing without users' prompts.

    Args:
        ready: arrays that are there already, such as a teacher's; None: make them.
    """
    if not config.user_prompts:
        return
    if ready is None:
        origin = options.user_vectors or "the training interactions"
        console.print(f"user embeddings from {origin}, and similar users", soft_wrap=True, markup=False)
        ready = user_arrays(config, options, dataset, visible=True)
    write_tensors(folder / USERS_FILE, ready, {})


def attach_users(
    model: PodT5, folder: Path, options: TrainOptions, dataset: Dataset, earlier: str | None
) -> str | None:
    """Give a model that is to be trained the user embeddings of its checkpoint folder.

    Args:
        earlier: digest of the arrays that a resumed training began with; None when training begins.

    Returns:
        their digest; None for a model without prompt vectors of users.

    Raises:
        ConfigError: a resumed training began with other embeddings. CheckpointError: the file is damaged.
    """
    if model.user_prompts is None:
        return None
    path = folder / USERS_FILE
    arrays, _ = read_tensors(path)
    model.user_prompts.fill(arrays, path)
    found = digest(arrays)
    if earlier is not None and found != earlier:
        raise CheckpointError(f"{path} is not the one that training began with: copy it again, or train anew")
    given = options.user_vectors
    if earlier is not None and given is not None and digest(user_arrays(model.config, options, dataset)) != earlier:
        raise ConfigError(f"--resume: {given} changed since this training began: train anew")
    # torch would send all buffers to the other processes before every step, and these never change
    model._ddp_params_and_buffers_to_ignore = [f"user_prompts.{name}" for name in FROZEN]
    return found
