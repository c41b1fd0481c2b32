"""Records → token ids, whole-word ids and mask. Training, export and serving all come through here.

Every word of an input is tokenised on its own. The tokens of one user or item id share a whole-word id (1, 2, … in
order of appearance); every other token, end of sequence and padding included, has whole-word id 0 (POD paper,
section 3.2; numbering as in the published code). The tokens of an id are computed once and kept.

A *one-pass* model (docs/architecture.md) reads a history otherwise: the token that starts a sequence, then one position
an item, its last token, with whole-word ids 1, 2, … No user, no words and no end of sequence stand in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from podx.errors import ConfigError, TokenizerError
from podx.text.templates import ITEM_PREFIX, USER_PLACEHOLDER, USER_PREFIX, Task, Template, bare_template
from podx.text.tokenizer import Tokenizer

IntArray = npt.NDArray[np.int64]

PLAIN_WORD = 0
"""Whole-word id of every token that belongs to no id."""

UNKNOWN_USER = 0
FEW_IDS = 16
"""Up to so many, a loop over ids is faster than numpy's calls."""

MOST_WORDS = 32_768
"""Words of users, and of items, whose tokens are kept: about 5 MB each."""

NO_ROW = -1
"""Fills up rows of users' prompt vectors."""

NO_TEMPLATES: Mapping[Task, Template] = MappingProxyType({})


@dataclass(frozen=True)
class EncodedInput:
    """One record.

    Attributes:
        input_ids, whole_word_ids: int64 [source], end of sequence included.
        user: number of its user, 0 for one that the model does not know.
        user_rows: numbers of the users whose own prompt vectors are averaged, where that is not ``user`` alone.
    """

    input_ids: IntArray
    whole_word_ids: IntArray
    user: int = UNKNOWN_USER
    user_rows: tuple[int, ...] | None = None

    @property
    def prompt_rows(self) -> tuple[int, ...]:
        """Rows of the table of users' prompt vectors that stand for this user."""
        return (self.user,) if self.user_rows is None else self.user_rows

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass(frozen=True)
class Batch:
    """Padded records.

    Attributes:
        input_ids, whole_word_ids, attention_mask: int64 [batch, source].
        users: int64 [batch], user numbers, 0 for one that the model does not know; None: nobody is known.
        user_rows: int64 [batch, rows], see :class:`EncodedInput`, filled up with -1; None: ``users`` alone.
    """

    input_ids: IntArray
    whole_word_ids: IntArray
    attention_mask: IntArray
    users: IntArray | None = None
    user_rows: IntArray | None = None

    @property
    def size(self) -> int:
        """Number of records."""
        return int(self.input_ids.shape[0])

    @property
    def last_tokens(self) -> IntArray:
        """Last token of each record, int64 [batch]: what the decoder of a one-pass model starts from."""
        last = np.maximum(self.attention_mask.sum(axis=1) - 1, 0)
        return np.take_along_axis(self.input_ids, last[:, None], axis=1)[:, 0]

    def rows(self, chosen: Sequence[int] | npt.NDArray[np.integer]) -> Batch:
        """Some of the records, padded to the longest of them."""
        users, rows = (None if array is None else array[chosen] for array in (self.users, self.user_rows))
        mask = self.attention_mask[chosen]
        width = int(mask.sum(axis=1).max(initial=0))
        return Batch(self.input_ids[chosen, :width], self.whole_word_ids[chosen, :width], mask[:, :width], users, rows)


def pad_rows(rows: Sequence[npt.NDArray[np.integer] | Sequence[int]], value: int) -> IntArray:
    """Rows of different length → int64 [rows, longest], filled up with ``value`` on the right."""
    if len(rows) == 1:
        return np.array(rows[0], dtype=np.int64, ndmin=2)
    width = max(map(len, rows), default=0)
    padded = np.full((len(rows), width), value, dtype=np.int64)
    for number, row in enumerate(rows):
        padded[number, : len(row)] = row
    return padded


