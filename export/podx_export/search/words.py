"""What ``recommend_numbers.onnx`` must know of how requests are written: templates, and the tokens of every word."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from podx.bundle.catalog import Catalog
from podx.bundle.input_words import PADDING, InputWords
from podx.text.inputs import InputEncoder
from podx.text.templates import Task
from podx.text.tokenizer import Tokenizer

AT_A_TIME = 100_000
"""Words that are tokenised in one call: lists of tokens take many times what arrays do."""

Run = str | int
"""A placeholder, or the number of a word that is a run of plain words."""


@dataclass(frozen=True)
class Wording:
    """How requests are written.

    Attributes:
        task_ids: number, in the graphs, of each task by which items are searched for.
        max_history: items of a history that are read.
        runs: each task's template, end of sequence included; empty of one-pass models, which have no templates.
        plain: words that are runs of plain words; users: those that are users, which follow.
    """

    task_ids: Mapping[Task, int]
    max_history: int
    runs: Mapping[Task, tuple[Run, ...]]
    plain: int
    users: int

    @property
    def before_users(self) -> int:
        """What a user's number and its word's differ by."""
        return self.plain - 1

    @property
    def before_items(self) -> int:
        """What an item's number and its word's differ by."""
        return self.plain + self.users - 1


def wording(
    encoder: InputEncoder, task_ids: Mapping[Task, int], max_history: int, users: int
) -> tuple[Wording, InputWords | None]:
    """How an encoder writes requests of these tasks, and its words but for the items; None of a one-pass model."""
    if encoder.one_pass:
        return Wording(task_ids, max_history, {}, 0, 0), None
    plain: list[list[int]] = []
    runs: dict[Task, tuple[Run, ...]] = {}
    for task in task_ids:
        of_task: list[Run] = []
        for run in encoder.runs(encoder.template(task)):
            if isinstance(run, str):
                of_task.append(run)
            else:
                of_task.append(len(plain))
                plain.append(run.tolist())
        runs[task] = tuple(of_task)
    words = InputWords.of(plain).followed_by(_tokenised(encoder.tokenizer, encoder.user_word, users))
    return Wording(task_ids, max_history, runs, len(plain), users), words


def item_words(catalog: Catalog, encoder: InputEncoder, item_prefix: str) -> InputWords:
    """Items 1, 2, … as they are written in inputs; without a prefix, as they are written as targets."""
    if item_prefix:
        return _tokenised(encoder.tokenizer, encoder.item_word, len(catalog))
    return InputWords(np.append(np.int32(PADDING), catalog.tokens), catalog.offsets + 1)


def _tokenised(tokenizer: Tokenizer, word_of: Callable[[int], str], count: int) -> InputWords:
    """Words of numbers 1 … ``count``."""
    words = InputWords.of([])
    for first in range(1, count + 1, AT_A_TIME):
        numbers = range(first, min(first + AT_A_TIME, count + 1))
        words = words.followed_by(InputWords.of(tokenizer.encode_many([word_of(number) for number in numbers])))
    return words
