"""PodT5: a T5 with continuous prompts and whole-word embeddings (POD paper, section 3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import T5ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from podx.text.inputs import PLAIN_WORD
from podx_train.model.config import PodConfig
from podx_train.model.losses import cross_entropies
from podx_train.model.user_prompts import UserPrompts

PROMPT_INIT_RANGE = 0.1
WHOLE_WORD_INIT_STD = 1.0


class ModelBatch(NamedTuple):
    """Padded inputs.

    Attributes:
        input_ids, whole_word_ids, attention_mask: int64 [batch, source].
        task_index: int64 [batch], rows of the prompts.
        users: int64 [batch], user numbers, 0 for one that the model does not know; None: nobody is known.
    """

    input_ids: Tensor
    whole_word_ids: Tensor
    attention_mask: Tensor
    task_index: Tensor
    users: Tensor | None = None

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

    def encode(
        self,
        input_ids: Tensor,
        whole_word_ids: Tensor,
        attention_mask: Tensor,
        task_index: Tensor,
        users: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Encoder output with the prompt vectors in front.

        Args:
            input_ids, whole_word_ids, attention_mask: int64 [batch, source].
            task_index: int64 [batch], row of each record's task in ``config.tasks``.
            users: int64 [batch], see :class:`ModelBatch`.

        Returns:
            hidden states [batch, memory, d] and the mask extended over the prompts, int64 [batch, memory]; memory =
            K + P + source: the task's vectors, the user's, the text.
        """
        text = self.backbone.shared(input_ids) + self.whole_word(whole_word_ids)
        prompts = self.prompts[task_index]  # [batch, K, d]
        if self.config.whole_word_on_prompt:
            prompts = prompts + self.whole_word.weight[PLAIN_WORD]  # the task's vectors only
        if self.user_prompts is not None:
            of_user = self.user_prompts(torch.zeros_like(task_index) if users is None else users)
            prompts = torch.cat([prompts, of_user], dim=1)
        mask = torch.cat([attention_mask.new_ones(prompts.shape[:2]), attention_mask], dim=1)
        hidden = self.backbone.encoder(inputs_embeds=torch.cat([prompts, text], dim=1), attention_mask=mask)[0]
        return hidden, mask

    def logits(self, batch: ModelBatch, labels: Tensor) -> Tensor:
        """Next-token logits under teacher forcing, [batch, target, vocabulary]; ``labels`` as in :meth:`forward`."""
        hidden, mask = self.encode(*batch)
        output = self.backbone(
            encoder_outputs=BaseModelOutput(last_hidden_state=hidden),
            attention_mask=mask,  # cross-attention must not see padding, or a record's loss depends on its batch
            decoder_input_ids=self.backbone._shift_right(labels),
            use_cache=False,
        )
        return output.logits

    def sample_losses(self, batch: ModelBatch, labels: Tensor) -> Tensor:
        """Mean negative log-likelihood of each record's target tokens, float [batch]."""
        return cross_entropies(self.logits(batch, labels), labels)

    def forward(self, batch: ModelBatch, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """Training loss, Eq. (1) of the POD paper: mean over a record's target tokens, then mean over records.

        Args:
            batch: inputs.
            labels: int64 [batch, target], end of sequence included, padded with :data:`IGNORED_LABEL`.
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
