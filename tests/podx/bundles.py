"""Makes bundle folders whose graphs are dummy bytes: enough for everything but running a graph."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from podx.bundle.bundle import CATALOG_FILE, TOKENIZER_FILE, USERS_FILE
from podx.bundle.catalog import Catalog, IdTable
from podx.bundle.manifest import MANIFEST_FILE, Manifest, file_sha256
from podx.bundle.signature import (
    DECODER_FILE,
    ENCODER_FILE,
    ITEM_DECODER_FILE,
    RECOMMEND_FILE,
    WEIGHTS_FILE,
    ModelShape,
)
from podx.bundle.users import UserTable
from podx.requests.encoder import EncodedRequest
from podx.text.templates import ALL_TASKS, Task
from podx.text.tokenizer import Tokenizer

USERS, ITEMS = 12, 60
MAX_HISTORY = 5
WHOLE_WORD_ROWS = 32

USER_IDS = [f"user-{number}" for number in range(1, USERS)] + ["Zoë"]
ITEM_IDS = [f"B{number:03d}" for number in range(1, ITEMS)] + ["coat № 1"]


def stored_histories() -> list[list[int]]:
    """Item numbers of each user; the first user's history is longer than the model reads, the last has none."""
    rng = np.random.default_rng(0)
    lengths = [MAX_HISTORY + 4, *rng.integers(1, MAX_HISTORY + 1, size=USERS - 2), 0]
    return [rng.choice(np.arange(1, ITEMS + 1), size=length, replace=False).tolist() for length in lengths]


def user_table(histories: Sequence[Sequence[int]]) -> UserTable:
    offsets = np.concatenate([[0], np.cumsum([len(history) for history in histories])]).astype(np.int64)
    items = np.array([item for history in histories for item in history], dtype=np.int32)
    return UserTable(IdTable.of(USER_IDS, "user"), items, offsets)


def items_read(request: EncodedRequest) -> int:
    """Items that the model reads for a request in whose text a user stands."""
    return int(request.text.whole_word_ids.max()) - 1


def manifest(
    files: dict[str, str], tasks: Sequence[Task] = ALL_TASKS, vocab_size: int = 160, levels: int = 0
) -> Manifest:
    return Manifest(
        podx_version="0.1.0",
        shape=ModelShape(decoder_layers=1, heads=2, head_dim=4, vocab_size=vocab_size),
        tasks=tuple(tasks),
        prompts=3,
        scheme="train-first",
        precision="fp32",
        max_history=MAX_HISTORY,
        whole_word_rows=WHOLE_WORD_ROWS,
        start_token=0,
        levels=levels,
        files=files,
        parity={"largest_difference": 1.25e-6, "lists_equal": 1.0},
        provenance={"data": "tests", "note": "made for tests"},
    )


def write_bundle(
    folder: Path,
    tokenizer_path: Path,
    tasks: Sequence[Task] = ALL_TASKS,
    levels: int = 0,
    item_ids: Sequence[str] = ITEM_IDS,
) -> Path:
    """Write a bundle for :data:`USER_IDS` and items; with ``levels``, it has a graph of the whole search."""
    folder.mkdir(parents=True)
    (folder / TOKENIZER_FILE).write_bytes(tokenizer_path.read_bytes())
    Catalog.create(item_ids, Tokenizer(tokenizer_path)).save(folder / CATALOG_FILE)
    user_table(stored_histories()).save(folder / USERS_FILE)
    for name in (ENCODER_FILE, DECODER_FILE, ITEM_DECODER_FILE, WEIGHTS_FILE, *([RECOMMEND_FILE] if levels else [])):
        (folder / name).write_bytes(f"the bytes of {name}".encode())
    files = {path.name: file_sha256(path) for path in sorted(folder.iterdir())}
    (folder / MANIFEST_FILE).write_text(manifest(files, tasks, levels=levels).to_json(), encoding="utf-8")
    return folder
