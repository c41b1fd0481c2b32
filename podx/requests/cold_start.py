"""Cold-start users: the known users who took the same items, as whom a user that the model does not know is read."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from podx.bundle.users import UserTable

MOST_SIMILAR = 20
"""Users whose prompt vectors are averaged for one who has none."""

Numbers = npt.NDArray[np.int64]


class SimilarUsers:
    """Finds users by their items, through a list of the users of each item. Safe to share between threads.

    Args:
        users: who is known, and with which items.
        excluded: numbers of users who are never found.
    """

    def __init__(self, users: UserTable, excluded: npt.NDArray[np.integer]) -> None:
        everyone = len(users)
        owner = np.repeat(np.arange(1, everyone + 1, dtype=np.int64), np.diff(users.offsets))
        pairs = np.unique(users.items.astype(np.int64) * (everyone + 1) + owner)  # a set each: an item counts once
        items, self._users = np.divmod(pairs, everyone + 1)
        last = int(items[-1]) if len(items) else 0
        self._offsets = np.searchsorted(items, np.arange(last + 2))
        self._sizes = np.bincount(self._users, minlength=everyone + 1)
        self._findable = np.ones(everyone + 1, dtype=np.bool_)
        self._findable[excluded] = False

    def nearest(self, items: npt.NDArray[np.integer], count: int = MOST_SIMILAR) -> Numbers:
        """The users whose sets of items are most like this one, by cosine: shared ÷ √(|one| · |other|).

        Returns:
            user numbers, int64 [at most ``count`` users who share an item], most similar first; of equally similar ones
            the lower number first.
        """
        wanted = np.unique(items)
        listed = wanted[wanted < len(self._offsets) - 1]
        parts = [self._users[self._offsets[item] : self._offsets[item + 1]] for item in listed.tolist()]
        users, shared = np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *parts]), return_counts=True)
        findable = self._findable[users]
        users, shared = users[findable], shared[findable]
        cosine = shared / np.sqrt(len(wanted) * self._sizes[users])
        best: Numbers = users[np.lexsort((users, -cosine))[:count]].astype(np.int64)
        return best
