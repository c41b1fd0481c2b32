"""Search for the likeliest items by a model as it is trained, before anything is exported."""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from torch import Tensor

from podx.bundle.trie import NO_ITEM, ROOT
from podx.errors import ConfigError
from podx_train.model.one_pass import additive, target_bias
from podx_train.model.pod_t5 import ModelBatch, PodT5


class ItemSearch:
    """The likeliest next items by a one-pass model: exact for items of one token, else a beam search over the trie.

    Meant for validation during training, where nothing is exported yet.

    Args:
        model: a one-pass model that has read its catalog.
        beams: prefixes kept at each level.
    """

    def __init__(self, model: PodT5, beams: int) -> None:
        if model.siblings is None:
            raise ConfigError("a one-pass model needs its catalog before it is searched: call read_catalog")
        self._model, self._siblings, self._beams = model, model.siblings, beams

    @torch.inference_mode()
    def best(self, batch: ModelBatch, k: int, denied: Tensor) -> Tensor:
        """Item numbers, best first, int64 [batch, k]; 0 where nothing more was found.

        Args:
            denied: int64 [batch, n], items that may not come out, filled up with 0.
        """
        hidden, mask = self._model.encode(batch)
        rows, device = len(hidden), hidden.device
        end = batch.attention_mask.sum(dim=1, keepdim=True) - 1
        tokens = batch.input_ids.gather(1, end)[:, None]  # [batch, beams, tokens read]
        node = torch.zeros(rows, 1, dtype=torch.int64, device=device)
        score = torch.zeros(rows, 1, device=device)
        found: list[tuple[Tensor, Tensor]] = []
        for level in range(self._siblings.depth):
            child, reached = self._continue(hidden, mask, tokens, node, score, level)
            item = self._siblings.item_of_node[child]
            barred = (item[..., None] == denied[:, None]).any(dim=-1) if level else self._barred(item, denied)
            answers = reached.masked_fill((item == NO_ITEM) | barred, -torch.inf)
            best, place = answers.topk(min(k, answers.shape[1]))
            found.append((best, item.gather(1, place)))
            if level + 1 == self._siblings.depth:
                break
            inner = reached.masked_fill(item != NO_ITEM, -torch.inf)
            score, place = inner.topk(min(self._beams, inner.shape[1]))
            node = child.gather(1, place)
            parent = place // (child.shape[1] // tokens.shape[1])
            kept = tokens.gather(1, parent[..., None].expand(-1, -1, tokens.shape[2]))
            tokens = torch.cat([kept, self._siblings.token_of_node[node][..., None]], dim=-1)
        scores = torch.cat([scores for scores, _ in found], dim=1)
        items = torch.cat([items for _, items in found], dim=1)
        best, place = scores.topk(min(k, scores.shape[1]))
        return functional.pad(items.gather(1, place).masked_fill(best == -torch.inf, NO_ITEM), (0, k - best.shape[1]))

    def _barred(self, item: Tensor, denied: Tensor) -> Tensor:
        """Which children of the root are denied, by a mark an item; comparing all with all would be too much."""
        marks = torch.zeros(len(denied), len(self._siblings.tokens), dtype=torch.bool, device=item.device)
        return marks.scatter_(1, denied, True).gather(1, item)

    def _continue(
        self, hidden: Tensor, mask: Tensor, tokens: Tensor, node: Tensor, score: Tensor, level: int
    ) -> tuple[Tensor, Tensor]:
        """Children of every beam and the sums of log-probabilities that lead there, [batch, beams · widest] each."""
        model, (rows, beams, length) = self._model, tokens.shape
        own = target_bias(beams, length, hidden.device).expand(rows, -1, -1, -1)
        seen = additive((mask > 0)[:, None, None].expand(-1, -1, beams * length, -1))
        states = model.decode(hidden, seen, tokens.reshape(rows, -1), own).view(rows, beams, length, -1)[:, :, -1]
        table = model.backbone.lm_head.weight
        gains = self._siblings.log_odds(states.flatten(0, 1), node.flatten(), level, table, score.flatten())
        gains = gains.view(rows, beams, -1)
        places = torch.arange(gains.shape[-1], device=node.device)
        child = self._siblings.first_child(node)[..., None] + places
        reached = gains + score[..., None]
        alive = reached > -torch.inf  # neither a place without a child nor below a beam that was none (nan)
        return child.masked_fill(~alive, ROOT).flatten(1), reached.masked_fill(~alive, -torch.inf).flatten(1)
