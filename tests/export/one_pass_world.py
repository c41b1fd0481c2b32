"""One-pass models of random weights over items of one token and of several codes, and every item's true score."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from transformers import T5Config

from podx.bundle.bundle import TOKENIZER_FILE
from podx.requests.batch import ItemBatch
from podx.text.inputs import Batch, pad_rows
from podx.text.templates import Task
from podx.text.tokenizer import Tokenizer
from podx_export.blocks.graph import FP32
from podx_train.checkpoint.checkpoint import Checkpoint, load_checkpoint, publish, save_dataset
from podx_train.data.dataset import Dataset, ExplanationRecord
from podx_train.eager.generation import model_batch
from podx_train.model.config import PodConfig, backbone_fields
from podx_train.model.item_tokens import with_codes
from podx_train.model.pod_t5 import PodT5
from podx_train.model.presets import special_ids
from podx_train.model.tokenizer_training import train_tokenizer
from tests.export.tiny import KINDS, Small, cleaned, limits_of, make_small

Codes = tuple[tuple[str, ...], ...]
ITEMS = 60
CODES: dict[str, Codes] = {
    "one token": tuple((f"<i_{n}>",) for n in range(ITEMS)),
    "two codes": tuple((f"<a_{n % 7}>", f"<b_{n // 7}>") for n in range(ITEMS)),
    "three codes": tuple((f"<a_{n % 3}>", f"<b_{n // 3 % 4}>", f"<c_{n}>") for n in range(ITEMS)),
    "other lengths": tuple(
        (f"<a_{n % 3}>", f"<b_{n}>", *([f"<c_{n % 2}>", f"<d_{n % 4}>"] if n % 3 else [])) for n in range(ITEMS)
    ),
    "under a ceiling": tuple((f"<a_{n % 4}>", f"<b_{n // 4 % 4}>", f"<c_{n}>") for n in range(ITEMS)),
}
"""What one-pass models are tested on; :data:`WIDE_CODES` beside it has more first tokens than a first wave follows."""

WIDE_CODES: dict[str, Codes] = {
    "wide": tuple((f"<a_{n % 70}>", f"<b_{n % 9}>", f"<c_{n}>") for n in range(3 * ITEMS)),
    "wide, other lengths": tuple(
        (f"<a_{n % 70}>", *([f"<b_{n}>", *([f"<c_{n % 5}>"] if n % 2 else [])] if n >= 20 and n % 70 >= 20 else []))
        for n in range(70)
    )
    + tuple((f"<a_{n % 70}>", f"<b_{n}>", f"<c_{n % 3}>", f"<d_{n % 4}>") for n in range(90, 140)),
    "under a ceiling, other lengths": tuple(
        (f"<a_{n % 8}>", f"<e_{n}>") if n % 5 == 0 else (f"<a_{n % 8}>", f"<b_{n // 8 % 3}>", f"<c_{n}>")
        for n in range(2 * ITEMS)
    ),
}
CEILING = 0.05
"""Of the worlds that say so."""


def one_pass_world(codes: Codes, users: int = 40, seed: int = 5) -> Dataset:
    """Users with two to nine random items each, and one sentence of some of them."""
    random, count = np.random.default_rng(seed), len(codes)
    histories = [random.choice(count, size=random.integers(3, 10), replace=False) + 1 for _ in range(users)]
    offsets = np.cumsum([0, *map(len, histories)]).astype(np.int32)
    records = [ExplanationRecord(u, int(histories[u - 1][0]), "the case is fine and sturdy", "case") for u in (1, 2, 3)]
    return Dataset(
        np.concatenate(histories).astype(np.int32),
        offsets,
        [f"user-{n}" for n in range(1, users + 1)],
        [f"item-{n}" for n in range(1, count + 1)],
        explanations={"train": records, "val": records, "test": records},
        scheme="paper",
        item_codes=codes,
    )


def write_one_pass(
    folder: Path, world: Dataset, tasks: Sequence[Task] = (Task.SEQUENTIAL,), seed: int = 0, **fields: object
) -> Path:
    """A checkpoint of a one-pass model with random weights that was never trained."""
    folder.mkdir(parents=True)
    (folder / TOKENIZER_FILE).write_bytes(with_codes(train_tokenizer(world, 170), world.item_codes or ()))
    tokenizer = Tokenizer(folder / TOKENIZER_FILE)
    t5 = T5Config(
        vocab_size=tokenizer.vocab_size + 3, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_decoder_layers=2,
        num_heads=2, dropout_rate=0.0, feed_forward_proj="relu", **special_ids(tokenizer),
    )  # fmt: skip
    torch.manual_seed(seed)
    config = PodConfig(
        backbone=backbone_fields(t5), tasks=tuple(tasks), prompts=2, max_history=8,
        item_prefix="", one_pass=True, **fields,
    )  # fmt: skip
    model = PodT5(config).eval()
    with torch.no_grad():
        model.backbone.decoder.final_layer_norm.weight *= 2.0  # so that items differ more
    save_dataset(folder, world)
    publish(folder, model, {}, 0)
    return folder


@torch.no_grad()
def all_scores(source: Checkpoint, batch: Batch, penalty: float = 1.0) -> npt.NDArray[np.float64]:
    """Score of every item after each history, each decoded on its own as in training: float64 [rows, items + 1]."""
    model, lengths = source.model, np.diff(source.catalog().offsets)
    siblings, items = model.siblings, len(lengths)
    assert siblings is not None
    hidden, mask = model.encode(model_batch(batch, source.config.task_row(Task.SEQUENTIAL)))
    numbers = torch.arange(1, items + 1).repeat(batch.size)
    start = torch.from_numpy(batch.last_tokens).repeat_interleave(items)
    tokens = torch.cat([start[:, None], siblings.tokens[numbers][:, :-1]], dim=1)
    states = model.decode(hidden.repeat_interleave(items, 0), mask.repeat_interleave(items, 0), tokens)
    losses = siblings.losses(states, numbers, model.backbone.lm_head.weight).double().numpy().reshape(batch.size, items)
    return np.append(np.full((batch.size, 1), -np.inf), -losses / lengths.astype(np.float64) ** penalty, axis=1)


def open_checkpoint(folder: Path, updates: int = 0) -> Checkpoint:
    """The checkpoint, trained a little where wanted; attention by plain products: masks of any kind round alike."""
    source = load_checkpoint(folder)
    model, sequences = source.model, source.sequences
    model.backbone.set_attn_implementation("eager")
    model.read_catalog(source.catalog().trie)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    histories = [sequences.of(user)[-9:].astype(np.int64) for user in range(1, len(source.user_ids) + 1)]
    encoder = source.encoder()
    text = encoder.collate([encoder.encode(Task.SEQUENTIAL, 0, history[:-1]) for history in histories])
    following = torch.from_numpy(pad_rows(histories, 0))
    for _ in range(updates):
        optimizer.zero_grad()
        model(model_batch(text, 0)._replace(next_items=following), torch.zeros(0)).backward()
        optimizer.step()
    return source


def make_world(folder: Path, kind: str, updates: int = 0, precision: str = FP32, **fields: object) -> Small:
    """A checkpoint and its bundle, over items of one of :data:`CODES`; nothing is compared."""
    fields = {"ceiling": CEILING, **fields} if kind.startswith("under a ceiling") else fields
    source = open_checkpoint(
        write_one_pass(folder / "checkpoint", one_pass_world((CODES | WIDE_CODES)[kind]), **fields), updates
    )
    return make_small(source, source.catalog(), folder / "bundle", precision)


def requests(small: Small, seed: int, rows: int, k: int) -> ItemBatch:
    """Random histories, none among them, with limits of every kind, one after another."""
    random, encoder = np.random.default_rng(seed), small.source.encoder()
    sizes = [0, 1, small.source.config.max_history, *random.integers(0, 9, size=rows)][:rows]
    read = [random.choice(small.items, size=size, replace=False) + 1 for size in sizes]
    text = encoder.collate([encoder.encode(Task.SEQUENTIAL, 0, items) for items in read])
    denied, allowed = zip(*(limits_of(random, small, row % KINDS) for row in range(rows)), strict=True)
    return cleaned(small, ItemBatch(text, 0, denied, allowed, k))
