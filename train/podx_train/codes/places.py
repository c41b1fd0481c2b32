"""Vectors of items from who took what next to what: where the item embeddings of one-pass models start.

The matrix of pointwise mutual information between items that stand near each other in training sequences, factorised
by a truncated SVD: what word2vec's skip-gram learns of words and their contexts in the end (Levy and Goldberg 2014,
"Neural word embedding as implicit matrix factorization"), in seconds and without training.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array
from sklearn.utils.extmath import randomized_svd
from threadpoolctl import threadpool_limits

from podx_train.codes.spectral import Floats, cooccurrence, taken_in_training
from podx_train.data.folder import Int32Array

WINDOW = 3
"""Items farther apart in a sequence are no neighbours."""
NEARNESS = 1.0
"""Items d apart are worth d ** -NEARNESS users."""


def item_places(items: Int32Array, offsets: Int32Array, item_count: int, width: int, seed: int) -> Floats:
    """Unit vectors [item_count, width], row i - 1 that of item i; zeros where an item has no neighbour in training.

    Items that users take next to the same items lie near each other. The axes are turned at random, so that no
    coordinate says more than another.

    Args:
        items, offsets: sequences, as in :func:`podx_train.codes.collaborative.collaborative_codes`; the last two items
            of a user are never looked at.
        width: coordinates.
        seed: of the factorisation and the axes.
    """
    graph = cooccurrence(*taken_in_training(items, offsets), item_count, NEARNESS, WINDOW)
    kept = min(width, item_count)
    with threadpool_limits(limits=1):  # the same sums in the same order, whatever the machine
        left, strengths, _ = randomized_svd(_mutual_information(graph), kept, random_state=seed)
    places = np.zeros((item_count, width))
    places[:, :kept] = left * np.sqrt(strengths)
    axes, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((width, width)))
    lengths = np.linalg.norm(places, axis=1, keepdims=True)
    unit: Floats = np.divide(places, lengths, out=np.zeros_like(places), where=lengths > 1e-9) @ axes
    return unit


def _mutual_information(graph: csr_array) -> csr_array:
    """log(1 + p(a, b) / (p(a) p(b))) where there is an edge: positive, and near the logarithm where that is large."""
    degrees = np.asarray(graph.sum(axis=1), dtype=np.float64)
    edges = graph.tocoo()
    ratio = edges.data * degrees.sum() / (degrees[edges.coords[0]] * degrees[edges.coords[1]])
    return csr_array((np.log1p(ratio), edges.coords), shape=graph.shape)
