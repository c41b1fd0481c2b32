"""Eager generation with transformers ``generate``: the oracle of the exported graphs and the bench's two baselines.

*encode-once*: the encoder runs once per record, as ``generate`` does by itself. *as-published*: it runs on every beam's
copy of the input, as the published code of POD does, and one copy's output is used; the answers are the same, only the
work is not. For explanations the published code also searches three groups that do not differ (its diversity penalty
is 0), so *as-published* searches each record three times with a third of the beams.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache, GenerationConfig, LogitsProcessorList
from transformers.modeling_outputs import BaseModelOutput

from podx.bundle.catalog import Catalog
from podx.bundle.trie import NO_ITEM
from podx.errors import ConfigError
from podx.text.inputs import Batch
from podx.text.templates import Task
from podx.text.tokenizer import Tokenizer
from podx_train.eager.prefixes import ItemLists, PrefixConstraint, SiblingScores, TrieWalker
from podx_train.model.pod_t5 import ModelBatch, PodT5

Mode = Literal["encode-once", "as-published"]

START_AND_END = 2
"""Tokens of a generated item besides its own: decoder start and end of sequence."""
DEAD_SCORE = -1e9
"""What transformers gives beams that stand for nothing."""
PUBLISHED_GROUPS = 3


@dataclass(frozen=True)
class SearchOptions:
    """Options of a beam search; see transformers' GenerationConfig for the names that are the same.

    Attributes:
        num_beams: beams.
        num_return: best sequences returned for each record.
        length_penalty: exponent of the length that log-likelihoods are divided by.
        max_length, min_length: tokens, the decoder's start included; constrained search ignores both.
        early_stopping: ``never``: stop only when nothing better can follow. False: transformers' usual heuristic, which
            is that of the published code.
        with_scores: return scores. Without them transformers keeps no copy of each step's logits, so time it so.
    """

    num_beams: int = 20
    num_return: int = 10
    length_penalty: float = 1.0
    max_length: int = 50
    min_length: int = 0
    early_stopping: bool | Literal["never"] = "never"
    with_scores: bool = True

    def __post_init__(self) -> None:
        """Refuse what no search can do."""
        if not 1 <= self.num_return <= self.num_beams:
            raise ConfigError(f"num_return={self.num_return} must lie between 1 and num_beams={self.num_beams}")


EXPLANATION_SEARCH = SearchOptions(num_beams=7, num_return=1, max_length=50, min_length=10, early_stopping=False)
"""As published: 21 beams in 3 groups that do not differ are 7 beams."""


@dataclass(frozen=True)
class EagerItems:
    """Found items, best first.

    Attributes:
        items: int64 [rows, num_return], item numbers; 0 where nothing valid was found.
        scores: float32 [rows, num_return], -inf where a constrained search found nothing more; None without scores.
        invalid: sequences that spell no item of the catalog.
        duplicates: valid items that stood further up in the same list already (they are kept).
    """

    items: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32] | None
    invalid: int
    duplicates: int


@dataclass(frozen=True)
class EagerTexts:
    """Generated explanations. ``texts``: [rows]; ``scores``: float32 [rows], None without scores."""

    texts: list[str]
    scores: npt.NDArray[np.float32] | None


def model_batch(batch: Batch, task_row: int) -> ModelBatch:
    """Records of one task as the model reads them; ``task_row``: see :meth:`PodConfig.task_row`."""
    rows = np.full(batch.size, task_row, dtype=np.int64)
    arrays = (batch.input_ids, batch.whole_word_ids, batch.attention_mask, rows, batch.users)
    tensors: Any = (None if array is None else torch.from_numpy(array) for array in arrays)
    return ModelBatch(*tensors)


@contextmanager
def only_tokens(head: nn.Module, tokens: npt.NDArray[np.integer], rows: int) -> Iterator[None]:
    """Within the block, the output layer ``head`` gives -inf to every token but ``tokens``.

    The softmax that follows then normalises over these alone, as a runtime with a cut output layer does.
    """
    dropped = torch.ones(rows, dtype=torch.bool)
    dropped[torch.from_numpy(np.asarray(tokens, dtype=np.int64))] = False
    dropped = dropped.to(next(head.parameters()).device)
    hook = head.register_forward_hook(lambda _module, _inputs, logits: logits.masked_fill(dropped, -torch.inf))
    try:
        yield
    finally:
        hook.remove()


class EagerRecommender:
    """Searches a PodT5 with transformers.

    Args:
        model: on the device to run on; put into evaluation mode.
        tokenizer, catalog: of the same checkpoint.
        mode: how often the encoder runs.
        score_tokens: None: scores are normalised over the whole vocabulary, as transformers does. Else int [tokens]:
            in constrained search and explanations over these and the end of sequence alone. One-pass models have their
            own way with items.

    Raises:
        ConfigError: there is no such mode.
    """

    def __init__(
        self,
        model: PodT5,
        tokenizer: Tokenizer,
        catalog: Catalog,
        mode: Mode = "encode-once",
        score_tokens: npt.NDArray[np.integer] | None = None,
    ) -> None:
        if mode not in ("encode-once", "as-published"):
            raise ConfigError(f"unknown mode {mode!r}: choose encode-once or as-published")
        self._one_pass = model.config.one_pass
        self._model = model.eval()
        self._tokenizer = tokenizer
        self._mode = mode
        self._score_tokens = None if score_tokens is None else np.append(score_tokens, tokenizer.eos_id)
        self._walker = TrieWalker(catalog.trie)
        self._lengths = np.append(0, np.diff(catalog.offsets))  # by number; 0 is no item
        # one-pass models score no end of sequence: with items of one length the search ends there, as in the graphs
        self._ends_are_known = self._one_pass and len(np.unique(self._lengths[1:])) == 1
        self._item_of_text = {catalog.text(item): item for item in range(1, len(catalog) + 1)}

    def recommend(
        self,
        batch: Batch,
        task: Task,
        options: SearchOptions | None = None,
        excluded: ItemLists | None = None,
        allowed: ItemLists | None = None,
    ) -> EagerItems:
        """Constrained search: every item is in the catalog, legal for its row, and there once.

        Args:
            batch: inputs, from :meth:`podx.text.inputs.InputEncoder.collate`.
            excluded: by row, items that may not come out.
            allowed: by row, the only items that may (top-N candidates).

        Raises:
            RequestError: an item number is not in the catalog.
        """
        steps = self._walker.trie.depth + START_AND_END - self._ends_are_known
        options = replace(options or SearchOptions(), max_length=steps, min_length=0)
        constraint = PrefixConstraint(self._walker, self._tokenizer.eos_id, excluded, allowed)
        with torch.inference_mode():
            hidden, mask = self._encode(batch, task, options.num_beams)
            if self._one_pass:
                scoring = SiblingScores(self._walker, constraint, options.num_beams, self._model.config.ceiling)
                sequences, scores = self._search(hidden, mask, options, scoring=scoring, start=batch.last_tokens)
            else:
                with self._scored():
                    sequences, scores = self._search(hidden, mask, options, constraint)
        found = self._constrained_items(sequences, scores, batch.size, options, constraint)
        counted = self._one_pass and not self._ends_are_known
        return self._without_end(found, options.length_penalty) if counted else found

    def _without_end(self, found: EagerItems, penalty: float) -> EagerItems:
        """Scores by length without the end of sequence, which transformers counts."""
        if found.scores is None:
            return found
        lengths = np.maximum(self._lengths[found.items], 1).astype(np.float32)
        scores = found.scores * ((lengths + 1) / lengths) ** np.float32(penalty)
        order = np.argsort(-scores, axis=1, kind="stable")
        items, scores = (np.take_along_axis(array, order, axis=1) for array in (found.items, scores))
        return replace(found, items=items, scores=scores)

    def recommend_unconstrained(self, batch: Batch, task: Task, options: SearchOptions | None = None) -> EagerItems:
        """The paper's protocol: search the whole vocabulary and read what was written; what is no item counts as 0.

        Raises:
            ConfigError: the model is a one-pass model.
        """
        if self._one_pass:
            raise ConfigError("a one-pass model learnt to tell siblings apart: it has no search over all tokens")
        options = options or SearchOptions(early_stopping=False)
        with torch.inference_mode():
            sequences, scores = self._search(*self._encode(batch, task, options.num_beams), options)
        texts = [self._tokenizer.decode(tokens) for tokens in self._tokens(sequences)]
        numbers = np.array([self._item_of_text.get(text.strip(), NO_ITEM) for text in texts], dtype=np.int64)
        items = numbers.reshape(batch.size, options.num_return)
        repeated = sum(len(valid := row[row != NO_ITEM]) - len(np.unique(valid)) for row in items)
        return EagerItems(items, _rows(scores, items.shape), int((items == NO_ITEM).sum()), int(repeated))

    def explain(self, batch: Batch, options: SearchOptions = EXPLANATION_SEARCH) -> EagerTexts:
        """One explanation for each record of task explanation."""
        published = self._mode == "as-published"
        groups = PUBLISHED_GROUPS if published else 1
        with torch.inference_mode():
            hidden, mask = self._encode(batch, Task.EXPLANATION, options.num_beams * groups)
            hidden, mask = hidden.repeat_interleave(groups, 0), mask.repeat_interleave(groups, 0)
            with self._scored():
                sequences, scores = self._search(hidden, mask, replace(options, num_return=1))
        texts = [self._tokenizer.decode(tokens) for tokens in self._tokens(sequences[::groups])]
        return EagerTexts(texts, None if scores is None else _rows(scores[::groups], (batch.size,)))

    def _scored(self) -> AbstractContextManager[None]:
        """Within it, the tokens to score alone are scored."""
        if self._score_tokens is None:
            return nullcontext()
        head = self._model.backbone.lm_head
        return only_tokens(head, self._score_tokens, head.out_features)

    def _encode(self, batch: Batch, task: Task, copies: int) -> tuple[Tensor, Tensor]:
        """Encoder output and mask of each record."""
        device = self._model.prompts.device
        row = self._model.config.task_row(task)
        inputs = model_batch(batch, row).to(device)
        if self._mode == "encode-once":
            return self._model.encode(inputs)
        hidden, mask = self._model.encode(inputs.map(lambda tensor: tensor.repeat_interleave(copies, dim=0)))
        return hidden[::copies], mask[::copies]

    def _search(
        self,
        hidden: Tensor,
        mask: Tensor,
        options: SearchOptions,
        constraint: PrefixConstraint | None = None,
        scoring: SiblingScores | None = None,
        start: npt.NDArray[np.int64] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Sequences [rows * num_return, length] and their scores, best first for each row.

        Args:
            constraint: what may be written. scoring: the same for one-pass models, with the scores of it.
            start: first token of each record, int64 [rows]; None: padding.
        """
        config = GenerationConfig(
            num_beams=options.num_beams,
            num_return_sequences=options.num_return,
            length_penalty=options.length_penalty,
            max_length=options.max_length,
            min_length=options.min_length,
            early_stopping=options.early_stopping,
            do_sample=False,
            decoder_start_token_id=self._tokenizer.pad_id if start is None else start.tolist(),
            pad_token_id=self._tokenizer.pad_id,
            eos_token_id=self._tokenizer.eos_id,
            return_dict_in_generate=True,
            output_scores=options.with_scores,
        )
        backbone: Any = self._model.backbone
        output = backbone.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=hidden),
            attention_mask=mask,
            # the cache transformers would make has a layer for each of the encoder's: too few for a deeper decoder
            past_key_values=EncoderDecoderCache(DynamicCache(), DynamicCache()),
            generation_config=config,
            prefix_allowed_tokens_fn=constraint,
            logits_processor=LogitsProcessorList([] if scoring is None else [scoring]),
        )
        return output.sequences, output.sequences_scores if options.with_scores else None

    def _tokens(self, sequences: Tensor) -> Iterator[tuple[int, ...]]:
        """Tokens of each sequence between the decoder's start and the end of sequence."""
        for row in sequences[:, 1:].tolist():
            yield tuple(row[: row.index(self._tokenizer.eos_id)] if self._tokenizer.eos_id in row else row)

    def _constrained_items(
        self, sequences: Tensor, scores: Tensor | None, rows: int, options: SearchOptions, constraint: PrefixConstraint
    ) -> EagerItems:
        """Read item numbers; what stands for a beam that found nothing is dropped, the rest moves up."""
        shape = (rows, options.num_return)
        numbers = np.array([self._walker.item(tokens) for tokens in self._tokens(sequences)], dtype=np.int64)
        numbers = numbers.reshape(shape)
        found_scores = _rows(scores, shape)
        # a dead beam's score is DEAD_SCORE over some power of a length, far below any sum of log-likelihoods
        floor = DEAD_SCORE / 2 / options.max_length ** max(options.length_penalty, 0.0)
        items = np.full(shape, NO_ITEM, dtype=np.int64)
        kept_scores = np.full(shape, -np.inf, dtype=np.float32)
        for row in range(rows):
            kept: list[int] = []
            for place, item in enumerate(numbers[row].tolist()):
                dead = found_scores is not None and found_scores[row, place] < floor
                if dead or item == NO_ITEM or item in kept or not constraint.is_legal(row, item):
                    continue
                if found_scores is not None:
                    kept_scores[row, len(kept)] = found_scores[row, place]
                kept.append(item)
            items[row, : len(kept)] = kept
        return EagerItems(items, None if scores is None else kept_scores, int((items == NO_ITEM).sum()), 0)


def _rows(scores: Tensor | None, shape: Sequence[int]) -> npt.NDArray[np.float32] | None:
    return None if scores is None else scores.float().cpu().numpy().reshape(tuple(shape))
