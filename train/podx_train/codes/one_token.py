"""Items as one token each: a code of its own for every item, and nothing shared."""

from __future__ import annotations

import dataclasses

from podx_train.data.dataset import Dataset

ONE_TOKEN = "one-token"
"""Name of the id scheme. Such ids tell nothing: every item is a row of the embedding that starts at random."""


def one_token_codes(item_count: int) -> tuple[tuple[str, ...], ...]:
    """The code of each item, ``<i_1>`` of item number 1."""
    return tuple((f"<i_{number}>",) for number in range(1, item_count + 1))


def with_item_codes(dataset: Dataset) -> Dataset:
    """The dataset as it is where its items are written as codes, else with one token an item."""
    if dataset.item_codes is not None:
        return dataset
    return dataclasses.replace(
        dataset,
        item_codes=one_token_codes(dataset.item_count),
        scheme=ONE_TOKEN,
        provenance={**dataset.provenance, "index": {"method": ONE_TOKEN, "numbers": dataset.scheme}},
    )
