"""How a PodT5 is built and fed: its configuration and the text of it in a checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from transformers import T5Config

from podx.errors import CheckpointError, ConfigError, PodxError
from podx.text.templates import ALL_TASKS, ITEM_PREFIX, Task, Template

FORMAT_VERSION = 1
DEFAULT_PROMPTS = 3
DEFAULT_WHOLE_WORD_ROWS = 512
DEFAULT_MAX_HISTORY = 20
DEFAULT_USER_HEADS = 4
DEFAULT_USER_WIDTH = 512
DEFAULT_NEIGHBOURS = 20
NO_ADAPTER = "none"
DEFAULT_LORA_RANK = 8
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
        inference_templates: template of validation, test and serving, by task; the bare one for tasks left out. P5 and
            the *continuous + discrete* inference of the POD paper's section 5.5 keep words here.
        user_prompts: prompt vectors made for each user (PeaPOD); 0: none.
        user_heads: attention heads that make them; 0: a multi-layer perceptron instead.
        user_width: width of the user embeddings they are made from.
        neighbours: most similar users whose embeddings are attended to. user_count: users there are in all.
        one_pass: the encoder is causal over a history that it reads one position an item, the decoder starts from the
            last item read, and an item's tokens are scored among their siblings, no end of sequence among them; so one
            pass over a user trains every position.
        ceiling: of one-pass models, how likely an item's last token of several may be among its siblings where those
            before are unlikely (docs/architecture.md, what a score is); 1: as likely as the model has it.
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
    one_pass: bool = False
    ceiling: float = 1.0
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
        if self.one_pass and (Task.SEQUENTIAL not in self.tasks or Task.TOPN in self.tasks):
            raise ConfigError(
                "a one-pass model learns the task sequential, by which it answers topn: leave topn out of --tasks, "
                "or train both tasks with --recipe paper"
            )
        if self.one_pass and self.item_prefix:
            raise ConfigError("a one-pass model reads items written as codes: make them with podx data index")
        self.parsed_templates()

    def parsed_templates(self) -> dict[Task, Template]:
        """The templates of validation, test and serving.

        Raises:
            ConfigError: a template is faulty.
        """
        return {task: Template.parse(task, text) for task, text in self.inference_templates.items()}

    def task_row(self, task: Task) -> int:
        """Row of a task in the prompts; a one-pass model answers top-N by the sequential task.

        Raises:
            ConfigError: the model was not trained for it.
        """
        if self.one_pass and task is Task.TOPN:
            task = Task.SEQUENTIAL
        if task not in self.tasks:
            raise ConfigError(f"this model has no prompts for task {task}: it knows {', '.join(self.tasks)}")
        return self.tasks.index(task)

    def t5_config(self) -> T5Config:
        """The backbone's configuration as transformers wants it."""
        return T5Config.from_dict(dict(self.backbone))

    def to_json(self) -> str:
        """Text that :meth:`from_json` reads."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2).decode()

    @classmethod
    def from_json(cls, text: str) -> PodConfig:
        """Read what :meth:`to_json` wrote.

        Raises:
            CheckpointError: not such a text, of another format version, or of a model that this podx does not know.
        """
        try:
            content = msgspec.json.decode(text, type=dict[str, Any])
            version = content["format_version"]
            if version != FORMAT_VERSION:
                raise CheckpointError(
                    f"the checkpoint has format version {version!r}, this podx reads {FORMAT_VERSION}: "
                    f"use the podx that wrote it, or train again"
                )
            lacking = set(_BACKBONE_FIELDS) - content["backbone"].keys()
            if lacking:
                raise CheckpointError(f"the checkpoint's backbone lacks {', '.join(sorted(lacking))}: copy it again")
            unknown = content.keys() - {field.name for field in dataclasses.fields(cls)}
            if unknown:  # a model with a part that is left out would answer wrongly without a word
                raise CheckpointError(f"the checkpoint has {', '.join(sorted(unknown))}: use the podx that wrote it")
            return msgspec.convert(content, cls)
        except (msgspec.MsgspecError, KeyError, AttributeError, PodxError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"the checkpoint's configuration cannot be read: {error!r}") from error
