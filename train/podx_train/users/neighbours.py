"""The most similar users by cosine, a block of users at a time: the matrix of all pairs is never there at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

BLOCK_ELEMENTS = 1 << 22
"""Similarities computed together: 16 MB."""
DECIMALS = 6
"""Similarities are rounded to so many, for equal vectors must tie whatever a matrix product did to the last bit."""

NOT_ONESELF = -2 * 10**DECIMALS
"""Less similar than any other user."""
NOBODY = 0
"""Stands for a neighbour where a user has none."""


@torch.no_grad()
def nearest_users(vectors: npt.NDArray[np.floating], known: npt.NDArray[np.bool_], count: int) -> npt.NDArray[np.int32]:
    """The users most similar to each, most similar first; of equal ones the lower number first.

    Args:
        vectors: [users, width], row u - 1 of user number u.
        known: bool [users], who has a vector; the others are nobody's neighbour and have none.
        count: neighbours wanted.

    Returns:
        user numbers, int32 [users, n], n = ``count`` or all others who have a vector; 0 where a user has none.
    """
    who = np.flatnonzero(known)
    wanted = max(0, min(count, len(who) - 1))
    near = np.full((len(vectors), wanted), NOBODY, dtype=np.int32)
    if not wanted:
        return near
    unit = torch.nn.functional.normalize(torch.from_numpy(vectors[who].astype(np.float32)), dim=1)
    step = max(1, BLOCK_ELEMENTS // len(who))
    for first in range(0, len(who), step):
        similarity = torch.round((unit[first : first + step] @ unit.T) * 10**DECIMALS).to(torch.int64)
        diagonal = torch.arange(len(similarity))
        similarity[diagonal, diagonal + first] = NOT_ONESELF
        ranked = similarity * len(who) - torch.arange(len(who))  # of equally similar users, the lower number is ahead
        near[who[first : first + step]] = who[ranked.topk(wanted, dim=1).indices.numpy()] + 1
    return near
