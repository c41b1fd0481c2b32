"""One pass over a user trains every position: masks and scores of one-pass models.

    prompts  START  item 1  item 2 … item n      encoder: an item sees the prompts and what came before it, and itself
                      │       │        │
                    item 2  item 3 … item n+1    decoder: starts from the item whose position it answers for, writes the
                                                 codes of the next item, and sees the encoder up to that position

All targets of a user are rows of one decoder call, kept apart by masks. An item's tokens are scored among their
**siblings**, the tokens that the catalog's trie allows at their node. So the product over an item's tokens is a proper
distribution over the items, and an end of sequence that is forced costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from transformers import T5ForConditionalGeneration

from podx.bundle.trie import ROOT, Trie
from podx.bundle.trie_tables import most_children
from podx_train.model.ceiling import under_ceiling
from podx_train.model.wide_softmax import wide_cross_entropy

HIDDEN = -1e9
"""Added to the attention score of what must not be seen."""
FULL_PRODUCT = 8
"""A level of up to this many times as many tokens as its widest node has children is multiplied whole: one product of
matrices is faster than gathering rows, until it is this much larger."""
WIDE = 2048
"""From so many choices on, :func:`wide_cross_entropy` is faster on a CPU."""

SMALL_START = 0.1
"""What :func:`start_copying` leaves of the layers that are to add little at first."""
LOOK_BACK = 2.0
"""Rise of the decoder's attention score at first, a token back: every token of an item looks at the last item most."""
SOFT_START = 0.6
"""Factor of the decoder's states at first: how sure a model is that has learned nothing."""
"""Stands for a probability of 0, of which there is no logarithm."""


def additive(visible: Tensor) -> Tensor:
    """Attention bias, float32: 0 where ``visible``, else :data:`HIDDEN`."""
    return torch.zeros(visible.shape, device=visible.device).masked_fill_(~visible, HIDDEN)


def causal_bias(mask: Tensor, prompts: int, causal: Tensor) -> Tensor:
    """What encoder positions see, as attention bias [batch, 1, memory, memory].

    Args:
        mask: [batch, memory], 0 at padding.
        prompts: vectors in front, which all positions see.
        causal: bool [batch], rows whose positions do not see what follows them.
    """
    length = mask.shape[1]
    later = torch.ones(length, length, dtype=torch.bool, device=mask.device).triu(1)
    later[:, :prompts] = False
    return additive((mask > 0)[:, None, None, :] & ~(later & causal[:, None, None])[:, None])


def target_bias(targets: int, length: int, device: torch.device) -> Tensor:
    """What decoder positions see of each other: their own target, up to there; [1, 1, targets·length, the same]."""
    place = torch.arange(targets * length, device=device)
    same = place[:, None] // length == place[None] // length
    return additive(same & (place[None] <= place[:, None]))[None, None]


@torch.no_grad()
def start_copying(t5: T5ForConditionalGeneration) -> None:
    """Let a T5 of random weights begin as a recommender of what lies near the items read, of the last above all.

    The decoder's attention hands on what it sees, most of all the token it starts from, which is the last item; the
    encoder's attention and all feed-forward layers add little. So each decoder state begins near the embeddings of the
    last items, at every token of the next.

    Args:
        t5: as the decoder of :meth:`PodT5.position_states` uses it; changed in place.
    """
    encoder: Any = t5.encoder.block  # its attention and layers are attributes that no type checker sees
    decoder: Any = t5.decoder.block
    for block in (*encoder, *decoder):
        block.layer[-1].DenseReluDense.wo.weight.mul_(SMALL_START)
    for block in encoder:
        block.layer[0].SelfAttention.o.weight.mul_(SMALL_START)
    for block in decoder:
        for attention in (block.layer[0].SelfAttention, block.layer[1].EncDecAttention):
            nn.init.orthogonal_(attention.v.weight)
            attention.o.weight.copy_(attention.v.weight.T)
    by_distance = decoder[0].layer[0].SelfAttention.relative_attention_bias.weight  # [buckets, heads]
    by_distance.copy_(LOOK_BACK * torch.arange(len(by_distance), device=by_distance.device)[:, None])
    t5.decoder.final_layer_norm.weight.fill_(SOFT_START)


