"""Text that the model wrote freely → the item it names, if any."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from podx.bundle.catalog import Catalog
from podx.decoding.text import Hypothesis
from podx.requests.types import GeneratedItem
from podx.text.tokenizer import Tokenizer


class ItemReader:
    """Reads items from the answers of an unconstrained search."""

    def __init__(self, catalog: Catalog, tokenizer: Tokenizer) -> None:
        self._catalog, self._tokenizer = catalog, tokenizer

    def read(self, hypothesis: Hypothesis) -> GeneratedItem:
        """The item whose text was written; None where it is no listed item's."""
        text = self._tokenizer.decode(hypothesis.tokens)
        number = self._number_of_text.get(text.strip())
        return GeneratedItem(text, None if number is None else self._catalog.items.raw(number), hypothesis.score)

    @cached_property
    def _number_of_text(self) -> dict[str, int]:
        """Items by their text as the tokeniser gives it back, which may differ from the catalog's in white space."""
        listed = (np.flatnonzero(self._catalog.listed) + 1).tolist()
        return {self._tokenizer.decode(self._catalog.target(number)).strip(): number for number in listed}
