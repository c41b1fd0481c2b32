"""Tasks and templates."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from podx.errors import ConfigError
from podx.text.templates import (
    ALL_TASKS,
    DEFAULT_TEMPLATES,
    ITEMS_PLACEHOLDER,
    USER_PLACEHOLDER,
    Task,
    Template,
    bare_template,
    load_templates,
    parse_tasks,
)


def test_tasks_come_in_canonical_order() -> None:
    assert parse_tasks("explanation, sequential,,sequential") == (Task.SEQUENTIAL, Task.EXPLANATION)


@pytest.mark.parametrize("text", ["", " , ", "sequential,topN"])
def test_unknown_or_no_tasks_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="choose among explanation, sequential, topn"):
        parse_tasks(text)


@pytest.mark.parametrize("task", ALL_TASKS)
def test_the_bare_template_holds_the_ids_only(task: Task) -> None:
    assert bare_template(task).words == (USER_PLACEHOLDER, ITEMS_PLACEHOLDER[task])
    assert len(set(DEFAULT_TEMPLATES[task])) == len(DEFAULT_TEMPLATES[task]) > 1


@pytest.mark.parametrize(
    "text",
    [
        "{user} only",
        "{user} {history} {history}",
        "{user} {candidates}",
        "{user} {history} {what}",
        "{user}: {history}",
    ],
)
def test_faulty_templates_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="once each"):
        Template.parse(Task.SEQUENTIAL, text)


def test_templates_from_a_file_keep_the_bare_one_first(tmp_path: Path) -> None:
    path = tmp_path / "templates.json"
    path.write_text(json.dumps({"topn": ["choose {candidates} for {user}", "{user} {candidates}"]}))
    templates = load_templates(path)
    assert [template.words for template in templates[Task.TOPN]] == [
        ("{user}", "{candidates}"),
        ("choose", "{candidates}", "for", "{user}"),
    ]
    assert templates[Task.SEQUENTIAL] == DEFAULT_TEMPLATES[Task.SEQUENTIAL]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot read templates"),
        ("[]", "JSON object"),
        ('{"topN": []}', "is no task"),
        ('{"sequential,topn": []}', "is no task"),
        ('{"topn": "choose {candidates} for {user}"}', "list of texts"),
        ('{"topn": [1]}', "list of texts"),
        ('{"topn": ["choose {history}"]}', "once each"),
    ],
)
def test_faulty_template_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "templates.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        load_templates(path)


def test_a_missing_template_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.json"):
        load_templates(tmp_path / "nowhere.json")
