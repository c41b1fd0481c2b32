"""What ``results.json`` says of model and data, in words that name no path, and whether these belong together."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from podx.bundle.bundle import Bundle
from podx.bundle.catalog import IdTable
from podx.errors import CheckpointError, ConfigError
from podx_train.checkpoint.checkpoint import Checkpoint
from podx_train.data.dataset import Dataset

MEGABYTE = 1e6
_OF_MANIFEST = ("podx_version", "prompts", "user_prompts", "scheme", "precision", "max_history")


def model_facts(bundle: Bundle) -> dict[str, Any]:
    """What the manifest says of the model, and its files' size; of how it was trained, only what names no path."""
    manifest = bundle.manifest
    training = manifest.provenance.get("training") or {}
    size = sum(file.stat().st_size for file in bundle.path.iterdir() if file.is_file())
    return {name: getattr(manifest, name) for name in _OF_MANIFEST} | {
        "shape": dataclasses.asdict(manifest.shape),
        "tasks": [task.value for task in manifest.tasks],
        "parameters": manifest.provenance.get("parameters"),
        "parity": dict(manifest.parity),
        "bundle_mb": round(size / MEGABYTE, 1),
        "training_seed": training.get("seed"),
        "best_epoch": training.get("best_epoch"),
    }


def dataset_facts(dataset: Dataset, path: Path) -> dict[str, Any]:
    """Name, counts and ID scheme."""
    return {
        "name": path.resolve().name,
        "scheme": dataset.scheme,
        "users": dataset.user_count,
        "items": dataset.item_count,
        "interactions": dataset.interaction_count,
    }


def require_match(bundle: Bundle, dataset: Dataset) -> None:
    """Check that the bundle was made from this dataset: same items and users under the same numbers, same sequences.

    Raises:
        ConfigError: with the first difference.
    """
    advice = "give the dataset folder, of the same ID scheme, that the model was trained on"
    for what, table, ids in (
        ("items", bundle.catalog.items, dataset.item_ids),
        ("users", bundle.users.ids, dataset.user_ids),
    ):
        known = _texts(table)
        if len(known) != len(ids):
            raise ConfigError(f"the bundle knows {len(known)} {what}, the dataset has {len(ids)}: {advice}")
        for number, (ours, theirs) in enumerate(zip(known, ids, strict=True), start=1):
            if ours != theirs:
                raise ConfigError(
                    f"the bundle's {what} differ from the dataset's: number {number} is {ours!r} in one and {theirs!r} "
                    f"in the other; {advice}"
                )
    users = bundle.users
    if not (np.array_equal(users.items, dataset.items) and np.array_equal(users.offsets, dataset.offsets)):
        raise ConfigError(f"the bundle's users have other items than the dataset's, under the same ids: {advice}")


def require_same(bundle_path: Path, checkpoint: Checkpoint) -> None:
    """Check that bundle and checkpoint are of one model, as far as ids, tasks and number of weights tell.

    Raises:
        CheckpointError: they are not. BundleError: the bundle cannot be read.
    """
    bundle = Bundle.load(bundle_path, verify=False)
    known = _texts(bundle.catalog.items)
    weights = sum(parameter.numel() for parameter in checkpoint.model.parameters())
    exported = bundle.manifest.provenance.get("parameters", weights)
    if known != checkpoint.item_ids or bundle.manifest.tasks != checkpoint.config.tasks or exported != weights:
        raise CheckpointError(
            "the bundle was not exported from this checkpoint (items, tasks or number of weights differ): "
            "give the checkpoint it was exported from, or export again"
        )


def _texts(table: IdTable) -> list[str]:
    """Raw ids in the order of their numbers."""
    return [bytes(raw).decode() for raw in table.raw_ids]
