"""The catalog as ``recommend.onnx`` reads it: the trie in columns of the graph's output, as plain arrays.

The graph's walk is unrolled over :data:`LEVELS` levels at most. What hangs on the catalog (how many tokens are
scored, how many children the widest node of a level has) comes in as data, so another catalog needs no other graph.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from podx.bundle.tables import TableFile
from podx.bundle.trie import Trie
from podx.errors import CatalogError

LEVELS = 8
"""Longest item that a graph can walk to, in tokens, end of sequence not counted."""

CHILD_START = "child_start"
EDGE_COLUMN = "edge_column"
NODE_PARENT = "node_parent"
NODE_ITEM = "node_item"
SUBTREE_ITEMS = "subtree_items"
ITEM_NODE = "item_node"
OUTPUT_TOKENS = "output_tokens"
END_COLUMN = "end_column"
LONGEST = "longest"


def widest(level: int) -> str:
    """Name of a level's table of child places."""
    return f"widest.{level}"


LEVEL_COLUMN = "level_column"


def level_tokens(level: int) -> str:
    """Name of the table of a level's tokens."""
    return f"level_tokens.{level}"


SEARCH_TABLES = (
    CHILD_START,
    EDGE_COLUMN,
    NODE_PARENT,
    NODE_ITEM,
    SUBTREE_ITEMS,
    ITEM_NODE,
    OUTPUT_TOKENS,
    END_COLUMN,
    LONGEST,
    *map(widest, range(LEVELS)),
)
"""Names of all tables of the search; a catalog file holds others as well."""

SIBLING_TABLES = (*SEARCH_TABLES, LEVEL_COLUMN, *map(level_tokens, range(LEVELS)))
"""The same where scores are over siblings."""


def search_tables(trie: Trie, eos_token: int) -> dict[str, npt.NDArray[Any]]:
    """The arrays that the graph's walk needs.

    Args:
        trie: the catalog's.
        eos_token: end of sequence.

    Returns:
        ``child_start`` int32 [nodes + 1]; ``edge_column`` int32 [nodes - 1], place of each edge's token among
        ``output_tokens``; ``node_parent``, ``node_item``, ``subtree_items`` int32 [nodes]; ``item_node``
        int32 [items + 1], 0 (the root) where an item is not listed; ``output_tokens`` int64 [tokens], ascending: those
        in use and end of sequence; ``end_column`` int64 [1]; ``longest`` float32 [1], tokens of the longest item with
        end of sequence; ``widest.0`` … ``widest.7`` int32, 0 … n - 1 for the n children of the widest node at that
        level, empty from ``depth`` on.

    Raises:
        CatalogError: an item is longer than :data:`LEVELS` tokens.
    """
    if trie.depth > LEVELS:
        raise CatalogError(
            f"an item is written with {trie.depth} tokens, the recommender graph walks {LEVELS} at most: give items "
            f"shorter texts, or train a tokeniser that writes them in fewer pieces (--tokenizer train)"
        )
    output = np.union1d(trie.tokens_in_use(), [eos_token]).astype(np.int64)
    column = trie.edge_column
    if not np.array_equal(output, trie.output_tokens):
        column = np.searchsorted(output, trie.output_tokens).astype(np.int32)[column]
    tables: dict[str, npt.NDArray[Any]] = {
        CHILD_START: trie.child_start,
        EDGE_COLUMN: column,
        NODE_PARENT: trie.parent,
        NODE_ITEM: trie.item,
        SUBTREE_ITEMS: trie.subtree_items,
        ITEM_NODE: trie.item_node,
        OUTPUT_TOKENS: output,
        END_COLUMN: np.searchsorted(output, [eos_token]).astype(np.int64),
        LONGEST: np.array([trie.depth + 1], dtype=np.float32),
    }
    branching = most_children(trie)
    for level in range(LEVELS):
        tables[widest(level)] = np.arange(branching[level] if level < trie.depth else 0, dtype=np.int32)
    return tables


def sibling_tables(trie: Trie) -> dict[str, npt.NDArray[Any]]:
    """What the walk needs beside :func:`search_tables` where scores are over siblings.

    Returns:
        ``level_tokens.0`` … ``level_tokens.7`` int64, the tokens that occur at that level, ascending (so those of level
        0 are the root's children in their order); ``level_column`` int32 [nodes - 1], place of each edge's token among
        its level's.

    Raises:
        CatalogError: an item begins another.
    """
    trie.require_ends_at_leaves()
    starts, column = trie.level_starts(), np.empty_like(trie.edge_column)
    tables: dict[str, npt.NDArray[Any]] = {LEVEL_COLUMN: column}
    for level in range(LEVELS):
        edges = slice(starts[level + 1] - 1, starts[level + 2] - 1) if level < trie.depth else slice(0, 0)
        tokens, column[edges] = np.unique(trie.edge_token[edges], return_inverse=True)
        tables[level_tokens(level)] = tokens.astype(np.int64)
    return tables


def most_children(trie: Trie) -> list[int]:
    """Children of the widest node at each level 0 … depth - 1."""
    bounds = pairwise(trie.level_starts()[: trie.depth + 1])
    return [int(np.diff(trie.child_start[first : last + 1]).max()) for first, last in bounds]


def read_trie(tables: TableFile) -> Trie:
    """The trie that :func:`search_tables` was given, over the mapped arrays: nothing is built or copied.

    Raises:
        CatalogError: the file lacks a table, or they do not fit together.
    """
    trie = Trie(
        child_start=tables.map(CHILD_START),
        edge_column=tables.map(EDGE_COLUMN),
        output_tokens=tables.map(OUTPUT_TOKENS),
        parent=tables.map(NODE_PARENT),
        item=tables.map(NODE_ITEM),
        subtree_items=tables.map(SUBTREE_ITEMS),
        item_node=tables.map(ITEM_NODE),
        depth=int(tables.map(LONGEST)[0]) - 1,
    )
    nodes = trie.node_count
    lengths = (len(trie.child_start) - 1, len(trie.edge_column) + 1, len(trie.item), len(trie.subtree_items))
    if set(lengths) != {nodes}:
        raise CatalogError(f"the tables in {tables.path} do not fit together: copy it anew, or export again")
    return trie


def read_end_token(tables: TableFile) -> int:
    """The end of sequence that :func:`search_tables` was given.

    Raises:
        CatalogError: the file lacks a table.
    """
    return int(tables.map(OUTPUT_TOKENS)[tables.map(END_COLUMN)[0]])
