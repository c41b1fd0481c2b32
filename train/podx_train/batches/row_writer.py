"""Many records as token ids at once: what :meth:`InputEncoder.encode` writes one by one, by a few numpy calls a batch.

A record is a row of *words*: a run of plain words, the user and the items in the template's order with another run
between them, and a last run with end of sequence. The tokens of all words lie in one flat array, so a batch is
gathered by their starts and lengths.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from podx.text.inputs import PLAIN_WORD, InputEncoder
from podx.text.templates import USER_PLACEHOLDER, Task, Template
from podx_train.batches.samplers import Record

IntArray = npt.NDArray[np.int64]

RUNS = 3
"""Runs of plain words in a template: before, between and after its two placeholders."""
WORDS_BESIDE_ITEMS = RUNS + 1


@dataclass(frozen=True)
class Rows:
    """Rows of different length, one after another.

    Attributes:
        input_ids, whole_word_ids: int64 [tokens of all rows].
        lengths: int64 [rows].
    """

    input_ids: IntArray
    whole_word_ids: IntArray
    lengths: IntArray


def ragged(lengths: IntArray) -> IntArray:
    """Place of each element in its row, for rows of these lengths one after another; [sum of lengths]."""
    return np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def padded(flat: IntArray, inside: npt.NDArray[np.bool_], value: int) -> IntArray:
    """Rows one after another → [rows, longest], ``value`` where ``inside`` (the same shape) is False."""
    table = np.full(inside.shape, value, dtype=np.int64)
    table[inside] = flat
    return table


class _Tokens:
    """Tokens of words in one growing flat array."""

    def __init__(self) -> None:
        self.flat: IntArray = np.zeros(0, dtype=np.int64)

    def add(self, words: Sequence[IntArray]) -> tuple[IntArray, IntArray]:
        """Append words; where each begins, and how long it is."""
        lengths = np.array([len(word) for word in words], dtype=np.int64)
        starts = len(self.flat) + np.cumsum(lengths) - lengths
        self.flat = np.concatenate([self.flat, *words])
        return starts, lengths


class _Ids:
    """Where the tokens of numbered ids lie. Those up to ``count`` are known from the start, others once asked for."""

    def __init__(self, tokens: _Tokens, tokens_of: Callable[[int], IntArray], count: int) -> None:
        self._tokens, self._tokens_of = tokens, tokens_of
        self._starts = self._lengths = np.zeros(1, dtype=np.int64)
        self._learn(np.arange(1, count + 1))

    def __call__(self, numbers: IntArray) -> tuple[IntArray, IntArray]:
        """Starts and lengths of ids, [ids] each."""
        largest = int(numbers.max(initial=0))
        if largest >= len(self._lengths) or not self._lengths[numbers].all():
            self._learn(np.unique(numbers))
        return self._starts[numbers], self._lengths[numbers]

    def _learn(self, numbers: IntArray) -> None:
        missing_rows = int(numbers.max(initial=0)) + 1 - len(self._lengths)
        if missing_rows > 0:
            self._starts = np.append(self._starts, np.zeros(missing_rows, dtype=np.int64))
            self._lengths = np.append(self._lengths, np.zeros(missing_rows, dtype=np.int64))
        new = numbers[self._lengths[numbers] == 0]
        self._starts[new], self._lengths[new] = self._tokens.add([self._tokens_of(n) for n in new.tolist()])


class RowWriter:
    """Writes records as an :class:`InputEncoder` does.

    Args:
        encoder: whose tokens and templates these are; the ids it is warm for are laid out here.
        templates: by task; None stands for the encoder's own. Not for one thread while another writes.
    """

    def __init__(self, encoder: InputEncoder, templates: Mapping[Task, Sequence[Template | None]]) -> None:
        self._encoder = encoder
        self._tokens = _Tokens()
        users, items = encoder.warmed
        self._users = _Ids(self._tokens, encoder.user_tokens, users)
        self._items = _Ids(self._tokens, encoder.item_tokens, items)
        listed = [(task, template) for task, chosen in templates.items() for template in chosen]
        self._first: dict[Task, int] = {}
        for number, (task, _) in enumerate(listed):
            self._first.setdefault(task, number)
        self._counts = {task: len(chosen) for task, chosen in templates.items()}
        runs = [self._runs(task, template) for task, template in listed]
        starts, lengths = self._tokens.add([run for three in runs for run in three])
        self._run_starts, self._run_lengths = starts.reshape(-1, RUNS), lengths.reshape(-1, RUNS)
        users_first = [_user_first(template or encoder.template_for(task)) for task, template in listed]
        self._user_first = np.array(users_first, dtype=np.bool_)

    def _runs(self, task: Task, template: Template | None) -> list[IntArray]:
        """Plain tokens before, between and after the ids, read off a record with one item."""
        encoded = self._encoder.encode(task, 1, [1], template)
        words, ids = encoded.whole_word_ids, encoded.input_ids
        first, second = (np.flatnonzero(words == PLAIN_WORD + place) for place in (1, 2))
        return [ids[: first[0]], ids[first[-1] + 1 : second[0]], ids[second[-1] + 1 :]]

    def write(self, records: Sequence[Record], choices: npt.NDArray[np.float64]) -> Rows:
        """Records as rows of tokens.

        Args:
            choices: [records], in [0, 1): which of its task's templates each takes.

        Raises:
            ConfigError: a record has more ids than the model has whole-word rows.
        """
        counts = np.array([len(record.items) for record in records], dtype=np.int64)
        longest = records[int(counts.argmax())]
        if len(longest.items) + 1 >= self._encoder.whole_word_rows:
            self._encoder.encode(longest.task, longest.user, longest.items)  # says what is wrong
        template_of = np.array(
            [self._first[r.task] + int(c * self._counts[r.task]) for r, c in zip(records, choices, strict=True)]
        )
        users = np.array([record.user for record in records], dtype=np.int64)
        items = np.concatenate([record.items for record in records]).astype(np.int64, copy=False)
        return self._gather(template_of, users, items, counts)

    def _gather(self, template_of: IntArray, users: IntArray, items: IntArray, counts: IntArray) -> Rows:
        """Lay out the words of all rows, then take their tokens."""
        widths = counts + WORDS_BESIDE_ITEMS
        base = np.cumsum(widths) - widths
        user_first = self._user_first[template_of]
        user_at = base + np.where(user_first, 1, counts + 2)
        items_at = np.repeat(base + np.where(user_first, 3, 1), counts) + ragged(counts)
        runs_at = base[:, None] + np.stack([0 * base, np.where(user_first, 2, counts + 1), counts + 3], axis=1)
        starts, lengths, whole = (np.full(int(widths.sum()), PLAIN_WORD, dtype=np.int64) for _ in range(3))
        starts[user_at], lengths[user_at] = self._users(users)
        starts[items_at], lengths[items_at] = self._items(items)
        starts[runs_at], lengths[runs_at] = self._run_starts[template_of], self._run_lengths[template_of]
        whole[user_at] = PLAIN_WORD + 1 + np.where(user_first, 0, counts)
        whole[items_at] = PLAIN_WORD + 1 + np.repeat(user_first, counts) + ragged(counts)
        taken = np.repeat(starts, lengths) + ragged(lengths)
        return Rows(self._tokens.flat[taken], np.repeat(whole, lengths), np.add.reduceat(lengths, base))


def _user_first(template: Template) -> bool:
    """Whether the user comes before the items."""
    return next(word for word in template.words if word.startswith("{")) == USER_PLACEHOLDER
