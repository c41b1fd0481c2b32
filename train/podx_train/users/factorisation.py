"""User embeddings by matrix factorisation of who took what (PeaPOD's default).

Probabilistic matrix factorisation (Salakhutdinov and Mnih, 2007) explains each known rating as a product of a user's
and an item's vector, both with a Gaussian prior. Here no ratings are known, only who took what. So every pair counts,
as in implicit feedback (Hu, Koren and Volinsky, 2008): taken is 1, not taken is 0, and a taken one counts
``1 + confidence`` times. The most probable vectors minimise

    Σ_taken (1 + confidence) (1 - u·v)² + Σ_others (u·v)² + penalty (Σ|u|² + Σ|v|²)

found by alternating least squares: with one side fixed, each row of the other has a closed solution. A row that took n
items needs a system of n equations rather than ``width``, by the identity of Woodbury: few items, little work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from podx.errors import ConfigError
from podx_train.data.dataset import Dataset

IntArray = npt.NDArray[np.integer]
Float32Array = npt.NDArray[np.float32]
Progress = Callable[[int, int], None]
"""Told how many sweeps are done, and of how many."""

BLOCK_ELEMENTS = 1 << 22
"""Numbers in the vectors that are looked at together: 16 MB."""
START_DEVIATION = 0.1


@dataclass(frozen=True)
class FactorisationOptions:
    """How to factorise.

    Attributes:
        width: numbers in a vector.
        sweeps: how often both sides are solved.
        confidence: how many times more a taken item counts than one not taken.
        penalty: weight of the squared lengths of all vectors.
        seed: of the vectors to start from.
    """

    width: int
    sweeps: int = 10
    confidence: float = 20.0
    penalty: float = 10.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what has no solution."""
        if self.width < 1 or self.sweeps < 1:
            raise ConfigError(f"a factorisation needs a width and sweeps of at least 1, not {self}")
        if not (self.confidence > 0 and self.penalty > 0):
            raise ConfigError(f"confidence and penalty must be above zero, not {self}")


@dataclass(frozen=True)
class Factors:
    """``users``: float32 [users, width], row u - 1 of user number u; ``items``: float32 [items, width] likewise."""

    users: Float32Array
    items: Float32Array


@dataclass(frozen=True)
class _Taken:
    """One side's view of who took what. Row r's partners are ``partners[offsets[r]:offsets[r + 1]]``, from 0."""

    partners: IntArray
    offsets: IntArray

    @classmethod
    def of(cls, rows: IntArray, partners: IntArray, count: int) -> _Taken:
        """From pairs sorted in any way, ``count`` rows."""
        order = np.argsort(rows, kind="stable")
        lengths = np.bincount(rows, minlength=count)
        return cls(partners[order], np.concatenate([[0], np.cumsum(lengths)]))

    def blocks(self, width: int) -> Iterator[tuple[IntArray, IntArray]]:
        """Rows of equal length together, a few at a time: their numbers [rows], and partners [rows, length]."""
        lengths = np.diff(self.offsets)
        for length in np.unique(lengths).tolist():
            rows = np.flatnonzero(lengths == length)
            step = max(1, BLOCK_ELEMENTS // (max(1, length) * width))
            for first in range(0, len(rows), step):
                block = rows[first : first + step]
                yield block, self.partners[self.offsets[block, None] + np.arange(length)]


def training_pairs(dataset: Dataset) -> tuple[IntArray, IntArray]:
    """Users and items of the training interactions, each pair once, counted from 0; nothing held out is among them."""
    mask = dataset.train_mask
    pairs = np.stack([dataset.user_of_interaction[mask], dataset.items[mask]]).astype(np.int64) - 1
    users, items = np.unique(pairs, axis=1)
    return users, items


@torch.no_grad()
def factorise(
    users: IntArray,
    items: IntArray,
    user_count: int,
    item_count: int,
    options: FactorisationOptions,
    progress: Progress = lambda done, of: None,
) -> Factors:
    """Vectors of all users and items; equal seeds give equal vectors on one machine.

    Args:
        users, items: int [pairs], who took what, counted from 0, each pair once (:func:`training_pairs`).
    """
    of_users, of_items = _Taken.of(users, items, user_count), _Taken.of(items, users, item_count)
    random = np.random.default_rng(options.seed)
    item_rows = torch.from_numpy(
        random.normal(0.0, START_DEVIATION, size=(item_count, options.width)).astype(np.float32)
    )
    user_rows = solve_side(of_users, item_rows, options)
    for sweep in range(options.sweeps):
        item_rows = solve_side(of_items, user_rows, options)
        user_rows = solve_side(of_users, item_rows, options)
        progress(sweep + 1, options.sweeps)
    return Factors(user_rows.numpy(), item_rows.numpy())


def solve_side(taken: _Taken, fixed: Tensor, options: FactorisationOptions) -> Tensor:
    """The best rows of one side while the other stays, float32 [rows, width]."""
    width = fixed.shape[1]
    wide = fixed.double()
    gram = wide.T @ wide + options.penalty * torch.eye(width, dtype=torch.float64)
    projected = (wide @ torch.linalg.inv(gram)).float()
    solved = torch.zeros(len(taken.offsets) - 1, width)
    for rows, partners in taken.blocks(width):
        vectors = fixed[partners]
        if partners.shape[1] > width:
            solved[rows] = _solve_wide(vectors, gram.float(), options.confidence)
        else:
            solved[rows] = _solve_narrow(vectors, projected[partners], options.confidence)
    return solved


def _solve_narrow(vectors: Tensor, projected: Tensor, confidence: float) -> Tensor:
    """With U the n rows [n, width] and G the common part: G⁻¹Uᵀ (I + c·U·G⁻¹Uᵀ)⁻¹ (1 + c)·1."""
    system = confidence * (vectors @ projected.mT) + torch.eye(vectors.shape[1])
    wanted = torch.full(vectors.shape[:2], 1.0 + confidence)
    return (torch.linalg.solve(system, wanted)[:, None, :] @ projected)[:, 0]


def _solve_wide(vectors: Tensor, gram: Tensor, confidence: float) -> Tensor:
    """The same without the identity, for rows of more partners than a vector has numbers."""
    system = gram + confidence * (vectors.mT @ vectors)
    return torch.linalg.solve(system, (1.0 + confidence) * vectors.sum(dim=1))
