from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch

from podx.bundle.catalog import Catalog
from podx.errors import ConfigError, RequestError
from podx.text.inputs import Batch, InputEncoder
from podx.text.templates import Task
from podx.text.tokenizer import Tokenizer
from podx_train.batches.samplers import ItemTargets
from podx_train.eager.generation import EXPLANATION_SEARCH, EagerItems, EagerRecommender, SearchOptions
from podx_train.eager.prefixes import PrefixConstraint, TrieWalker
from podx_train.model.losses import IGNORED_LABEL
from podx_train.model.pod_t5 import ModelBatch, PodT5

ROWS = 3


@pytest.fixture
def model(make_model: Callable[..., PodT5]) -> PodT5:
    return make_model()


@pytest.fixture
def batch(world, encoder: InputEncoder) -> Batch:
    return encoder.collate([encoder.encode(Task.SEQUENTIAL, user, world.history(user, "test")) for user in (1, 2, 3)])


def all_scores(model: PodT5, batch: Batch, catalog: Catalog, tokenizer: Tokenizer, keep: np.ndarray | None = None):
    """Mean log-likelihood of every item for every row [rows, items], by teacher forcing."""
    targets = ItemTargets(catalog, tokenizer.eos_id)
    width = max(len(targets[item]) for item in range(1, len(catalog) + 1))
    labels = torch.full((len(catalog), width), IGNORED_LABEL)
    for item in range(1, len(catalog) + 1):
        labels[item - 1, : len(targets[item])] = torch.from_numpy(targets[item])
    scores = []
    for row in range(batch.size):
        arrays = (batch.input_ids, batch.whole_word_ids, batch.attention_mask)
        one = [torch.from_numpy(array[row : row + 1]).repeat(len(catalog), 1) for array in arrays]
        with torch.inference_mode():
            logits = model.logits(ModelBatch(*one, torch.zeros(len(catalog), dtype=torch.int64)), labels)
        if keep is not None:
            outside = torch.ones(logits.shape[-1], dtype=torch.bool)
            outside[keep] = False
            logits = logits.masked_fill(outside, -torch.inf)
        chosen = labels != IGNORED_LABEL
        likelihood = torch.log_softmax(logits, -1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
        scores.append((likelihood.where(chosen, 0).sum(1) / chosen.sum(1)).numpy())
    return np.stack(scores)


def assert_best(found: EagerItems, scores: np.ndarray, k: int) -> None:
    """``found`` holds the k best items, ties and rounding aside."""
    for row in range(len(scores)):
        best = np.sort(scores[row])[::-1][:k]
        assert np.allclose(found.scores[row, :k], best, atol=1e-5)
        assert np.allclose(scores[row, found.items[row, :k] - 1], best, atol=1e-5)


def test_enough_beams_find_what_brute_force_finds(model, batch, catalog, tokenizer) -> None:
    assert catalog.trie.depth > 1
    options = SearchOptions(num_beams=len(catalog), num_return=len(catalog))
    found = EagerRecommender(model, tokenizer, catalog).recommend(batch, Task.SEQUENTIAL, options)
    assert_best(found, all_scores(model, batch, catalog, tokenizer), len(catalog))
    assert all(sorted(row) == list(range(1, len(catalog) + 1)) for row in found.items.tolist())


def test_scores_over_the_tokens_of_the_catalog(model, batch, catalog, tokenizer) -> None:
    tokens = catalog.trie.tokens_in_use()
    recommender = EagerRecommender(model, tokenizer, catalog, score_tokens=tokens)
    found = recommender.recommend(batch, Task.SEQUENTIAL, SearchOptions(num_beams=len(catalog)))
    assert_best(found, all_scores(model, batch, catalog, tokenizer, np.append(tokens, tokenizer.eos_id)), 10)
    assert not model.backbone.lm_head._forward_hooks  # the wrapper is gone afterwards


def test_modes_agree(model, batch, catalog, tokenizer) -> None:
    for options in (SearchOptions(), SearchOptions(num_beams=4, num_return=4, length_penalty=0.0)):
        once, published = (
            EagerRecommender(model, tokenizer, catalog, mode).recommend(batch, Task.SEQUENTIAL, options)
            for mode in ("encode-once", "as-published")
        )
        assert np.array_equal(once.items, published.items)
        assert np.allclose(once.scores, published.scores, atol=1e-5)


def test_as_published_encodes_every_beams_copy(model, batch, catalog, tokenizer, monkeypatch) -> None:
    rows = []
    encode = model.encode

    def counted(*inputs: ModelBatch):
        rows.append(len(inputs[0].input_ids))
        return encode(*inputs)

    monkeypatch.setattr(model, "encode", counted)
    for mode in ("encode-once", "as-published"):
        EagerRecommender(model, tokenizer, catalog, mode).recommend(batch, Task.SEQUENTIAL)
    assert rows == [ROWS, ROWS * 20]


@pytest.mark.parametrize("with_scores", [True, False])
def test_excluded_items_never_come_out(model, batch, catalog, tokenizer, with_scores: bool) -> None:
    recommender = EagerRecommender(model, tokenizer, catalog)
    options = SearchOptions(num_beams=30, num_return=30, with_scores=with_scores)
    free = recommender.recommend(batch, Task.SEQUENTIAL, options)
    excluded = [free.items[0, :25].tolist(), None, []]
    found = recommender.recommend(batch, Task.SEQUENTIAL, options, excluded=excluded)
    assert not set(found.items[0].tolist()) & set(excluded[0])
    assert np.array_equal(found.items[1:], free.items[1:])
    for row in found.items.tolist():
        assert len({item for item in row if item}) == sum(item > 0 for item in row)


@pytest.mark.parametrize("with_scores", [True, False])
def test_only_allowed_items_come_out_and_nothing_fills_up(model, batch, catalog, tokenizer, with_scores: bool) -> None:
    recommender = EagerRecommender(model, tokenizer, catalog)
    allowed = [[1, 12, 125], [7], []]
    options = SearchOptions(with_scores=with_scores)
    found = recommender.recommend(batch, Task.SEQUENTIAL, options, excluded=[[12], None, None], allowed=allowed)
    assert [sorted(item for item in row if item) for row in found.items.tolist()] == [[1, 125], [7], []]
    if with_scores:
        assert (np.isfinite(found.scores) == (found.items > 0)).all()
        scores = all_scores(model, batch, catalog, tokenizer)
        assert np.allclose(found.scores[0, :2], scores[0, found.items[0, :2] - 1], atol=1e-5)
    else:
        assert found.scores is None


def test_batched_equals_single(model, world, encoder, catalog, tokenizer) -> None:
    recommender = EagerRecommender(model, tokenizer, catalog)
    records = [encoder.encode(Task.SEQUENTIAL, 1, [2]), encoder.encode(Task.SEQUENTIAL, 2, list(range(3, 20)))]
    together = recommender.recommend(encoder.collate(records), Task.SEQUENTIAL)
    for row, record in enumerate(records):
        alone = recommender.recommend(encoder.collate([record]), Task.SEQUENTIAL)
        assert np.array_equal(alone.items[0], together.items[row])


def test_prefix_constraint_by_hand(catalog, tokenizer) -> None:
    walker = TrieWalker(catalog.trie)
    targets = [catalog.target(i).tolist() for i in range(1, len(catalog) + 1)]
    item = 1 + next(
        n for n, t in enumerate(targets) if len(t) > 1 and sum(t[:2] == other[:2] for other in targets) == 1
    )
    first, second = catalog.target(item)[:2].tolist()
    rest = [i for i in range(1, len(catalog) + 1) if catalog.target(i)[0] == first and i != item]
    constraint = PrefixConstraint(walker, tokenizer.eos_id, excluded=[[item], rest])
    assert second not in constraint(0, torch.tensor([0, first])).tolist()
    tokens = constraint(1, torch.tensor([0, first])).tolist()
    assert tokens == [second]
    assert constraint(1, torch.tensor([0, first, tokenizer.eos_id, 0])).tolist() == [tokenizer.eos_id]
    ending = constraint(1, torch.tensor([0, *catalog.target(item).tolist()])).tolist()
    assert ending == [tokenizer.eos_id]


def test_items_that_are_not_in_the_catalog(model, batch, catalog, tokenizer) -> None:
    with pytest.raises(RequestError, match=r"1\.\.130"):
        EagerRecommender(model, tokenizer, catalog).recommend(batch, Task.SEQUENTIAL, excluded=[[131], None, None])


def test_unconstrained_reads_items_and_counts_the_rest(model, batch, catalog, tokenizer) -> None:
    recommender = EagerRecommender(model, tokenizer, catalog)
    found = recommender.recommend_unconstrained(batch, Task.SEQUENTIAL)
    assert found.items.shape == found.scores.shape == (ROWS, 10)
    assert found.invalid == int((found.items == 0).sum()) > 0  # random weights hardly ever spell an item
    assert (np.diff(found.scores, axis=1) <= 1e-6).all()


def test_unconstrained_texts(model, batch, catalog, tokenizer, monkeypatch) -> None:
    recommender = EagerRecommender(model, tokenizer, catalog)
    texts = [["12", "131", "x"], ["0", "130", "130"], ["7", "12 3", ""]]
    width = max(len(tokenizer.encode(text)) for row in texts for text in row)
    rows = [[0, *tokenizer.encode(t), 1, *[0] * (width - len(tokenizer.encode(t)))] for row in texts for t in row]
    monkeypatch.setattr(recommender, "_search", lambda *_: (torch.tensor(rows), torch.zeros(9)))
    found = recommender.recommend_unconstrained(batch, Task.SEQUENTIAL, SearchOptions(num_return=3))
    assert found.items.tolist() == [[12, 0, 0], [0, 130, 130], [7, 0, 0]]
    assert (found.invalid, found.duplicates) == (5, 1)


def test_explanations(model, encoder, catalog, tokenizer) -> None:
    inputs = encoder.collate([encoder.encode(Task.EXPLANATION, user, [user]) for user in (1, 2)])
    options = dataclasses.replace(EXPLANATION_SEARCH, max_length=16)
    once, published = (
        EagerRecommender(model, tokenizer, catalog, mode).explain(inputs, options)
        for mode in ("encode-once", "as-published")
    )
    assert len(once.texts) == 2
    assert once.texts == published.texts
    assert np.allclose(once.scores, published.scores, atol=1e-5)


def test_faulty_options(model, catalog, tokenizer) -> None:
    with pytest.raises(ConfigError, match="num_return"):
        SearchOptions(num_beams=4, num_return=5)
    with pytest.raises(ConfigError, match="encode-once or as-published"):
        EagerRecommender(model, tokenizer, catalog, "fast")
