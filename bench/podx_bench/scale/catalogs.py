"""Synthetic catalogs: items of four codes, one from each of four books of 256, as semantic ids are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from podx.bundle.catalog import Catalog, IdTable
from podx.errors import ConfigError

CODES, LEVELS = 256, 4
START_TOKEN, END_TOKEN = 0, 1
FIRST_CODE_TOKEN = 3
"""The tokens before it are T5's pad, end of sequence and unknown."""
VOCABULARY_NEEDED = FIRST_CODE_TOKEN + LEVELS * CODES
_SPARE = 1.01
"""Draws per item wanted: some codes are drawn twice."""
_FIRST_RAW_ID = 10**9
"""Raw ids have ten characters, as Amazon's have."""


def synthetic_items(count: int, seed: int) -> tuple[npt.NDArray[np.bytes_], npt.NDArray[np.int32]]:
    """Raw ids bytes [count] and tokens int32 [count, LEVELS] of distinct items, both in random order.

    Raises:
        ConfigError: there are not so many combinations of codes.
    """
    if count > CODES**LEVELS:
        raise ConfigError(f"there are only {CODES**LEVELS:,} items of {LEVELS} codes: ask for fewer than {count:,}")
    rng = np.random.default_rng([seed, count])
    drawn = np.zeros(0, dtype=np.int64)
    while len(drawn) < count:
        more = rng.integers(0, CODES**LEVELS, size=int(count * _SPARE) + 1 - len(drawn))
        drawn = np.unique(np.concatenate([drawn, more]))
    packed = rng.permutation(drawn)[:count]
    tokens = np.empty((count, LEVELS), dtype=np.int32)
    for level in range(LEVELS):
        code = (packed // CODES ** (LEVELS - 1 - level)) % CODES
        tokens[:, level] = FIRST_CODE_TOKEN + level * CODES + code
    return (_FIRST_RAW_ID + rng.permutation(count)).astype(f"S{len(str(_FIRST_RAW_ID))}"), tokens


def make_catalog(raw_ids: npt.NDArray[np.bytes_], tokens: npt.NDArray[np.int32], end_token: int) -> Catalog:
    """A catalog of items whose tokens are given, all of them listed."""
    count, length = tokens.shape
    offsets = np.arange(0, count * length + 1, length, dtype=np.int64)
    listed = np.ones(count, dtype=np.bool_)
    return Catalog(IdTable(raw_ids, "item"), tokens.ravel(), offsets, listed, end_token)
