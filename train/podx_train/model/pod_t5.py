"""PodT5: a T5 with continuous prompts and whole-word embeddings (POD paper, section 3)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import T5Config, T5ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from podx.errors import CheckpointError, ConfigError, PodxError
from podx.text.inputs import PLAIN_WORD
from podx.text.templates import ALL_TASKS, ITEM_PREFIX, Task, Template, parse_tasks
from podx_train.model.losses import IGNORED_LABEL as IGNORED_LABEL
from podx_train.model.losses import cross_entropies
from podx_train.model.user_prompts import UserPrompts

FORMAT_VERSION = 1
DEFAULT_PROMPTS = 3
DEFAULT_WHOLE_WORD_ROWS = 512
DEFAULT_MAX_HISTORY = 20
DEFAULT_USER_HEADS = 4
DEFAULT_USER_WIDTH = 512
DEFAULT_NEIGHBOURS = 20
NO_ADAPTER = "none"
DEFAULT_LORA_RANK = 8
PROMPT_INIT_RANGE = 0.1
WHOLE_WORD_INIT_STD = 1.0
_LEAST = {
    **dict.fromkeys(("prompts", "user_prompts", "user_heads", "user_count"), 0),
    **dict.fromkeys(("max_history", "user_width", "neighbours", "lora_rank"), 1),
    "whole_word_rows": 2,
}

_BACKBONE_FIELDS = (
    "vocab_size",
    "d_model",
    "d_kv",
    "d_ff",
    "num_layers",
    "num_decoder_layers",
    "num_heads",
    "relative_attention_num_buckets",
    "relative_attention_max_distance",
    "dropout_rate",
    "layer_norm_epsilon",
    "initializer_factor",
    "feed_forward_proj",
    "scale_decoder_outputs",
    "pad_token_id",
    "eos_token_id",
    "decoder_start_token_id",
)


def backbone_fields(config: T5Config) -> dict[str, Any]:
    """What of a T5Config makes the model; the rest of it belongs to other uses of transformers."""
    return {name: getattr(config, name) for name in _BACKBONE_FIELDS}


@dataclass(frozen=True)
class PodConfig:
    """Everything that says how a PodT5 is built and fed.

    Attributes:
        backbone: the T5Config's fields, see :func:`backbone_fields`.
        tasks: the tasks trained; row i of the prompts belongs to ``tasks[i]``.
        prompts: prompt vectors a task, K in the paper.
        whole_word_rows: rows of the whole-word table.
        whole_word_on_prompt: also add whole-word row 0 to the prompt vectors (the paper's figure; the published code
            adds nothing to them).
        max_history: how many of a user's last items an input holds.
        scheme: how users and items are numbered, as the dataset names it.
        tied_output: the output layer is the token embedding (T5 v1.1 and flan have one of their own).
        item_prefix: what stands before an item's text in inputs; nothing where items are written as codes.
        inference_templates: wording of validation, test and serving, by task; the bare one for tasks left out. P5 and
            the *continuous + discrete* inference of the POD paper's section 5.5 keep words here.
        user_prompts: prompt vectors made for each user (PeaPOD); 0: none.
        user_heads: attention heads that make them; 0: a multi-layer perceptron instead.
        user_width: width of the user embeddings they are made from.
        neighbours: most similar users whose embeddings are attended to. user_count: users there are in all.
        adapter: ``none``, ``lora`` or ``prompt-only``: which weights were trained. lora_rank: rank of LoRA matrices.
        format_version: version of the checkpoint's format.
    """

    backbone: Mapping[str, Any] = field(repr=False)
    tasks: tuple[Task, ...] = ALL_TASKS
    prompts: int = DEFAULT_PROMPTS
    whole_word_rows: int = DEFAULT_WHOLE_WORD_ROWS
    whole_word_on_prompt: bool = False
    max_history: int = DEFAULT_MAX_HISTORY
    scheme: str = "train-first"
    tied_output: bool = True
    item_prefix: str = ITEM_PREFIX
    inference_templates: Mapping[Task, str] = field(default_factory=dict)
    user_prompts: int = 0
    user_heads: int = DEFAULT_USER_HEADS
    user_width: int = DEFAULT_USER_WIDTH
    neighbours: int = DEFAULT_NEIGHBOURS
    user_count: int = 0
    adapter: str = NO_ADAPTER
    lora_rank: int = DEFAULT_LORA_RANK
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        """Refuse shapes that no model can have."""
        if not self.tasks or len(set(self.tasks)) != len(self.tasks):
            raise ConfigError(f"tasks must be one or more different tasks, not {list(map(str, self.tasks))}")
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}, not {getattr(self, name)}")
        if self.user_prompts and self.user_heads and self.user_width % self.user_heads:
            raise ConfigError(f"user_width {self.user_width} cannot be cut into {self.user_heads} heads")
        self.wordings()

    def wordings(self) -> dict[Task, Template]:
        """The templates of validation, test and serving.

        Raises:
            ConfigError: a template is faulty.
        """
        return {task: Template.parse(task, text) for task, text in self.inference_templates.items()}

    def task_row(self, task: Task) -> int:
        """Row of a task in the prompts.

        Raises:
            ConfigError: the model was not trained for it.
        """
        if task not in self.tasks:
            raise ConfigError(f"this model has no prompts for task {task}: it knows {', '.join(self.tasks)}")
        return self.tasks.index(task)

    def t5_config(self) -> T5Config:
        """The backbone's configuration as transformers wants it."""
        return T5Config.from_dict(dict(self.backbone))

    def to_json(self) -> str:
        """Text that :meth:`from_json` reads."""
        content = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        content["backbone"] = dict(self.backbone)
        content["tasks"] = [task.value for task in self.tasks]
        content["inference_templates"] = {task.value: text for task, text in self.inference_templates.items()}
        return json.dumps(content, indent=2)

    @classmethod
    def from_json(cls, text: str) -> PodConfig:
        """Read what :meth:`to_json` wrote.

        Raises:
            CheckpointError: not such a text, or of another format version.
        """
        try:
            content = json.loads(text)
            version = content["format_version"]
            if version != FORMAT_VERSION:
                raise CheckpointError(
                    f"the checkpoint has format version {version!r}, this podx reads {FORMAT_VERSION}: "
                    f"use the podx that wrote it, or train again"
                )
            lacking = set(_BACKBONE_FIELDS) - content["backbone"].keys()
            if lacking:
                raise CheckpointError(f"the checkpoint's backbone lacks {', '.join(sorted(lacking))}: copy it again")
            content["tasks"] = tuple(parse_tasks(name)[0] for name in content["tasks"])
            texts = content.get("inference_templates", {})
            content["inference_templates"] = {Task(name): text for name, text in texts.items()}
            return cls(**content)
        except CheckpointError:
            raise
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, PodxError) as error:
            raise CheckpointError(f"the checkpoint's configuration cannot be read: {error!r}") from error


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
        return ModelBatch(*(None if tensor is None else change(tensor) for tensor in self))


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
            own = self.user_prompts(torch.zeros_like(task_index) if users is None else users)
            prompts = torch.cat([prompts, own], dim=1)
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

    def token_tables(self) -> list[nn.Parameter]:
        """Token embedding, and the output layer where it is another matrix: [vocabulary, d] each."""
        first, last = self.backbone.shared.weight, self.backbone.lm_head.weight
        return [first] if first is last else [first, last]
