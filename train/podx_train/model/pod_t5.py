"""PodT5: a T5 with continuous prompts and whole-word embeddings (POD paper, section 3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import T5ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from podx.bundle.trie import Trie
from podx.errors import ConfigError
from podx.text.inputs import PLAIN_WORD
from podx.text.templates import Task
from podx_train.model.config import PodConfig
from podx_train.model.losses import cross_entropies
from podx_train.model.one_pass import SiblingScores, additive, causal_bias, target_bias
from podx_train.model.user_prompts import UserPrompts

PROMPT_INIT_RANGE = 0.1
WHOLE_WORD_INIT_STD = 1.0
ONE_PASS_INIT = 0.1
ITEM_START = 0.9
"""Root mean square of the coordinates of a token that :meth:`PodT5.start_items` has placed."""


class ModelBatch(NamedTuple):
    """Padded inputs.

    Attributes:
        input_ids, whole_word_ids, attention_mask: int64 [batch, source].
        task_index: int64 [batch], rows of the prompts.
        users: int64 [batch], user numbers, 0 for one that the model does not know; None: nobody is known.
        next_items: int64 [batch, source], number of the item that follows each position, 0: none is to be learnt
            there; None: the targets are tokens. One-pass models alone have such batches.
    """

    input_ids: Tensor
    whole_word_ids: Tensor
    attention_mask: Tensor
    task_index: Tensor
    users: Tensor | None = None
    next_items: Tensor | None = None

    def to(self, device: torch.device) -> ModelBatch:
        """The same on another device."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))

    def map(self, change: Callable[[Tensor], Tensor]) -> ModelBatch:
        """Every tensor changed alike."""
        changed: Any = (None if tensor is None else change(tensor) for tensor in self)
        return ModelBatch(*changed)


