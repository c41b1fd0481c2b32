"""From numbers of users and items to the tokens of inputs, as nodes: what stands before the encoder in
``recommend_numbers.onnx``.

The counterpart of :mod:`podx.text.inputs`. A one-pass model reads one token an item, so a Gather does it. Others read
words of several tokens. Each row has a place for every word that it may hold: the template's plain words, the user,
each item of its lists. A place that a row does not fill holds a word of no tokens, so rows need not be closed up:

    words ── lengths ── CumSum ── ends ──┬── which word stands at position p: as many as end at p or before
    offsets ─────────────────────────────┴── its token: what is left to the word's end

All is integers, and nothing branches.
"""

from __future__ import annotations

import numpy as np

from podx.bundle import signature as sig
from podx.bundle.input_words import READ_TOKEN, WORD_OFFSETS, WORD_TOKENS
from podx.text.templates import USER_PLACEHOLDER, Task
from podx_export.blocks.graph import INT64, GraphBuilder
from podx_export.search.words import Wording

NO_WORD = -1
NEVER = -(2**40)
"""Brings any place before the first."""


def written(graph: GraphBuilder, wording: Wording, user_rows: bool) -> list[str]:
    """Declare the inputs and write what they say: the values of ``encoder_inputs`` (:mod:`podx.bundle.signature`).

    Args:
        user_rows: the model has prompt vectors of each user, whose rows the caller names.
    """
    one_pass = not wording.runs
    specs = sig.number_inputs(not one_pass, Task.SEQUENTIAL in wording.task_ids, user_rows)
    inputs = {spec.name: graph.input(spec) for spec in specs}
    with graph.scope("numbers"):
        text = _one_position_each(graph, wording, inputs[sig.HISTORY]) if one_pass else _Words(graph, wording).text()
    return [*text, *([sig.USER_ROWS] if user_rows else [])]


def _one_position_each(graph: GraphBuilder, wording: Wording, history: str) -> list[str]:
    """A history as a one-pass model reads it: the start, which has item number 0, then the last items.

    Few nodes, for the smallest of these models answer in a quarter of a millisecond.
    """
    zero, most = graph.int_scalar(0), wording.max_history + 1
    numbers = graph.make("Pad", history, graph.ints(0, 1, 0, 0), zero)
    width = graph.dimension(numbers, 1)  # Slice takes what there is, up to so many
    position = np.arange(most, dtype=np.int64)
    back = np.where(position > 0, position - most, NEVER)  # of a row that is cut, how far from its end
    there = graph.cast(graph.make("GreaterOrEqual", numbers, zero), INT64)
    end = graph.make("Max", graph.make("ReduceSum", there, graph.ints(1), keepdims=1), graph.int_scalar(most))
    place = graph.make("Add", graph.head(graph.weight("back", back), width, 0), end)
    read = graph.make("GatherElements", numbers, graph.make("Max", place, zero), axis=1)
    ids = graph.cast(graph.make("Gather", READ_TOKEN, read), INT64)
    mask = graph.cast(graph.make("GreaterOrEqual", read, zero), INT64)
    whole = graph.make("Mul", graph.head(graph.weight("positions", position), width, 0), mask)
    task = graph.make("Squeeze", graph.head(numbers, graph.ints(1), 1), graph.ints(1))  # of zeros
    task_id = wording.task_ids[Task.SEQUENTIAL]
    return [ids, whole, mask, graph.make("Add", task, graph.int_scalar(task_id)) if task_id else task]


