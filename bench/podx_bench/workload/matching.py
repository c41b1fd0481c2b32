"""Checks that bundle, dataset and checkpoint belong together."""

from __future__ import annotations

from pathlib import Path

from podx.bundle.bundle import Bundle
from podx.errors import CheckpointError, ConfigError
from podx_train.checkpoint.checkpoint import Checkpoint
from podx_train.data.dataset import Dataset


def require_match(bundle: Bundle, dataset: Dataset) -> None:
    """Check that the bundle was made from this dataset: same items and users under the same numbers.

    Raises:
        ConfigError: with the first difference.
    """
    advice = "give the dataset folder, of the same ID scheme, that the model was trained on"
    for what, table, ids in (
        ("items", bundle.catalog.items, dataset.item_ids),
        ("users", bundle.users.ids, dataset.user_ids),
    ):
        known = [bytes(raw).decode() for raw in table.raw_ids]
        if len(known) != len(ids):
            raise ConfigError(f"the bundle knows {len(known)} {what}, the dataset has {len(ids)}: {advice}")
        for number, (ours, theirs) in enumerate(zip(known, ids, strict=True), start=1):
            if ours != theirs:
                raise ConfigError(
                    f"the bundle's {what} differ from the dataset's: number {number} is {ours!r} in one and {theirs!r} "
                    f"in the other; {advice}"
                )


def require_same(bundle_path: Path, checkpoint: Checkpoint) -> None:
    """Check that bundle and checkpoint are of one model, as far as ids, tasks and number of weights tell.

    Raises:
        CheckpointError: they are not. BundleError: the bundle cannot be read.
    """
    bundle = Bundle.load(bundle_path, verify=False)
    known = [bytes(raw).decode() for raw in bundle.catalog.items.raw_ids]
    weights = sum(parameter.numel() for parameter in checkpoint.model.parameters())
    exported = bundle.manifest.provenance.get("parameters", weights)
    if known != checkpoint.item_ids or bundle.manifest.tasks != checkpoint.config.tasks or exported != weights:
        raise CheckpointError(
            "the bundle was not exported from this checkpoint (items, tasks or number of weights differ): "
            "give the checkpoint it was exported from, or export again"
        )
