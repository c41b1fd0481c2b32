"""Do the exported graphs answer like the eager model? Measured on real requests, not assumed.

Two questions: how far apart are the log-probabilities, step by step along the same tokens; and are the lists the same.
Two lists count as the same when they differ only where the eager scores are tied within :data:`TIE`, since rounding
may order ties either way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import torch

from podx.bundle import signature as sig
from podx.bundle.bundle import Bundle
from podx.bundle.trie import NO_ITEM
from podx.decoding.items import TokenColumns
from podx.decoding.options import ItemSearchOptions, TextSearchOptions
from podx.decoding.paths import BeamPaths
from podx.decoding.text import TextSearch
from podx.errors import ExportError, ParityError
from podx.graphs.catalog_search import CatalogSearch, SearchGraph
from podx.graphs.model import GraphModel
from podx.graphs.numbers import recommend_by_numbers
from podx.graphs.session import CPU, SessionOptions, resolve_device
from podx.requests.batch import ItemBatch
from podx.text.inputs import Batch
from podx.text.templates import Task
from podx_export.blocks.graph import HALF_TYPES
from podx_export.verify.samples import Sample, draw
from podx_train.checkpoint.checkpoint import Checkpoint
from podx_train.eager.generation import EXPLANATION_SEARCH, EagerRecommender, model_batch

MAX_DIFFERENCE = 1e-3
"""Largest difference of a log-probability that a float32 export may show."""

TIE = 1e-4
"""Scores closer than this may stand in either order."""

TOP = 10
SEARCH_GRAPHS: tuple[SearchGraph, ...] = ("steps", "one")
STEPS = 5
BEAMS = 3

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]
Answer = tuple[int, float]
"""Item number and score."""


@dataclass(frozen=True)
class Parity:
    """What was measured.

    Attributes:
        max_difference: largest difference of a log-probability, natural logarithm.
        requests: compared, all tasks together.
        equal_lists: share of the compared lists that are the same.
    """

    max_difference: float
    requests: int
    equal_lists: float

    def require(self) -> None:
        """Raise unless the graphs may be trusted.

        Raises:
            ParityError: a score is too far off, or a list differs.
        """
        if not self.max_difference <= MAX_DIFFERENCE or self.equal_lists < 1.0:
            raise ParityError(
                f"the graphs do not answer like the eager model: largest difference of a log-probability "
                f"{self.max_difference:.2e} (allowed {MAX_DIFFERENCE:.0e}), equal lists {self.equal_lists:.1%}; "
                f"nothing was written"
            )

    def to_json(self) -> dict[str, float | int]:
        """As it stands in the manifest."""
        return asdict(self)


def session_options(bundle: Bundle) -> SessionOptions:
    """Where a bundle is compared: 16 bits on a GPU where there is one, all else on the CPU."""
    return SessionOptions(resolve_device("auto") if bundle.manifest.precision in HALF_TYPES else CPU)


def measure(checkpoint: Checkpoint, bundle: Bundle, users: int) -> Parity:
    """Compare graphs and eager model on ``users`` users of each task."""
    differences, equal = [], []
    model = GraphModel(bundle, session_options(bundle))  # for all tasks: a graph takes longer to open than to run
    for task in bundle.manifest.answered:
        sample = draw(checkpoint, task, users)
        batch = sample.encode(checkpoint)
        differences.append(largest_difference(checkpoint, bundle, task, batch, model=model))
        if task is Task.EXPLANATION:
            equal += _same_texts(checkpoint, bundle, model, sample, batch)
        else:
            equal += _same_lists(checkpoint, bundle, model, sample, batch)
    return Parity(max(differences), len(equal), float(np.mean(equal)))


@torch.no_grad()
def largest_difference(
    checkpoint: Checkpoint, bundle: Bundle, task: Task, batch: Batch, seed: int = 0, model: GraphModel | None = None
) -> float:
    """Largest difference of a log-probability between eager and graphs, fed the same random tokens on several beams.

    ``model``: the bundle's graphs, where they are open already.
    """
    model = model or GraphModel(bundle, session_options(bundle))
    random = np.random.default_rng(seed)
    tokens = random.integers(2, checkpoint.tokenizer.vocab_size, size=(batch.size, BEAMS, STEPS))
    by_last = bundle.manifest.one_pass and task is not Task.EXPLANATION
    tokens[:, :, 0] = batch.last_tokens[:, None] if by_last else bundle.manifest.start_token
    eager = eager_log_probs(checkpoint, task, batch, tokens)
    graphs = _graph_log_probs(bundle, model, task, batch, tokens)
    return float(np.abs(eager - graphs).max())


@torch.no_grad()
def eager_log_probs(checkpoint: Checkpoint, task: Task, batch: Batch, tokens: IntArray) -> FloatArray:
    """Log-probabilities after each of some tokens, [batch, beams, steps, vocabulary], by the model itself at once.

    ``tokens``: int64 [batch, beams, steps], the decoder's start among them.
    """
    beams, steps = tokens.shape[1:]
    hidden, mask = checkpoint.model.encode(model_batch(batch, checkpoint.config.task_row(task)))
    logits = checkpoint.model.backbone(
        encoder_outputs=(hidden.repeat_interleave(beams, 0),),
        attention_mask=mask.repeat_interleave(beams, 0),
        decoder_input_ids=torch.as_tensor(tokens.reshape(-1, steps)),
    ).logits
    scores: FloatArray = torch.log_softmax(logits, dim=-1).numpy().reshape(batch.size, beams, steps, -1)
    return scores


def _graph_log_probs(bundle: Bundle, model: GraphModel, task: Task, batch: Batch, tokens: IntArray) -> FloatArray:
    """The same by the graphs, step by step with the cache: one beam first, then all."""
    stepper = model.stepper(model.encode(batch, bundle.manifest.task_id(task)), batch.size, None)
    paths = BeamPaths(batch.size)
    first = stepper.step(tokens[:, :1, 0], paths.advance())
    steps = [np.repeat(first, BEAMS, axis=1)]
    paths.follow(np.zeros((batch.size, BEAMS), dtype=np.int64))
    for step in range(1, STEPS):
        steps.append(stepper.step(tokens[:, :, step], paths.advance()))
    return np.stack(steps, axis=2)


def _same_lists(checkpoint: Checkpoint, bundle: Bundle, model: GraphModel, sample: Sample, batch: Batch) -> list[bool]:
    """Constrained search by every graph that searches and by the eager model, scored as the bundle does."""
    catalog, one_pass = bundle.catalog, bundle.manifest.one_pass
    over = TokenColumns.of_catalog(catalog.trie, checkpoint.tokenizer.eos_id).output_tokens
    score_tokens = None if one_pass else over
    eager = EagerRecommender(checkpoint.model, checkpoint.tokenizer, catalog, score_tokens=score_tokens)
    theirs = eager.recommend(batch, sample.task, excluded=sample.denied, allowed=sample.allowed)
    if theirs.scores is None:
        raise ExportError("the eager search gave no scores to compare")
    expected = [_answers(items, scores) for items, scores in zip(theirs.items, theirs.scores, strict=True)]
    lengths = np.diff(catalog.offsets)
    alike = as_good_list if one_pass and (lengths != lengths[0]).any() else same_list
    requests = ItemBatch(batch, bundle.manifest.task_id(sample.task), sample.denied, sample.allowed, TOP)
    found = [CatalogSearch(bundle, model, way).chosen(ItemSearchOptions())(requests) for way in SEARCH_GRAPHS]
    numbers = model.session(sig.NUMBERS_FILE)
    found.append(recommend_by_numbers(numbers, sample.numbers(one_pass), TOP, ItemSearchOptions()))
    equal = []
    for ours in found:
        answered = [_answers(items, scores) for items, scores in zip(ours.items, ours.scores, strict=True)]
        equal.append([alike(*pair) for pair in zip(answered, expected, strict=True)])
    return [all(pair) for pair in zip(*equal, strict=True)]


def _same_texts(checkpoint: Checkpoint, bundle: Bundle, model: GraphModel, sample: Sample, batch: Batch) -> list[bool]:
    """The likeliest explanation by both, by every graph. Texts may differ only where their scores are tied."""
    start, eos = bundle.manifest.start_token, checkpoint.tokenizer.eos_id
    memory = model.encode(batch, bundle.manifest.task_id(sample.task))
    by_graph = {model.text_graph(only): only for only in (False, True)}  # one where explanations have none of their own
    equal = []
    for graph, only in by_graph.items():
        stepper = model.text_stepper(memory, batch.size, only)
        ours = TextSearch(stepper, batch.size, TextSearchOptions(), start, eos).run()
        tokens = checkpoint.explanation_tokens if graph == sig.EXPLANATION_DECODER_FILE else None
        eager = EagerRecommender(checkpoint.model, checkpoint.tokenizer, bundle.catalog, score_tokens=tokens)
        theirs = eager.explain(batch, EXPLANATION_SEARCH)
        if theirs.scores is None:
            raise ExportError("the eager search gave no scores to compare")
        equal.append([abs(texts[0].score - score) <= TIE for texts, score in zip(ours, theirs.scores, strict=True)])
    return [all(user) for user in zip(*equal, strict=True)]


def _answers(items: IntArray, scores: FloatArray) -> list[Answer]:
    return [(int(item), float(score)) for item, score in zip(items, scores, strict=True) if item != NO_ITEM]


def same_list(ours: Sequence[Answer], eager: Sequence[Answer]) -> bool:
    """Whether two ranked lists of (item, score) agree: same scores, and same items where scores are no ties."""
    if len(ours) != len(eager):
        return False
    return all(
        abs(our_score - score) <= TIE and (our_item == item or _tied(place, eager))
        for place, ((our_item, our_score), (item, score)) in enumerate(zip(ours, eager, strict=True))
    )


def as_good_list(ours: Sequence[Answer], eager: Sequence[Answer]) -> bool:
    """Whether a list is at least as good, and gives shared items the same scores.

    For one-pass models over items of several lengths: transformers drops an ending, whose score is known, where as many
    unfinished beams score higher at that moment, and podx does not.
    """
    scores = dict(ours)
    return len(ours) == len(eager) and all(
        score <= our_score + TIE and abs(scores.get(item, score) - score) <= TIE
        for (_, our_score), (item, score) in zip(ours, eager, strict=True)
    )


def _tied(place: int, answers: Sequence[Answer]) -> bool:
    """Whether a neighbour's score is as good. What follows the last place is not known, so it counts as tied."""
    score = answers[place][1]
    neighbours = [answers[other][1] for other in (place - 1, place + 1) if 0 <= other < len(answers)]
    return place == len(answers) - 1 or any(abs(score - other) <= TIE for other in neighbours)
