"""Requests of one task, padded to a batch: what goes down from the recommender to the graphs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from podx.text.inputs import Batch

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ItemBatch:
    """Requests of one task whose items are to be searched for, by number.

    Attributes:
        text: the encoded inputs. task_id: number of their task in the graphs.
        denied: items never to be returned, per request; allowed: the only ones that may be, None: all.
        k: answers wanted, at most the number of items.
    """

    text: Batch
    task_id: int
    denied: Sequence[Numbers]
    allowed: Sequence[Numbers | None]
    k: int

    def rows(self, kept: Sequence[int] | Numbers) -> ItemBatch:
        """Some of the requests."""
        denied, allowed = [self.denied[row] for row in kept], [self.allowed[row] for row in kept]
        return ItemBatch(self.text.rows(kept), self.task_id, denied, allowed, self.k)

    @property
    def longest_lists(self) -> list[int]:
        """Items in the longer list of each request."""
        pairs = zip(self.denied, self.allowed, strict=True)
        return [max(len(denied), 0 if allowed is None else len(allowed)) for denied, allowed in pairs]