class _WordCache(dict[int, Sequence[int]]):
    """Tokens of the words made from id numbers, computed on first use; those of :meth:`warm` lie in one array too.

    It holds at most :data:`MOST_WORDS`, those of :meth:`warm` aside, and starts anew when it is full: a service meets
    millions of users, and a word takes microseconds.
    """

    def __init__(self, tokenizer: Tokenizer, word_of: Callable[[int], str]) -> None:
        super().__init__()
        self._tokenizer = tokenizer
        self._word_of = word_of
        self._flat = self._starts = self._lengths = np.zeros(0, dtype=np.int64)

    def __missing__(self, number: int) -> Sequence[int]:
        if len(self) >= max(MOST_WORDS, len(self._lengths)):
            self.clear()
        tokens = self[number] = self._tokenizer.encode(self._word_of(number))
        return tokens

    def warm(self, count: int) -> None:
        """Tokenise ids 1 to ``count`` in one call."""
        words = self._tokenizer.encode_many([self._word_of(number) for number in range(1, count + 1)])
        self.update(enumerate(words, start=1))
        self._flat = np.array(list(chain.from_iterable(words)), dtype=np.int64)
        self._lengths = np.array([0, *map(len, words)], dtype=np.int64)
        self._starts = np.cumsum(self._lengths) - self._lengths

    def of(self, numbers: IntArray) -> tuple[IntArray, IntArray]:
        """Tokens of ids one after another, and how many each has."""
        if len(numbers) > FEW_IDS and numbers.max() < len(self._lengths) and numbers.min() > 0:
            lengths = self._lengths[numbers]
            before = np.cumsum(lengths) - lengths
            return self._flat[np.repeat(self._starts[numbers] - before, lengths) + np.arange(lengths.sum())], lengths
        words = [self[number] for number in numbers.tolist()]
        return np.array(list(chain.from_iterable(words)), dtype=np.int64), np.array(list(map(len, words)), np.int64)


def _numbered(prefix: str) -> Callable[[int], str]:
    return lambda number: f"{prefix}{number}"