class _Words:
    """Rows of words, for models whose inputs are written by templates. Each list of words is [batch, n]."""

    def __init__(self, graph: GraphBuilder, wording: Wording) -> None:
        self._graph, self._wording = graph, wording
        self._user = graph.unsqueeze(sig.USER, 1)

    def text(self) -> list[str]:
        """Tokens, whole-word ids, mask, task."""
        graph, ids = self._graph, self._wording.task_ids
        if len(ids) == 1:
            (task,) = ids
            number = graph.make("Expand", graph.int_scalar(ids[task]), graph.dimension(sig.USER, 0))
            return [*self._tokens(self._row(task)), number]
        has_history = self._has_history()
        row = []
        for task in ids:
            of_task = has_history if task is Task.SEQUENTIAL else graph.make("Not", has_history)
            row.append(self._only(of_task, self._row(task)))
        numbers = (graph.int_scalar(ids[task]) for task in (Task.SEQUENTIAL, Task.TOPN))
        number = graph.make("Where", graph.make("Squeeze", has_history, graph.ints(1)), *numbers)
        return [*self._tokens(graph.concat(row, axis=1)), number]

    def _only(self, condition: str, words: str) -> str:
        return self._graph.make("Where", condition, words, self._graph.int_scalar(NO_WORD))

    def _row(self, task: Task) -> str:
        """The words of a task's template."""
        return self._graph.concat([self._run(task, run) for run in self._wording.runs[task]], axis=1)

    def _run(self, task: Task, run: str | int) -> str:
        graph, wording = self._graph, self._wording
        if isinstance(run, int):
            return graph.make("Add", graph.make("Mul", self._user, graph.int_scalar(0)), graph.int_scalar(run))
        if run == USER_PLACEHOLDER:
            return self._numbered(self._is_number(self._user), self._user, wording.before_users)
        if task is Task.TOPN:
            return self._numbered(self._is_number(sig.ALLOWED_ITEMS), sig.ALLOWED_ITEMS, wording.before_items)
        taken = self._is_number(sig.HISTORY)
        left = graph.make("CumSum", graph.cast(taken, INT64), graph.int_scalar(1), reverse=1)
        recent = graph.make("LessOrEqual", left, graph.int_scalar(wording.max_history))
        return self._numbered(graph.make("And", taken, recent), sig.HISTORY, wording.before_items)

    def _is_number(self, values: str) -> str:
        return self._graph.make("Greater", values, self._graph.int_scalar(0))

    def _numbered(self, read: str, numbers: str, before: int) -> str:
        """Words of users or items, where ``read`` says so."""
        return self._only(read, self._graph.make("Add", numbers, self._graph.int_scalar(before)))

    def _has_history(self) -> str:
        """Which rows have a history, bool [batch, 1]. The user's column keeps the list from being empty."""
        graph = self._graph
        none = graph.make("Mul", self._user, graph.int_scalar(0))
        longest = graph.reduce("ReduceMax", graph.concat([none, sig.HISTORY], axis=1), 1, keepdims=1)
        return self._is_number(longest)

    def _tokens(self, words: str) -> list[str]:
        """Tokens, whole-word ids and mask of rows of words, each [batch, source]."""
        graph, zero, one = self._graph, self._graph.int_scalar(0), self._graph.int_scalar(1)
        there = graph.cast(graph.make("GreaterOrEqual", words, zero), INT64)
        word = graph.make("Max", words, zero)
        start, end = (graph.make("Gather", WORD_OFFSETS, at) for at in (word, graph.make("Add", word, one)))
        length = graph.make("Mul", graph.make("Sub", end, start), there)
        ends = graph.make("CumSum", length, one)
        is_id = graph.cast(graph.make("GreaterOrEqual", words, graph.int_scalar(self._wording.plain)), INT64)
        whole_word = graph.make("Mul", graph.make("CumSum", is_id, one), is_id)

        total = graph.make("Gather", ends, graph.ints(-1), axis=1)
        position = graph.arange(graph.reduce("ReduceMax", total, 0, keepdims=0))
        mask = graph.cast(graph.make("Less", position, total), INT64)
        passed = graph.make("LessOrEqual", graph.unsqueeze(ends, 1), graph.unsqueeze(position, 1))
        at = graph.sum(graph.cast(passed, INT64), -1)
        at = graph.make("Mul", at, mask)  # beyond a row's end there is no word
        left = graph.make("GatherElements", graph.make("Sub", end, ends), at, axis=1)
        place = graph.make("Mul", graph.make("Add", left, position), mask)  # the first token is padding
        ids = graph.cast(graph.make("Gather", WORD_TOKENS, place), INT64)
        whole = graph.make("Mul", graph.make("GatherElements", whole_word, at, axis=1), mask)
        return [ids, whole, mask]