class PodT5(nn.Module):
    """T5 whose input is ``[prompt vectors of the task][token + whole-word embeddings]``.

    Attributes:
        config: how it was built.
        backbone: the T5.
        prompts: continuous prompts, [tasks, K, d].
        whole_word: whole-word table, rows [whole_word_rows, d].
        trained_rows: how many rows of :meth:`token_tables` are trained; None: all.
        user_prompts: makes P vectors of each user; None where P is 0.
        label_smoothing: what :attr:`smoothing` is in one-pass training; no part of the model.
        siblings: scores items of one-pass models; set it (:meth:`read_catalog`) before they learn or are searched.
    """

    _ddp_params_and_buffers_to_ignore: list[str]  # torch reads it where a module is trained by several processes

    def __init__(self, config: PodConfig, backbone: T5ForConditionalGeneration | None = None) -> None:
        """Build with the given backbone, or with one of random weights."""
        super().__init__()
        self.config = config
        self.trained_rows: int | None = None
        self.backbone = T5ForConditionalGeneration(config.t5_config()) if backbone is None else backbone
        if not config.tied_output and self.backbone.lm_head.weight is self.backbone.shared.weight:
            # transformers ties every T5 it builds; v1.1 and flan weights need a matrix of their own to be loaded into
            self.backbone.lm_head.weight = nn.Parameter(self.backbone.shared.weight.detach().clone())
        width = self.backbone.config.d_model
        self.whole_word = nn.Embedding(config.whole_word_rows, width)
        vectors = torch.empty(len(config.tasks), config.prompts, width).uniform_(-PROMPT_INIT_RANGE, PROMPT_INIT_RANGE)
        self.prompts = nn.Parameter(vectors, requires_grad=config.prompts > 0)  # P5 has none
        nn.init.normal_(self.whole_word.weight, std=WHOLE_WORD_INIT_STD)
        self.user_prompts = UserPrompts.of(config, width)
        self.input_dropout = nn.Dropout(self.backbone.config.dropout_rate if config.one_pass else 0.0)
        if config.one_pass:  # T5 drops inputs and outputs of its stacks: here the text alone, not what is scored
            self.backbone.encoder.dropout = self.backbone.decoder.dropout = nn.Dropout(0.0)
        self.siblings: SiblingScores | None = None
        self.label_smoothing = 0.0

    @property
    def smoothing(self) -> float:
        """Label smoothing of :meth:`SiblingScores.losses`: none in evaluation."""
        return self.label_smoothing if self.training else 0.0

    def start_small(self) -> None:
        """Shrink random embeddings: T5 begins them at deviation 1, which makes rare items as loud as frequent ones."""
        with torch.no_grad():
            for table in (self.whole_word.weight, *self.token_tables()):
                table.mul_(ONE_PASS_INIT)

    def start_items(self, tokens: Sequence[Sequence[int]], places: Tensor) -> None:
        """Put the tokens that items are written with at the mean direction of the items that each of them writes.

        Args:
            tokens: of each item.
            places: [items, d], unit vectors; zeros for an item of which nothing is known.
        """
        item = torch.tensor([number for number, of_item in enumerate(tokens) for _ in of_item])
        token = torch.tensor([token for of_item in tokens for token in of_item])
        with torch.no_grad():
            for table in self.token_tables():
                sums = torch.zeros_like(table).index_add_(0, token, places.to(table)[item])
                table.add_(nn.functional.normalize(sums, dim=1), alpha=ITEM_START * table.shape[1] ** 0.5)

    def read_catalog(self, trie: Trie) -> None:
        """Give a one-pass model the items it chooses among; other models need none.

        Raises:
            CatalogError: an item begins another.
        """
        if self.config.one_pass:
            self.siblings = SiblingScores(trie, self.config.ceiling).to(self.prompts.device)

    def encode(self, batch: ModelBatch) -> tuple[Tensor, Tensor]:
        """Encoder output with the prompt vectors in front.

        Returns:
            hidden states [batch, memory, d] and the mask extended over the prompts, int64 [batch, memory]; memory =
            K + P + source: the task's vectors, the user's, the text.
        """
        task_index, mask = batch.task_index, batch.attention_mask
        text = self.input_dropout(self.backbone.shared(batch.input_ids) + self.whole_word(batch.whole_word_ids))
        prompts = self.prompts[task_index]  # [batch, K, d]
        if self.config.whole_word_on_prompt:
            prompts = prompts + self.whole_word.weight[PLAIN_WORD]  # the task's vectors only
        if self.user_prompts is not None:
            of_user = self.user_prompts(torch.zeros_like(task_index) if batch.users is None else batch.users)
            prompts = torch.cat([prompts, of_user], dim=1)
        mask = torch.cat([mask.new_ones(prompts.shape[:2]), mask], dim=1)
        seen = mask
        if self.config.one_pass:
            causal = task_index == self.config.task_row(Task.SEQUENTIAL)
            seen = causal_bias(mask, prompts.shape[1], causal)
        hidden = self.backbone.encoder(inputs_embeds=torch.cat([prompts, text], dim=1), attention_mask=seen)[0]
        return hidden, mask

    def decode(self, hidden: Tensor, mask: Tensor, tokens: Tensor, own_mask: Tensor | None = None) -> Tensor:
        """Decoder states, scaled for the output layer: [batch, target, d].

        Args:
            hidden: encoder output, [batch, memory, d].
            mask: what is seen of it: [batch, memory], or an attention bias [batch, 1, target, memory].
            tokens: int64 [batch, target], what the decoder has read.
            own_mask: attention bias between the decoder's positions, [1, 1, target, target]; None: what came before.
        """
        states = self.backbone.decoder(
            input_ids=tokens,
            attention_mask=own_mask,
            encoder_hidden_states=hidden,
            encoder_attention_mask=mask,
            use_cache=False,
        )[0]
        scale = self.backbone.config.d_model**-0.5 if self.backbone.config.scale_decoder_outputs else 1.0
        return states * scale

    def position_losses(self, batch: ModelBatch) -> Tensor:
        """One pass over users: negative log-likelihood of the items that follow, summed by row, float [batch]."""
        states, items, rows, siblings = self.position_states(batch)
        losses = siblings.losses(states, items, self.backbone.lm_head.weight, self.smoothing)
        return losses.new_zeros(len(batch.input_ids)).index_add(0, rows, losses)

    def position_states(self, batch: ModelBatch) -> tuple[Tensor, Tensor, Tensor, SiblingScores]:
        """What the items that follow are scored by, one target after another.

        Returns:
            decoder states [targets, depth, d], one for each token of an item; the items and the rows of the batch that
            they belong to, int64 [targets]; what scores them.

        Raises:
            ConfigError: the model has read no catalog, or the batch has no next items.
        """
        siblings, items = self.siblings, batch.next_items
        if siblings is None or items is None:
            raise ConfigError("a one-pass model needs its catalog before it learns: call read_catalog")
        hidden, mask = self.encode(batch)
        rows, source, depth = *batch.input_ids.shape, siblings.depth
        tokens = torch.cat([batch.input_ids[..., None], siblings.tokens[items][..., :-1]], dim=-1)
        front = mask.shape[1] - source
        reach = front + torch.arange(source, device=mask.device).repeat_interleave(depth)
        place = torch.arange(mask.shape[1], device=mask.device)
        seen = additive(((place <= reach[:, None]) & (mask > 0)[:, None, :])[:, None])
        own = target_bias(source, depth, mask.device)
        states = self.decode(hidden, seen, tokens.view(rows, -1), own.expand(rows, -1, -1, -1))
        at = items > 0
        return states.view(rows, source, depth, -1)[at], items[at], at.nonzero()[:, 0], siblings

    def logits(self, batch: ModelBatch, labels: Tensor) -> Tensor:
        """Next-token logits under teacher forcing, [batch, target, vocabulary]; ``labels`` as in :meth:`forward`."""
        hidden, mask = self.encode(batch)
        output = self.backbone(
            encoder_outputs=BaseModelOutput(last_hidden_state=hidden),
            attention_mask=mask,  # cross-attention must not see padding, or a record's loss depends on its batch
            decoder_input_ids=self.backbone._shift_right(labels),
            use_cache=False,
        )
        return output.logits

    def sample_losses(self, batch: ModelBatch, labels: Tensor) -> Tensor:
        """Mean negative log-likelihood of each record's target tokens, float [batch].

        For batches with ``next_items``: the sum over a row's positions, and over the tokens of an item.
        """
        if batch.next_items is not None:
            return self.position_losses(batch)
        return cross_entropies(self.logits(batch, labels), labels)

    def forward(self, batch: ModelBatch, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """Training loss, Eq. (1) of the POD paper: mean over a record's target tokens, then mean over records.

        Args:
            batch: inputs.
            labels: int64 [batch, target], end of sequence included, padded with :data:`IGNORED_LABEL`; not read where
                the batch has ``next_items``.
            weights: float [batch], weight of each record in a sum that takes the place of the mean.
        """
        losses = self.sample_losses(batch, labels)
        return losses.mean() if weights is None else (losses * weights).sum()

    def parameter_counts(self) -> dict[str, int]:
        """Number of weights: in all, without token embedding and output layer, and those that training changes."""
        every, tables = list(self.parameters()), self.token_tables()
        total, trained = sum(p.numel() for p in every), sum(p.numel() for p in every if p.requires_grad)
        if self.trained_rows is not None:
            trained -= sum((len(t) - self.trained_rows) * t.shape[1] for t in tables if t.requires_grad)
        beyond = total - sum(table.numel() for table in tables)
        return {"all": total, "beyond_embedding": beyond, "trained": trained}

    def token_tables(self) -> list[Tensor]:
        """Token embedding, and the output layer where it is another matrix: [vocabulary, d] each."""
        first, last = self.backbone.shared.weight, self.backbone.lm_head.weight
        return [first] if first is last else [first, last]
