"""The three tasks of POD and how a record of each is written as words.

A template is plain text whose placeholders stand alone as words: ``{user}``, ``{history}``, ``{candidates}``,
``{item}``. The first template of each task is the *bare* one, the ids and nothing else. Training draws one of a task's
templates per sample; inference always uses the bare one, because the prompt vectors have taken over what the words
said (POD paper, section 3.3).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from podx.errors import ConfigError

USER_PREFIX = "user_"
ITEM_PREFIX = "item_"


class Task(StrEnum):
    """A recommendation task. The value is its name on the command line and in every file."""

    SEQUENTIAL = "sequential"
    TOPN = "topn"
    EXPLANATION = "explanation"


ALL_TASKS: tuple[Task, ...] = (Task.SEQUENTIAL, Task.TOPN, Task.EXPLANATION)

# The placeholder that stands for a record's items, by task.
ITEMS_PLACEHOLDER: Mapping[Task, str] = {
    Task.SEQUENTIAL: "{history}",
    Task.TOPN: "{candidates}",
    Task.EXPLANATION: "{item}",
}
USER_PLACEHOLDER = "{user}"


def parse_tasks(text: str) -> tuple[Task, ...]:
    """Tasks from a comma-separated list, in canonical order.

    Raises:
        ConfigError: a name is unknown, or the list is empty.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    known = {task.value for task in ALL_TASKS}
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        wrong = ", ".join(unknown) or "an empty list"
        raise ConfigError(f"unknown task {wrong}: choose among {', '.join(sorted(known))}, separated by commas")
    return tuple(task for task in ALL_TASKS if task.value in names)


@dataclass(frozen=True)
class Template:
    """One way to word a task's input: literal words and two placeholders."""

    task: Task
    words: tuple[str, ...]

    @classmethod
    def parse(cls, task: Task, text: str) -> Template:
        """Split ``text`` into words and check its placeholders.

        Raises:
            ConfigError: a placeholder is missing, repeated, foreign to the task, or glued to another word.
        """
        words = tuple(text.split())
        wanted = {USER_PLACEHOLDER, ITEMS_PLACEHOLDER[task]}
        found = [word for word in words if "{" in word or "}" in word]
        if sorted(found) != sorted(wanted):
            raise ConfigError(
                f"template {text!r} of task {task}: it must hold {' and '.join(sorted(wanted))} once each, "
                f"as words of their own, and no other placeholder"
            )
        return cls(task, words)


def _templates(task: Task, *texts: str) -> tuple[Template, ...]:
    return tuple(Template.parse(task, text) for text in texts)


DEFAULT_TEMPLATES: Mapping[Task, tuple[Template, ...]] = {
    Task.SEQUENTIAL: _templates(
        Task.SEQUENTIAL,
        "{user} {history}",
        "so far {user} took {history} and now turns to",
        "predict the next step of {user} whose path is {history}",
        "in order of time {history} were picked by {user} : what follows ?",
        "given the list {history} continue it for {user}",
    ),
    Task.TOPN: _templates(
        Task.TOPN,
        "{user} {candidates}",
        "of all these {candidates} one suits {user} most",
        "pick for {user} the single best match in {candidates}",
        "which entry among {candidates} should we show to {user} ?",
        "rank {candidates} by the taste of {user} and name the winner",
    ),
    Task.EXPLANATION: _templates(
        Task.EXPLANATION,
        "{user} {item}",
        "say in one sentence why {item} fits {user}",
        "{user} wonders about {item} : give a reason to take it",
        "what would {user} praise in {item} ?",
        "justify showing {item} to {user}",
    ),
}


def bare_template(task: Task) -> Template:
    """The template used at inference: the ids alone."""
    return DEFAULT_TEMPLATES[task][0]


def load_templates(path: Path) -> dict[Task, tuple[Template, ...]]:
    """Templates from a JSON file ``{"sequential": ["…"], …}``; the bare template is always kept as the first.

    Tasks that the file does not name keep the default templates.

    Raises:
        ConfigError: the file is not such JSON, names an unknown task, or holds a faulty template.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"cannot read templates from {path}: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold a JSON object that maps each task to a list of templates")
    result = dict(DEFAULT_TEMPLATES)
    for name, texts in content.items():
        if name not in ALL_TASKS:
            raise ConfigError(f"{path}: {name!r} is no task: choose among {', '.join(ALL_TASKS)}")
        task = Task(name)
        if not isinstance(texts, Sequence) or isinstance(texts, str) or not all(isinstance(t, str) for t in texts):
            raise ConfigError(f"{path}: {name!r} must be a list of texts")
        given = tuple(t for t in _templates(task, *texts) if t != bare_template(task))
        result[task] = (bare_template(task), *given)
    return result
