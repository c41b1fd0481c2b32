"""What ``results.json`` says of the model and the data, in words that name no path."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from podx.bundle.bundle import Bundle
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