class SiblingScores(nn.Module):
    """Scores tokens among their siblings in a catalog's trie. Holds no weights.

    Args:
        trie: of a catalog in which no item begins another.
        ceiling: the least, see :func:`under_ceiling`; 1: there is none. Items of one token have none.

    Attributes:
        tokens: int64 [items + 1, depth], tokens of each item by number; padded with 0.
        nodes: int64 [items + 1, depth + 1], nodes from the root to each item's end, then 0.
        item_of_node: int64 [nodes], item that ends at a node, or 0. token_of_node: int64 [nodes], that leads there.
        depth: tokens of the longest item.

    Raises:
        CatalogError: an item begins another.
    """

    tokens: Tensor
    nodes: Tensor
    item_of_node: Tensor
    token_of_node: Tensor
    _child_start: Tensor
    _edge_token: Tensor

    def __init__(self, trie: Trie, ceiling: float = 1.0) -> None:
        super().__init__()
        trie.require_ends_at_leaves()
        self.depth, self._ceiling = trie.depth, ceiling
        numbers = np.arange(trie.item_count + 1)
        paths = trie.paths(numbers)  # deepest first, the root where an item is shorter
        lengths = (paths != ROOT).sum(axis=1)
        back = lengths[:, None] - 1 - np.arange(trie.depth)[None]
        downwards = np.take_along_axis(paths, np.maximum(back, 0), axis=1)
        nodes = np.where(back >= 0, downwards, ROOT).astype(np.int64)
        tokens = np.where(nodes > ROOT, trie.edge_token[np.maximum(nodes - 1, 0)], 0)
        self._widest = most_children(trie)
        level_tokens = [np.unique(trie.edge_token[a - 1 : b - 1]) for a, b in pairwise(trie.level_starts()[1:])]
        for name, values in (
            ("tokens", tokens),
            ("nodes", np.concatenate([np.zeros((len(nodes), 1), dtype=np.int64), nodes], axis=1)),
            ("item_of_node", trie.item),
            ("token_of_node", np.append(0, trie.edge_token)),
            ("_child_start", trie.child_start),
            ("_edge_token", trie.edge_token),
            *((f"_tokens_{level}", of_level) for level, of_level in enumerate(level_tokens)),
        ):
            self.register_buffer(name, torch.from_numpy(np.asarray(values, dtype=np.int64)), persistent=False)

    def losses(self, states: Tensor, items: Tensor, table: Tensor, smoothing: float = 0.0) -> Tensor:
        """Negative log-likelihood of each item.

        Args:
            states: [rows, depth, d], decoder states, scaled for the output layer, one per token of an item.
            items: int64 [rows], item numbers.
            table: output layer, [vocabulary, d].
            smoothing: share of each token's target that is spread evenly over its siblings, itself among them.

        Returns:
            float32 [rows], the sum over the item's tokens.
        """
        total = before = torch.zeros(len(items), device=states.device)
        for level, rows, node, child in self._steps(items):
            gain, loss = self._level_losses(states[rows, level], node, child, level, table, smoothing, before[rows])
            total, before = total.index_add(0, rows, loss), before.index_add(0, rows, gain)
        return total

    def divergences(
        self, states: Tensor, table: Tensor, wanted: Tensor, wanted_table: Tensor, items: Tensor, temperature: float
    ) -> Tensor:
        """T² · KL(teacher ‖ student) among the siblings of each token, float32 [rows], summed over the item's tokens.

        Args:
            states, table: of the student, as in :meth:`losses`.
            wanted, wanted_table: of the teacher.
            items: int64 [rows], item numbers.
            temperature: T, divides the logits of both.
        """
        total = torch.zeros(len(items), device=states.device)
        for level, rows, node, _ in self._steps(items):
            ours = self.child_logits(states[rows, level], node, level, table).clamp(min=HIDDEN)
            other = self.child_logits(wanted[rows, level], node, level, wanted_table).clamp(min=HIDDEN)
            ours, other = (functional.log_softmax(logits / temperature, dim=-1) for logits in (ours, other))
            of_tokens = functional.kl_div(ours, other, reduction="none", log_target=True).sum(dim=-1)
            total = total.index_add(0, rows, temperature**2 * of_tokens)
        return total

    def _steps(self, items: Tensor) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
        """Level by level: which items have a token there, the nodes they come from and the children they take."""
        for level in range(self.depth):
            every = torch.arange(len(items), device=items.device)  # at level 0 without asking a GPU
            rows = every[self.nodes[items, level + 1] > ROOT] if level else every
            yield level, rows, self.nodes[items[rows], level], self.nodes[items[rows], level + 1]

    def _level_losses(
        self, states: Tensor, node: Tensor, child: Tensor, level: int, table: Tensor, smoothing: float, before: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Log-probability of each token, and its loss."""
        if level == 0 and states.device.type == "cpu" and self._widest[0] >= WIDE:
            own = functional.embedding(self._level_tokens_at(0), table)
            loss = wide_cross_entropy(states, own, child - 1)
            gain = -loss
            if smoothing:
                loss = loss + smoothing * ((states * own[child - 1]).sum(dim=1) - states @ own.mean(dim=0)).float()
            return gain, loss
        odds = self.log_odds(states, node, level, table, before)
        gain = odds.gather(1, (child - 1 - self._child_start[node])[:, None])[:, 0]
        if not smoothing:
            return gain, -gain
        absent = odds == -torch.inf  # torch's own label_smoothing is infinite where there are any
        mean = odds.masked_fill(absent, 0.0).sum(dim=1) / (~absent).sum(dim=1)
        return gain, (smoothing - 1) * gain - smoothing * mean

    def log_odds(self, states: Tensor, node: Tensor, level: int, table: Tensor, before: Tensor) -> Tensor:
        """Log-probabilities of the children of nodes: float32 [rows, widest], -inf where a node has fewer.

        Args:
            before: [rows], log-probability of the tokens that lead to the node. See :meth:`child_logits` for others.
        """
        logits = self.child_logits(states, node, level, table)
        if self._ceiling < 1 and 0 < level == self.depth - 1:
            return under_ceiling(logits, before, self._ceiling)
        return functional.log_softmax(logits, dim=-1)

    def child_logits(self, states: Tensor, node: Tensor, level: int, table: Tensor) -> Tensor:
        """Logits of the children of nodes, in their order: float32 [rows, widest], -inf where a node has fewer.

        Args:
            states: [rows, d].
            node: int64 [rows], nodes at ``level``.
            table: output layer, [vocabulary, d].
        """
        own = self._level_tokens_at(level)
        if level == 0:
            return (states @ functional.embedding(own, table).T).float()
        widest = self._widest[level]
        first, after = self._child_start[node], self._child_start[node + 1]
        edge = first[:, None] + torch.arange(widest, device=node.device)
        there = edge < after[:, None]
        tokens = self._edge_token[edge.clamp(max=len(self._edge_token) - 1)]
        if len(own) <= FULL_PRODUCT * widest:
            whole = states @ functional.embedding(own, table).T
            logits = whole.gather(1, torch.searchsorted(own, tokens).clamp(max=len(own) - 1))
        else:
            logits = torch.einsum("rd,rwd->rw", states, functional.embedding(tokens, table).to(states.dtype))
        return logits.float().masked_fill(~there, -torch.inf)

    def _level_tokens_at(self, level: int) -> Tensor:
        """The tokens of a level, ascending; at level 0 in the order of the root's children."""
        tokens: Tensor = getattr(self, f"_tokens_{level}")
        return tokens

    def first_child(self, node: Tensor) -> Tensor:
        """First child of each node; the others follow it."""
        return self._child_start[node] + 1
