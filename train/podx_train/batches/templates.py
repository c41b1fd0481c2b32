"""The words around the ids: which of them training draws, and which stay at validation, test and serving.

POD drops the words once its prompt vectors have taken their meaning over: *bare* inference. Two methods keep them:
P5, which has no prompt vectors (the POD paper's baseline), and *continuous + discrete* inference of a trained POD model
(section 5.5 there), which costs longer inputs. Both read the first worded template of each task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from podx.errors import CheckpointError, ConfigError, PodxError
from podx.text.templates import DEFAULT_TEMPLATES, Task, Template, bare_template
from podx_train.checkpoint.checkpoint import Checkpoint
from podx_train.model.config import PodConfig

Templates = Mapping[Task, tuple[Template, ...]]

BARE, DISCRETE = "bare", "discrete"
INFERENCE = (BARE, DISCRETE)
TEMPLATES_KEY = "templates"
"""Where the checkpoint's ``training.json`` has the templates of training."""


def inference_templates(inference: str, templates: Templates, tasks: Sequence[Task]) -> dict[Task, str]:
    """What ``PodConfig.inference_templates`` becomes.

    Args:
        inference: ``bare``: no words; ``discrete``: the first worded template of each task.
        templates: of training.
        tasks: the model's tasks.

    Raises:
        ConfigError: unknown ``inference``, or a task has no worded template.
    """
    if inference not in INFERENCE:
        raise ConfigError(f"unknown --inference {inference!r}: choose among {', '.join(INFERENCE)}")
    if inference == BARE:
        return {}
    return {task: " ".join(_worded(task, templates)[0].words) for task in tasks}


def _worded(task: Task, templates: Templates) -> tuple[Template, ...]:
    worded = tuple(template for template in templates[task] if template != bare_template(task))
    if not worded:
        raise ConfigError(f"--inference discrete: task {task} has no template with words, add one to --templates")
    return worded


def training_templates(config: PodConfig, templates: Templates) -> Templates:
    """The templates training draws from: without the bare form where inference keeps words and so never meets it."""
    return {
        task: _worded(task, templates) if task in config.inference_templates else chosen
        for task, chosen in templates.items()
    }


def kind_of_inference(config: PodConfig) -> str:
    """``bare`` or ``discrete``."""
    return DISCRETE if config.inference_templates else BARE


def templates_as_json(templates: Templates) -> dict[str, list[str]]:
    """Templates as JSON values, by task."""
    return {task.value: [" ".join(template.words) for template in chosen] for task, chosen in templates.items()}


def trained_templates(training: Mapping[str, Any]) -> Templates:
    """The templates a checkpoint was trained with; the default ones where its ``training.json`` does not name them.

    Raises:
        CheckpointError: they are damaged.
    """
    try:
        listed = {Task(name): texts for name, texts in training.get(TEMPLATES_KEY, {}).items()}
        stored = {task: tuple(Template.parse(task, text) for text in texts) for task, texts in listed.items()}
    except (AttributeError, TypeError, ValueError, PodxError) as error:
        raise CheckpointError(f"the templates in training.json cannot be read ({error}): copy it again") from error
    return {**DEFAULT_TEMPLATES, **stored}


def with_inference(checkpoint: Checkpoint, inference: str | None) -> Checkpoint:
    """The same model read with other words; None: as it was trained.

    Raises:
        ConfigError: unknown ``inference``, or a task has no worded template.
    """
    if inference is None or inference == kind_of_inference(checkpoint.config):
        return checkpoint
    templates = trained_templates(checkpoint.training)
    chosen = inference_templates(inference, templates, checkpoint.config.tasks)
    return replace(checkpoint, config=replace(checkpoint.config, inference_templates=chosen))