class InputEncoder:
    """Writes records of any task as token ids.

    Users and items are given by their numbers (1-based). Safe to share between threads: what the caches
    hold is a function of its key.

    Args:
        item_text: how an item is written, by default as its number; ``item_prefix`` comes before it.
        whole_word_rows: rows of the model's whole-word table.
        templates: template of a task where a call names none; the bare one for the tasks that are left out.
        one_pass: a history is one position an item.

    Attributes:
        user_word, item_word: how a user and an item of a number are written.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        item_text: Callable[[int], str] = str,
        whole_word_rows: int = 512,
        item_prefix: str = ITEM_PREFIX,
        templates: Mapping[Task, Template] = NO_TEMPLATES,
        one_pass: bool = False,
    ) -> None:
        self.tokenizer = tokenizer
        self.one_pass = one_pass
        self.whole_word_rows = whole_word_rows
        self._templates = templates
        self.user_word = _numbered(USER_PREFIX)
        self.item_word: Callable[[int], str] = lambda number: item_prefix + item_text(number)
        self._users, self._items = _WordCache(tokenizer, self.user_word), _WordCache(tokenizer, self.item_word)
        self._runs: dict[Template, list[str | IntArray]] = {}

    def warm(self, users: int, items: int) -> None:
        """Tokenise every id now, so that no later call meets the tokeniser."""
        self._users.warm(users)
        self._items.warm(items)

    def template(self, task: Task) -> Template:
        """How records of a task are written where a call does not say."""
        return self._templates.get(task) or bare_template(task)

    def runs(self, template: Template) -> list[str | IntArray]:
        """A template's placeholders and, as tokens, the runs of plain words between them and the end of sequence."""
        runs = self._runs.get(template, [])
        if not runs:
            for plain, group in groupby(template.words, lambda word: not word.startswith("{")):
                words = list(group)
                tokens = [token for word in words for token in self.tokenizer.encode(word)] if plain else []
                runs.extend([np.array(tokens, dtype=np.int64)] if plain else words)
            runs.append(np.array([self.tokenizer.eos_id], dtype=np.int64))
            self._runs[template] = runs
        return runs

    def encode(
        self, task: Task, user: int, items: Sequence[int] | npt.NDArray[np.integer], template: Template | None = None
    ) -> EncodedInput:
        """One record as tokens.

        Args:
            task: which of the task's templates apply.
            user: user number; 0: nobody, so the text has no user in it.
            items: the history, the candidates, or the one item, by number. A one-pass model ranks candidates by the
                history, so for it the items of top-N are the history.
            template: how the record is written; when not given, the encoder's own for the task.

        Raises:
            ConfigError: the template belongs to another task, or there are more ids than whole-word rows.
        """
        if template is not None and template.task is not task:
            raise ConfigError(f"a template of task {template.task} cannot word a record of task {task}")
        if len(items) + 1 >= self.whole_word_rows:
            raise ConfigError(
                f"{len(items)} items and a user need more than the model's {self.whole_word_rows} whole-word rows"
            )
        if self.one_pass and task is not Task.EXPLANATION:
            return self._one_position_each(user, items)
        parts, whole_words = [], []
        next_id = PLAIN_WORD + 1
        for run in self.runs(template or self.template(task)):
            if isinstance(run, str):
                is_user = run == USER_PLACEHOLDER
                ids = ([] if user == UNKNOWN_USER else [user]) if is_user else items
                tokens, lengths = (self._users if is_user else self._items).of(np.asarray(ids, dtype=np.int64))
                whole_words.append(np.arange(next_id, next_id + len(lengths)).repeat(lengths))
                next_id += len(lengths)
            else:
                tokens = run
                whole_words.append(np.full(len(run), PLAIN_WORD))
            parts.append(tokens)
        return EncodedInput(np.concatenate(parts), np.concatenate(whole_words), user)

    def _one_position_each(self, user: int, items: Sequence[int] | npt.NDArray[np.integer]) -> EncodedInput:
        """A history for a one-pass model: [1 + items] positions, the first of which starts the sequence."""
        last_tokens = [self._items[item][-1] for item in np.asarray(items, dtype=np.int64).tolist()]
        ids = np.array([self.tokenizer.pad_id, *last_tokens], dtype=np.int64)  # T5 starts a sequence with padding
        return EncodedInput(ids, np.arange(PLAIN_WORD, PLAIN_WORD + len(ids), dtype=np.int64), user)

    def collate(self, records: Sequence[EncodedInput]) -> Batch:
        """Pad records on the right to the longest of them."""
        texts = [r.input_ids for r in records]
        ids = pad_rows(texts, self.tokenizer.pad_id)
        whole = pad_rows([r.whole_word_ids for r in records], PLAIN_WORD)
        mask = np.zeros(ids.shape, dtype=np.int64)
        for row, text in enumerate(texts):
            mask[row, : len(text)] = 1
        users = np.array([r.user for r in records], dtype=np.int64)
        alone = all(r.user_rows is None for r in records)
        return Batch(ids, whole, mask, users, None if alone else pad_rows([r.prompt_rows for r in records], NO_ROW))


def item_target_tokens(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Target tokens of items written as ``texts``, without end of sequence.

    Raises:
        TokenizerError: an item's text holds something the tokeniser does not know, so it could not be told apart.
    """
    tokens = tokenizer.encode_many(texts)
    for text, ids in zip(texts, tokens, strict=True):
        if not ids or tokenizer.unk_id in ids:
            raise TokenizerError(
                f"the tokeniser cannot write the item id {text!r}: use a model that knows its characters, "
                f"or train one on this data with --tokenizer train"
            )
    return tokens
