"""Clusters of a sparse graph: edges from sequences, places from eigenvectors, k-means with a greatest size."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array, diags_array
from scipy.sparse.linalg import ArpackNoConvergence, eigsh
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from podx_train.data.folder import Int32Array, training_mask

DENSE_NODES = 600  # up to here all eigenvectors at once are faster, and cannot fail to converge
VECTORS = 1.5  # eigenvectors per cluster to be told apart
BALANCE_ROUNDS = 10
POWER_ROUNDS = 50
WINDOW = 100  # items farther apart in a sequence make no edge; else a user of n items makes n²/2

IntArray = NDArray[np.int64]
Floats = NDArray[np.float64]


def taken_in_training(items: Int32Array, offsets: Int32Array) -> tuple[IntArray, IntArray]:
    """User and item of each training interaction, both from 0, user by user and in order of time.

    Args:
        items, offsets: as in :func:`podx_train.codes.collaborative.collaborative_codes`.
    """
    mask = training_mask(offsets)
    users = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))[mask]
    return users, items[mask].astype(np.int64) - 1


def cooccurrence(users: IntArray, items: IntArray, item_count: int, nearness: float, window: int = WINDOW) -> csr_array:
    """Symmetric [item_count, item_count]: for every two items, the sum over users of their distance ** -nearness.

    Args:
        users: user of each interaction, [n], ascending; a user's interactions are in order of time.
        items: item of each interaction, [n], from 0. Of an item a user took again, the first time counts.
        item_count: size of the catalog.
        nearness: 0 counts the users who took both.
        window: items farther apart in a sequence add nothing.
    """
    first = np.sort(np.unique(users.astype(np.int64) * item_count + items, return_index=True)[1])
    users, items = users[first], items[first]
    total = csr_array((item_count, item_count), dtype=np.float64)
    for distance in range(1, window + 1):
        same = users[:-distance] == users[distance:]
        if not same.any():
            break
        ends = items[:-distance][same], items[distance:][same]
        weights = np.full(len(ends[0]), float(distance) ** -nearness)
        total = total + coo_array((weights, ends), shape=total.shape).tocsr()
    return (total + total.T).tocsr()


def spectral_places(graph: csr_array, clusters: int, regularisation: float, random: np.random.Generator) -> Floats:
    """Items as points on a sphere, [n, VECTORS * clusters] or fewer columns, near where the graph joins them.

    The leading eigenvectors of D^-½ A D^-½ after the first, D holding the degrees plus ``regularisation`` mean
    degrees (Qin and Rohe 2013, regularised spectral clustering). The first column separates the most.

    Args:
        graph: symmetric weights, [n, n].
        clusters: how many are to be told apart.
        regularisation: in mean degrees.
        random: start vector of the iteration.
    """
    degrees = np.asarray(graph.sum(axis=1), dtype=np.float64)
    floor = regularisation * degrees.mean() + np.finfo(np.float64).tiny
    scale = diags_array(1.0 / np.sqrt(degrees + floor))
    matrix = (scale @ graph @ scale).tocsr()
    count = min(round(VECTORS * clusters) + 1, graph.shape[0])
    if graph.shape[0] <= max(DENSE_NODES, 2 * count):
        vectors = np.linalg.eigh(matrix.toarray())[1][:, ::-1][:, :count]
    else:
        vectors = _leading(matrix, count, random)
    places = vectors[:, 1:] if vectors.shape[1] > 1 else vectors
    lengths = np.linalg.norm(places, axis=1, keepdims=True)
    return places / np.maximum(lengths, np.finfo(np.float64).tiny)


def _leading(matrix: csr_array, count: int, random: np.random.Generator) -> Floats:
    """Eigenvectors of the largest eigenvalues, in falling order, [n, count]; rough where ARPACK does not converge."""
    size = matrix.shape[0]
    try:
        values, vectors = eigsh(matrix, k=count, which="LA", v0=random.random(size))
        return vectors[:, np.argsort(values)[::-1]]
    except ArpackNoConvergence:
        basis = np.linalg.qr(random.standard_normal((size, count)))[0]
        for _ in range(POWER_ROUNDS):
            basis = np.linalg.qr(matrix @ basis + basis)[0]  # + basis: no eigenvalue is negative then
        values, turns = np.linalg.eigh(basis.T @ (matrix @ basis))
        return basis @ turns[:, ::-1]


def balanced_clusters(places: Floats, count: int, limit: int, seed: int) -> IntArray:
    """k-means with clusters of at most ``limit`` points: the cluster of each point, [n], in 0 … count - 1.

    Args:
        places: points, [n, width].
        count: how many clusters; ``count * limit`` must reach n.
        limit: most points of a cluster.
        seed: of the starting centres.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of points that coincide; the sizes are settled below
        centres = KMeans(count, n_init=2, random_state=seed).fit(places).cluster_centers_
    labels = np.full(len(places), -1)
    for _ in range(BALANCE_ROUNDS):
        before, labels = labels, _nearest_with_room(places, centres, limit)
        if np.array_equal(before, labels):
            break
        for cluster in np.unique(labels):
            centres[cluster] = places[labels == cluster].mean(axis=0)
    return labels


def _nearest_with_room(places: Floats, centres: Floats, limit: int) -> IntArray:
    """Each point's nearest centre that has room; where too many want one, those nearest to it get it."""
    costs = ((places**2).sum(1)[:, None] - 2 * places @ centres.T) + (centres**2).sum(1)[None]
    labels = np.full(len(places), -1)
    room = np.full(len(centres), limit)
    while (waiting := np.flatnonzero(labels < 0)).size:
        wanted = np.where(room > 0, costs[waiting], np.inf).argmin(axis=1)
        for centre in np.unique(wanted).tolist():
            asking = waiting[wanted == centre]
            taken = asking[np.argsort(costs[asking, centre], kind="stable")[: room[centre]]]
            labels[taken] = centre
            room[centre] -= len(taken)
    return labels
