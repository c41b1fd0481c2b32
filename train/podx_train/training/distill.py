"""Light-weight students: a smaller model learns from the data and from a trained model's token distributions.

The POD paper names light-weight models as future work (section 6). The loss of a record is

    (1 - w) · Eq. (1)  +  w · T² · KL(teacher ‖ student),

both as means over the record's target tokens, then over records (Hinton, Vinyals and Dean 2015); T divides the logits
of both. In the tasks that write items the divergence is taken over the tokens that items consist of, and end of
sequence: that is the distribution whose logarithms the item search adds up. Explanations use the whole vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from podx.bundle.manifest import file_sha256
from podx.errors import DataError
from podx.flags import check, option
from podx.text.templates import Task
from podx_train.batches.templates import Templates, kind_of_inference, trained_templates
from podx_train.checkpoint.checkpoint import WEIGHTS_FILE, Checkpoint, load_checkpoint
from podx_train.codes.one_token import with_item_codes
from podx_train.data.dataset import Dataset
from podx_train.model.config import NO_ADAPTER, PodConfig
from podx_train.model.losses import cross_entropies, target_means
from podx_train.model.pod_t5 import ModelBatch, PodT5
from podx_train.model.student import SHAPE_FIELDS, StudentShape, cut_out
from podx_train.model.user_prompts import FROZEN
from podx_train.options import FAST, MODEL_OPTIONS, PAPER, RANDOM, RANDOM_EMBEDDING_LR, TrainOptions, recipe_options
from podx_train.training.cpu import tune_for_cpu
from podx_train.training.loop import TrainResult
from podx_train.training.start import Start
from podx_train.training.train import make_trainer
from podx_train.users.user_vectors import digest

ITEM_TASKS = (Task.SEQUENTIAL, Task.TOPN)
"""Tasks whose target is an item."""


@dataclass(frozen=True)
class DistillOptions:
    """What distillation adds to the options of training; ``shape`` is that of the student.

    Raises:
        ConfigError: an option is out of its bounds.
    """

    shape: StudentShape
    weight: float = option(
        0.5, "Share of the teacher's distributions in the loss; the rest is the data's.", least=0, most=1
    )
    temperature: float = option(2.0, "Divides the logits of both; above 1, unlikely tokens count more.", above=0)
    from_scratch: bool = option(False, "Start the student from random weights, not from the teacher's.")

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        check(self)


class Distillation(nn.Module):
    """The training loss of a student, in place of :meth:`PodT5.forward`.

    Args:
        student: on its device.
        teacher: moved there and never trained; it is no part of this module's weights.
        item_tokens: int64 [tokens], what items consist of, end of sequence included.
    """

    def __init__(self, student: PodT5, teacher: PodT5, item_tokens: Tensor, options: DistillOptions) -> None:
        super().__init__()
        device = student.prompts.device
        teacher = teacher.to(device).eval().requires_grad_(False)
        if device.type == "cpu":
            tune_for_cpu(teacher.backbone)
        self.student, self._teacher = student, (teacher,)  # a tuple, or nn.Module would count its weights as its own
        self._weight, self._temperature = options.weight, options.temperature
        self._item_tokens = item_tokens.to(device)
        self._writes_item = torch.tensor([task in ITEM_TASKS for task in student.config.tasks], device=device)
        ignored = getattr(student, "_ddp_params_and_buffers_to_ignore", [])
        self._ddp_params_and_buffers_to_ignore = [f"student.{name}" for name in ignored]

    def forward(self, batch: ModelBatch, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """The loss; arguments as in :meth:`PodT5.forward`."""
        losses = self._losses(batch, labels) if batch.next_items is None else self._position_losses(batch)
        return losses.mean() if weights is None else (losses * weights).sum()

    def _position_losses(self, batch: ModelBatch) -> Tensor:
        """The loss of each row of a one-pass batch, [batch]."""
        states, items, rows, siblings = self.student.position_states(batch)
        table, teacher = self.student.backbone.lm_head.weight, self._teacher[0]
        losses = (1 - self._weight) * siblings.losses(states, items, table, self.student.smoothing)
        if self._weight:
            with torch.no_grad():
                wanted, *_ = teacher.position_states(batch)
            of_teacher = wanted, teacher.backbone.lm_head.weight
            losses = losses + self._weight * siblings.divergences(states, table, *of_teacher, items, self._temperature)
        return losses.new_zeros(len(batch.input_ids)).index_add(0, rows, losses)

    def _losses(self, batch: ModelBatch, labels: Tensor) -> Tensor:
        """The loss of each record whose target is tokens, [batch]."""
        logits = self.student.logits(batch, labels)
        losses = (1 - self._weight) * cross_entropies(logits, labels)
        if self._weight:
            with torch.no_grad():
                wanted = self._teacher[0].logits(batch, labels)
            losses = losses + self._weight * self._divergences(logits.float(), wanted.float(), batch, labels)
        return losses

    def _divergences(self, logits: Tensor, wanted: Tensor, batch: ModelBatch, labels: Tensor) -> Tensor:
        """T² · KL of each record, [batch]."""
        of_items = self._writes_item[batch.task_index]
        result = logits.new_zeros(len(labels))
        for rows, tokens in ((of_items, self._item_tokens), (~of_items, slice(None))):
            if bool(rows.any()):
                ours, other = logits[rows][..., tokens], wanted[rows][..., tokens]
                result = result.index_put((rows,), divergences(ours, other, labels[rows], self._temperature))
        return result


def divergences(logits: Tensor, wanted: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """T² · KL(teacher ‖ student), mean over each record's target tokens.

    Args:
        logits, wanted: of student and teacher, float32 [batch, target, tokens].
        labels: int64 [batch, target], which positions count.

    Returns:
        float32 [batch].
    """
    ours = functional.log_softmax(logits / temperature, dim=-1)
    target = functional.log_softmax(wanted / temperature, dim=-1)
    of_tokens = functional.kl_div(ours, target, reduction="none", log_target=True).sum(dim=-1)
    return temperature**2 * target_means(of_tokens, labels)


def distill_model(
    teacher: Path | str,
    dataset: Dataset,
    out: Path | str,
    distilling: DistillOptions,
    options: TrainOptions | None = None,
    templates: Templates | None = None,
    resume: bool = False,
) -> TrainResult:
    """Train a student of a checkpoint and write its own, an ordinary checkpoint.

    Validation, and with it the published epoch, goes by Eq. (1) alone, so it compares with the teacher's.

    Args:
        teacher: checkpoint folder.
        dataset: what the teacher was trained on.
        options: how to train; tasks, prompts and whatever else makes the model are the teacher's. None: by the recipe
            of its kind.
        templates: of the inputs; None: those the teacher was trained with.
        resume: as in :func:`podx_train.training.train.train_model`.

    Raises:
        ConfigError: the student would be larger than the teacher; further as ``train_model``.
        DataError: the dataset is not the teacher's; further as ``train_model``.
        CheckpointError: the teacher or the saved state is damaged.
        TokenizerError, CatalogError, DeviceError: as ``train_model``.
    """
    source = load_checkpoint(teacher)
    if source.config.one_pass:
        dataset = with_item_codes(dataset)
    _require_its_dataset(source, dataset, teacher)
    options = _as_the_teacher(options or TrainOptions(**student_recipe(source.config)), source.model.config)
    start = start_from_teacher(source, Path(teacher), distilling, options.seed)
    chosen = trained_templates(source.training) if templates is None else templates
    return make_trainer(dataset, Path(out), options, start, chosen, resume).run()


def start_from_teacher(source: Checkpoint, folder: Path, distilling: DistillOptions, seed: int) -> Start:
    """What the training of a student starts from.

    Raises:
        ConfigError: the student would be larger than the teacher.
    """
    teacher, catalog = source.model, source.catalog()
    teacher.read_catalog(catalog.trie)
    config = distilling.shape.config(teacher.config)
    users = None
    if teacher.user_prompts is not None:
        users = {name: getattr(teacher.user_prompts, name).clone() for name in FROZEN}
    end = np.array([source.tokenizer.eos_id], dtype=np.int64)
    item_tokens = torch.from_numpy(np.unique(np.concatenate([catalog.tokens, end])))

    def student() -> PodT5:
        if not distilling.from_scratch:
            return cut_out(teacher, config)
        torch.manual_seed(seed)
        model = PodT5(config)
        if config.one_pass:
            model.start_small()
        return model

    return Start(
        facts={
            "teacher": _facts_of(source, folder, users),
            "student": _shape(config),
            "weight": distilling.weight,
            "temperature": distilling.temperature,
            "from_scratch": distilling.from_scratch,
        },
        options="the teacher, the student's shape, --weight, --temperature or --from-scratch",
        tokenizer=source.tokenizer.path.read_bytes,
        names_tokenizer=True,
        model=lambda tasks, tokenizer: student(),
        embedding_scale=RANDOM_EMBEDDING_LR if distilling.from_scratch else 1.0,
        users=users,
        objective=lambda model: Distillation(model, teacher, item_tokens, distilling),
    )


def student_recipe(teacher: PodConfig) -> Mapping[str, Any]:
    """What of :class:`TrainOptions` a student of such a teacher has otherwise than the defaults."""
    return recipe_options(FAST if teacher.one_pass else PAPER)


def _as_the_teacher(options: TrainOptions, config: PodConfig) -> TrainOptions:
    """The options that make a model are not chosen but the teacher's."""
    of_teacher = {name: getattr(config, name) for name in MODEL_OPTIONS if hasattr(config, name)}
    of_teacher |= {"inference": kind_of_inference(config), "user_vectors": None}
    of_teacher |= {"item_init": RANDOM, "layer_init": RANDOM} | ({"targets": "pass"} if config.one_pass else {})
    of_teacher |= {"adapter": NO_ADAPTER, "lora_rank": options.lora_rank}  # what an adapter learnt is merged by now
    return dataclasses.replace(options, **of_teacher)


def _require_its_dataset(source: Checkpoint, dataset: Dataset, folder: Path | str) -> None:
    same = (
        source.user_ids == dataset.user_ids
        and source.item_ids == dataset.item_ids
        and source.item_texts == dataset.item_texts
        and np.array_equal(source.sequences.items, dataset.items)
        and np.array_equal(source.sequences.offsets, dataset.offsets)
    )
    if not same:
        raise DataError(
            f"the dataset is not the one that the teacher {folder} was trained on (users, items, their numbers, codes "
            f"or sequences differ): give that dataset, or train a teacher on this one"
        )


def _shape(config: PodConfig) -> dict[str, Any]:
    return {name: config.backbone[field] for name, field in (SHAPE_FIELDS | {"d_model": "d_model"}).items()}


def _facts_of(source: Checkpoint, folder: Path, users: Mapping[str, Tensor] | None) -> dict[str, Any]:
    return {
        **_shape(source.model.config),
        "parameters": source.model.parameter_counts()["all"],
        "weights_sha256": file_sha256(folder / WEIGHTS_FILE),
        "users_sha256": None if users is None else digest(users),
        "epoch": source.training.get("weights_epoch"),
        "best_loss": source.training.get("best_loss"),
    }
