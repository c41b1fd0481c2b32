"""Can this checkpoint be exported? Every fault at once, so that one run tells all there is to mend."""

from __future__ import annotations

import torch

from podx.bundle.catalog import IdTable
from podx.bundle.trie import Trie
from podx.errors import CatalogError, ExportError, TokenizerError
from podx_export.blocks.graph import BF16, FP16, FP32, INT8
from podx_export.blocks.layers import SUPPORTED_ACTIVATIONS
from podx_train.checkpoint.checkpoint import Checkpoint

PRECISIONS = (FP32, INT8, FP16, BF16)


def faults(checkpoint: Checkpoint, precision: str) -> list[str]:
    """What stands against exporting the checkpoint; empty where nothing does."""
    listed = _model_faults(checkpoint) + _catalog_faults(checkpoint) + _user_faults(checkpoint)
    if precision not in PRECISIONS:
        listed.append(f"precision {precision!r} is not supported: choose among {', '.join(PRECISIONS)}")
    return listed


def require_exportable(checkpoint: Checkpoint, precision: str) -> None:
    """Raise one error that lists all faults.

    Raises:
        ExportError: the checkpoint cannot be exported.
    """
    listed = faults(checkpoint, precision)
    if listed:
        raise ExportError("this checkpoint cannot be exported:" + "".join(f"\n  - {fault}" for fault in listed))


def _model_faults(checkpoint: Checkpoint) -> list[str]:
    listed = []
    model, config = checkpoint.model, checkpoint.model.backbone.config
    if config.dense_act_fn not in SUPPORTED_ACTIVATIONS:
        listed.append(
            f"activation {config.dense_act_fn!r} has no graph form (known: {', '.join(SUPPORTED_ACTIVATIONS)})"
        )
    if config.vocab_size < checkpoint.tokenizer.vocab_size:
        listed.append(
            f"the tokeniser has {checkpoint.tokenizer.vocab_size} pieces, the model only {config.vocab_size} rows"
        )
    if not isinstance(config.decoder_start_token_id, int):
        listed.append("the backbone's configuration names no decoder_start_token_id")
    if model.prompts.shape[0] != len(checkpoint.config.tasks):
        listed.append(f"prompts for {model.prompts.shape[0]} tasks, but {len(checkpoint.config.tasks)} tasks are named")
    broken = [name for name, weight in model.named_parameters() if not torch.isfinite(weight).all()]
    if broken:
        listed.append(f"{len(broken)} weights hold NaN or infinity ({broken[0]} among them): training diverged")
    history, rows = checkpoint.config.max_history, checkpoint.config.whole_word_rows
    if history + 2 > rows:
        listed.append(f"max_history {history} needs more than {rows} whole-word rows")
    return listed


def _catalog_faults(checkpoint: Checkpoint) -> list[str]:
    try:
        catalog = checkpoint.catalog()
        trie = Trie.build(catalog.tokens, catalog.offsets)
        if checkpoint.config.one_pass:
            trie.require_ends_at_leaves()
    except (CatalogError, TokenizerError) as error:
        return [str(error)]
    return []


def _user_faults(checkpoint: Checkpoint) -> list[str]:
    try:
        IdTable.of(checkpoint.user_ids, "user")
    except CatalogError as error:
        return [str(error)]
    return []
