"""Models of a few thousand random weights over catalogs made by hand, as bundles, and every item's true score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from transformers import T5Config

from podx.bundle.bundle import Bundle
from podx.bundle.catalog import Catalog, IdTable
from podx.bundle.trie import ROOT
from podx.decoding.items import ItemResults, TokenColumns
from podx.decoding.options import ItemSearchOptions
from podx.graphs.catalog_search import CatalogSearch, SearchGraph
from podx.graphs.model import GraphModel
from podx.graphs.session import SessionOptions
from podx.requests.batch import ItemBatch
from podx.text.inputs import Batch
from podx_export.blocks.graph import FP32
from podx_export.pipeline import write_bundle
from podx_train.checkpoint.checkpoint import Checkpoint
from podx_train.model.config import PodConfig, backbone_fields
from podx_train.model.pod_t5 import ModelBatch, PodT5

EOS, FIRST_TOKEN, VOCABULARY = 1, 3, 48
"""Pad, end and unknown come before the first token that items are written with."""

KINDS = 10
"""Kinds of limits that a request may have, see :func:`limits_of`."""

PLAIN = np.zeros(0, dtype=np.int64)
Numbers = npt.NDArray[np.int64]
Tokens = tuple[int, ...]


def random_items(random: np.random.Generator, count: int, longest: int, tokens: int) -> list[Tokens]:
    """``count`` distinct items of 1 … ``longest`` of a few tokens; many begin like another, or are the start of it."""
    items: dict[Tokens, None] = {}
    while len(items) < count:
        start = list(items)[random.integers(len(items))] if items and random.random() < 0.7 else ()
        start = start[: random.integers(0, longest)]
        more = random.integers(FIRST_TOKEN, FIRST_TOKEN + tokens, size=random.integers(1, longest - len(start) + 1))
        items[(*start, *more.tolist())] = None
    return list(items)


def catalog_of(items: Sequence[Tokens], unlisted: Sequence[int] = ()) -> Catalog:
    """Items 1 … n written with these tokens; those numbered in ``unlisted`` cannot be recommended."""
    offsets = np.concatenate([[0], np.cumsum([len(item) for item in items])]).astype(np.int64)
    tokens = np.array([token for item in items for token in item], dtype=np.int32)
    listed = np.ones(len(items), dtype=np.bool_)
    listed[np.array(unlisted, dtype=np.int64) - 1] = False
    names = IdTable.of([f"item-{number}" for number in range(1, len(items) + 1)], "item")
    return Catalog(names, tokens, offsets, listed, EOS)


def random_model(source: Checkpoint, seed: int, sharpness: float = 1.0, decoder_layers: int = 2) -> Checkpoint:
    """The checkpoint with a far smaller model in it. ``sharpness``: 0 makes all tokens equally likely."""
    config = T5Config(
        vocab_size=VOCABULARY,
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_decoder_layers=decoder_layers,
        num_heads=2,
        decoder_start_token_id=0,
    )
    torch.manual_seed(seed)
    model = PodT5(PodConfig(backbone=backbone_fields(config), prompts=2)).eval()
    with torch.no_grad():
        model.backbone.decoder.final_layer_norm.weight *= sharpness
    return replace(source, model=model, config=model.config, explanation_tokens=None)


def random_text(random: np.random.Generator, rows: int, longest: int = 5) -> Batch:
    """Inputs of random tokens and lengths."""
    shape = (rows, longest)
    mask = (np.arange(longest) < random.integers(1, longest + 1, size=(rows, 1))).astype(np.int64)
    ids = random.integers(FIRST_TOKEN, VOCABULARY, size=shape)
    return Batch(ids * mask, random.integers(0, 20, size=shape) * mask, mask)


@dataclass(frozen=True)
class Small:
    """A model over a catalog, as it was and as it was exported."""

    source: Checkpoint
    catalog: Catalog
    bundle: Bundle
    model: GraphModel

    def search(self, batch: ItemBatch, options: ItemSearchOptions, search_graph: SearchGraph = "one") -> ItemResults:
        """Find items by one graph or by the step graphs."""
        return CatalogSearch(self.bundle, self.model, search_graph).chosen(options)(batch)

    @property
    def items(self) -> int:
        """Items of the catalog, whether listed or not."""
        return len(self.catalog)


def make_small(source: Checkpoint, catalog: Catalog, folder: Path, precision: str = FP32) -> Small:
    """Write a bundle of a checkpoint over another catalog and open it, one thread for each graph."""
    folder.mkdir(parents=True)
    write_bundle(source, catalog, folder, precision)
    bundle = Bundle.load(folder, verify=False)
    return Small(source, catalog, bundle, GraphModel(bundle, SessionOptions(threads=1)))


@torch.no_grad()
def token_sums(small: Small, text: Batch, task_id: int) -> npt.NDArray[np.float64]:
    """Σ log p of every item's tokens and end of sequence by the eager model, teacher-forced: [batch, items + 1].

    p is a distribution over the catalog's tokens. -inf for items that are not listed, and for the one numbered 0.
    """
    trie, depth = small.catalog.trie, small.catalog.trie.depth
    over = TokenColumns.of_catalog(trie, EOS).output_tokens
    assert over is not None
    listed = np.flatnonzero(trie.item_node != ROOT)
    labels = np.full((len(listed), depth + 1), EOS, dtype=np.int64)
    counted = np.zeros(labels.shape, dtype=np.bool_)
    for row, number in enumerate(listed):
        tokens = small.catalog.target(int(number))
        labels[row, : len(tokens)] = tokens
        counted[row, : len(tokens) + 1] = True
    inputs = np.concatenate([np.zeros((len(listed), 1), dtype=np.int64), labels[:, :-1]], axis=1)
    arrays = (text.input_ids, text.whole_word_ids, text.attention_mask, np.full(text.size, task_id))
    hidden, mask = small.source.model.encode(ModelBatch(*(torch.as_tensor(array) for array in arrays)))
    logits = small.source.model.backbone(
        encoder_outputs=(hidden.repeat_interleave(len(listed), 0),),
        attention_mask=mask.repeat_interleave(len(listed), 0),
        decoder_input_ids=torch.as_tensor(np.tile(inputs, (text.size, 1))),
        use_cache=False,
    ).logits
    columns = torch.as_tensor(np.tile(np.searchsorted(over, labels), (text.size, 1)))
    log_probs = torch.log_softmax(logits[:, :, torch.as_tensor(over)].double(), dim=-1)
    gains = log_probs.gather(2, columns[:, :, None])[:, :, 0] * torch.as_tensor(np.tile(counted, (text.size, 1)))
    sums = np.full((text.size, small.items + 1), -np.inf)
    sums[:, listed] = gains.sum(dim=1).numpy().reshape(text.size, len(listed))
    return sums


def item_scores(small: Small, sums: npt.NDArray[np.float64], penalty: float) -> npt.NDArray[np.float64]:
    """Score of every item, [batch, items + 1], from :func:`token_sums`."""
    lengths = np.concatenate([[0], np.diff(small.catalog.offsets)]) + 1
    return np.asarray(sums / lengths.astype(np.float64) ** penalty)


def permitted(small: Small, denied: Sequence[Numbers], allowed: Sequence[Numbers | None]) -> npt.NDArray[np.bool_]:
    """Which items each request may be answered with, by plain sets: bool [batch, items + 1]."""
    listed = {number for number in range(1, small.items + 1) if small.catalog.listed[number - 1]}
    mask = np.zeros((len(denied), small.items + 1), dtype=np.bool_)
    for row, (no, only) in enumerate(zip(denied, allowed, strict=True)):
        left = (listed if only is None else listed & set(only.tolist())) - set(no.tolist())
        mask[row, sorted(left)] = True
    return mask


def limits_of(random: np.random.Generator, small: Small, kind: int) -> tuple[Numbers, Numbers | None]:
    """Items denied and items allowed, of one of :data:`KINDS` kinds; some name items that do not exist."""
    everything, trie = np.arange(1, small.items + 1), small.catalog.trie
    unknown = np.array([0, -7, small.items + 1, 10**9, np.iinfo(np.int64).max])
    some = random.choice(everything, size=25, replace=False)
    if kind == 0:
        return PLAIN, None
    if kind == 1:
        return some, None
    if kind == 2:
        return PLAIN, some
    if kind == 3:  # whole subtrees
        nodes = random.integers(1, trie.node_count, size=12)
        return everything[np.isin(trie.paths(everything), nodes).any(axis=1)], None
    if kind == 4:  # all but three
        return np.setdiff1d(everything, some[:3]), None
    if kind == 5:
        return some, PLAIN
    if kind == 6:  # all but two of what is allowed
        return some[2:], some
    if kind == 7:
        return np.concatenate([some, unknown, some[::-1]]), None
    if kind == 8:
        return np.concatenate([unknown, some[:5], some[:3]]), np.concatenate([some, some[::2], unknown])
    return everything, None


def mixed_batch(small: Small, seed: int, rows: int, k: int) -> ItemBatch:
    """Requests whose limits are of every kind, one after another."""
    random = np.random.default_rng(seed)
    limits = [limits_of(random, small, row % KINDS) for row in range(rows)]
    denied, allowed = zip(*limits, strict=True)
    return ItemBatch(random_text(random, rows), int(random.integers(3)), denied, allowed, k)


def cleaned(small: Small, batch: ItemBatch) -> ItemBatch:
    """The batch as podx and transformers take it: without unknown numbers."""

    def known(numbers: Numbers) -> Numbers:
        return np.unique(numbers[(numbers > 0) & (numbers <= small.items)])

    denied = [known(numbers) for numbers in batch.denied]
    allowed = [None if numbers is None else known(numbers) for numbers in batch.allowed]
    return ItemBatch(batch.text, batch.task_id, denied, allowed, batch.k)


def feeds_of(batch: ItemBatch) -> Mapping[str, npt.NDArray[np.generic]]:
    """The six inputs that ``recommend.onnx`` cannot do without, put together without podx."""
    denied = np.full((batch.text.size, max(map(len, batch.denied), default=0)), -1, dtype=np.int64)
    rows = [[] if only is None else [*only.tolist(), 0] for only in batch.allowed]
    allowed = np.full((batch.text.size, max(map(len, rows), default=0)), -1, dtype=np.int64)
    for row in range(batch.text.size):
        denied[row, : len(batch.denied[row])] = batch.denied[row]
        allowed[row, : len(rows[row])] = rows[row]
    return {
        "input_ids": batch.text.input_ids,
        "whole_word_ids": batch.text.whole_word_ids,
        "attention_mask": batch.text.attention_mask,
        "task_id": np.full(batch.text.size, batch.task_id, dtype=np.int64),
        "excluded_items": denied,
        "allowed_items": allowed,
    }
