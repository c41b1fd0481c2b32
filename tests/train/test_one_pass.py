"""One pass over a user: the same distributions as one target at a time, and a proper one over the items."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from transformers import T5Config

from podx.bundle.manifest import LIKELY
from podx.bundle.trie import Trie
from podx.errors import CatalogError, ConfigError
from podx.text.templates import Task
from podx_train.model import one_pass
from podx_train.model.ceiling import under_ceiling
from podx_train.model.config import PodConfig, backbone_fields
from podx_train.model.one_pass import SiblingScores, start_copying
from podx_train.model.pod_t5 import ITEM_START, ModelBatch, PodT5
from podx_train.model.wide_softmax import wide_cross_entropy

VOCABULARY = 40
CODES = {  # tokens of each item; the second level shares tokens between parents
    "one token": [[10 + item] for item in range(9)],
    "three": [[10 + a, 20 + b, 25 + item] for item, (a, b) in enumerate(itertools.product(range(3), range(3)))],
    "other lengths": [[10, 20], [10, 21], [11, 20, 30], [11, 20, 31], [12], [13, 21]],
}


def trie_of(codes: list[list[int]]) -> Trie:
    tokens = np.array(list(itertools.chain.from_iterable(codes)), dtype=np.int32)
    return Trie.build(tokens, np.cumsum([0, *map(len, codes)]).astype(np.int64))


def make_model(codes: list[list[int]], seed: int = 0, **fields: object) -> PodT5:
    torch.manual_seed(seed)
    t5 = T5Config(
        vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_decoder_layers=2, num_heads=2,
        dropout_rate=0.0, feed_forward_proj="relu", pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
    )  # fmt: skip
    tasks = (Task.SEQUENTIAL,)
    config = PodConfig(backbone=backbone_fields(t5), tasks=tasks, one_pass=True, item_prefix="", **fields)  # type: ignore[arg-type]
    model = PodT5(config).eval()
    model.backbone.set_attn_implementation("eager")
    model.read_catalog(trie_of(codes))
    return model


def batch_of(
    codes: list[list[int]], histories: list[list[int]], next_items: list[list[int]] | None = None
) -> ModelBatch:
    width = 1 + max(map(len, histories))
    ids, whole, mask, following = (np.zeros((len(histories), width), dtype=np.int64) for _ in range(4))
    for row, history in enumerate(histories):
        ids[row, 1 : 1 + len(history)] = [codes[item - 1][-1] for item in history]
        whole[row, : 1 + len(history)] = np.arange(1 + len(history))
        mask[row, : 1 + len(history)] = 1
        if next_items is not None:
            following[row, : len(next_items[row])] = next_items[row]
    arrays = map(torch.from_numpy, (ids, whole, mask))
    task = torch.zeros(len(histories), dtype=torch.int64)
    return ModelBatch(*arrays, task, None, None if next_items is None else torch.from_numpy(following))


@pytest.mark.parametrize("kind", CODES)
def test_all_positions_at_once_equal_one_target_at_a_time(kind: str) -> None:
    codes = CODES[kind]
    model = make_model(codes)
    history = [1, 4, 2, 6, 3]
    whole = batch_of(codes, [history[:-1], history[1:3]], [history, history[1:4]])
    with torch.no_grad():
        together = model.position_losses(whole)
        alone = []
        for items in (history, history[1:4]):
            losses = [
                model.position_losses(batch_of(codes, [items[:end]], [[0] * end + [items[end]]]))
                for end in range(len(items))
            ]
            alone.append(torch.cat(losses).sum())
    torch.testing.assert_close(together, torch.stack(alone), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", CODES)
def test_probabilities_of_all_items_add_up_to_one(kind: str) -> None:
    codes = CODES[kind]
    model = make_model(codes, seed=1)
    history = [2, 5, 1]
    with torch.no_grad():
        batches = [batch_of(codes, [history], [[0, 0, 0, item]]) for item in range(1, len(codes) + 1)]
        losses = torch.cat([model.position_losses(batch) for batch in batches])
    assert losses.neg().exp().sum().item() == pytest.approx(1.0, abs=1e-5)
    assert losses.std() > 0.01


def test_a_position_does_not_see_what_follows() -> None:
    codes = CODES["three"]
    model = make_model(codes)
    with torch.no_grad():
        one, _ = model.encode(batch_of(codes, [[1, 2, 3, 4]]))
        other, _ = model.encode(batch_of(codes, [[1, 2, 8, 9]]))
    prompts = model.config.prompts
    torch.testing.assert_close(one[:, : prompts + 3], other[:, : prompts + 3])
    assert not torch.allclose(one[:, prompts + 3], other[:, prompts + 3])


@pytest.mark.parametrize("weights", ["equal", "different"])
def test_wide_cross_entropy_has_the_losses_and_gradients_of_the_plain_one(weights: str) -> None:
    torch.manual_seed(3)
    rows, choices = 150, 70
    states, table = (torch.randn(n, 8, requires_grad=True) for n in (rows, choices))
    targets = torch.randint(choices, (rows,))
    weight = torch.full((rows,), 0.5) if weights == "equal" else torch.rand(rows)
    results = []
    for losses in (
        wide_cross_entropy(states, table, targets),
        torch.nn.functional.cross_entropy(states @ table.T, targets, reduction="none"),
    ):
        gradients = torch.autograd.grad((losses * weight).sum(), [states, table])
        results.append([losses.detach(), *gradients])
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-5)


def test_a_wide_catalog_is_scored_as_a_narrow_one(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = CODES["one token"]
    model = make_model(codes)
    batch = batch_of(codes, [[1, 4, 2]], [[1, 4, 2, 6]])
    plain = model.position_losses(batch)
    monkeypatch.setattr(one_pass, "WIDE", 1)
    torch.testing.assert_close(model.position_losses(batch), plain)


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("kind", CODES)
def test_label_smoothing_spreads_over_siblings_alone(kind: str, wide: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_pass, "WIDE", 1 if wide else 2048)
    codes, items = CODES[kind], torch.tensor([1, 4, 6])
    siblings, table = SiblingScores(trie_of(codes)), torch.randn(VOCABULARY, 16)
    states = torch.randn(3, siblings.depth, 16)
    expected = []
    for row, item in enumerate(items.tolist()):
        of_tokens = []
        for level, token in enumerate(tokens := codes[item - 1]):
            choices = sorted({code[level] for code in codes if code[:level] == tokens[:level] and len(code) > level})
            surprise = -(states[row, level] @ table[choices].T).log_softmax(dim=0)
            of_tokens.append(0.7 * surprise[choices.index(token)] + 0.3 * surprise.mean())
        expected.append(torch.stack(of_tokens).sum())
    torch.testing.assert_close(siblings.losses(states, items, table, 0.3), torch.stack(expected))


@pytest.mark.parametrize("least", [0.05, 0.3])
def test_a_ceiling_mixes_what_exceeds_it_with_even_chances(least: float) -> None:
    torch.manual_seed(1)
    logits, counts = 5 * torch.randn(400, 6), torch.randint(1, 7, (400, 1))
    logits = logits.masked_fill(torch.arange(6) >= counts, -torch.inf)
    before = torch.linspace(-9, 0, 400)
    plain, mixed = logits.softmax(dim=1), under_ceiling(logits, before, least).exp()
    most = 1 / counts[:, 0] + (before.exp() / LIKELY).clamp(least, 1) * (1 - 1 / counts[:, 0])
    torch.testing.assert_close(mixed.sum(dim=1), torch.ones(400))
    torch.testing.assert_close(mixed.amax(dim=1), torch.minimum(plain.amax(dim=1), most))
    under = plain.amax(dim=1) < most
    torch.testing.assert_close(mixed[under], plain[under])
    assert 0 < under.sum() < 400
    assert (mixed.gather(1, plain.argsort(dim=1)).diff(dim=1) >= 0).all()  # in the same order


def test_losses_are_of_the_scores_under_the_ceiling() -> None:
    torch.manual_seed(0)
    codes = [[10 + item // 6, 20 + item // 3 % 2, 25 + item] for item in range(12)]
    siblings, plain, table = SiblingScores(trie_of(codes), 0.1), SiblingScores(trie_of(codes)), torch.randn(40, 16)
    items = torch.arange(1, len(codes) + 1)
    states = torch.randn(siblings.depth, 16).expand(len(items), -1, -1)  # of items that begin alike, the same
    likelihood, without = ((-scores.losses(states, items, table)).exp() for scores in (siblings, plain))
    for first in range(0, 12, 3):
        alike, n = slice(first, first + 3), 3
        before = without[alike].sum()
        torch.testing.assert_close(likelihood[alike].sum(), before)
        most = 1 / n + (before / LIKELY).clamp(0.1, 1) * (1 - 1 / n)
        torch.testing.assert_close(likelihood[alike].max(), torch.minimum(without[alike].max(), before * most))


def test_labels_are_smoothed_in_training_alone() -> None:
    codes = CODES["three"]
    model = make_model(codes)
    batch = batch_of(codes, [[1, 4, 2]], [[1, 4, 2, 6]])
    plain = model.position_losses(batch)
    model.label_smoothing = 0.3
    torch.testing.assert_close(model.position_losses(batch), plain)
    assert not torch.allclose(model.train().position_losses(batch), plain)


def test_layers_that_start_by_copying_put_every_state_near_the_last_item() -> None:
    codes = CODES["three"]
    model = make_model(codes)
    model.start_small()
    model.start_items(codes, torch.eye(9, 16))
    start_copying(model.backbone)
    with torch.no_grad():
        states, _, _, _ = model.position_states(batch_of(codes, [[1, 4, 2], [5, 9]], [[0, 0, 0, 8], [0, 0, 6]]))
    items = model.backbone.shared.weight[[of_item[-1] for of_item in codes]]
    likeness = torch.nn.functional.cosine_similarity(states[:, :, None], items, dim=-1)  # [targets, depth, items]
    assert (likeness.argmax(dim=-1) + 1).tolist() == [[2, 2, 2], [9, 9, 9]]


def test_an_item_that_begins_another_is_refused() -> None:
    with pytest.raises(CatalogError, match="begins another"):
        SiblingScores(trie_of([[10], [10, 20]]))


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"tasks": (Task.SEQUENTIAL, Task.TOPN)}, "topn"), ({"item_prefix": "item_"}, "written as codes")],
)
def test_what_one_pass_cannot_be_combined_with(fields: dict[str, object], message: str) -> None:
    given = {"backbone": {}, "tasks": (Task.SEQUENTIAL,), "one_pass": True, "item_prefix": ""} | fields
    with pytest.raises(ConfigError, match=message):
        PodConfig(**given)  # type: ignore[arg-type]


def test_it_learns_nothing_before_it_knows_its_catalog() -> None:
    codes = CODES["three"]
    model = make_model(codes)
    model.siblings = None
    with pytest.raises(ConfigError, match="read_catalog"):
        model.position_losses(batch_of(codes, [[1]], [[2, 3]]))


def test_tokens_start_where_their_items_lie() -> None:
    model = make_model([[10, 20], [10, 21], [11, 20]])
    before = model.backbone.shared.weight.detach().clone()
    places = torch.eye(3, 16)
    places[2] = 0.0  # of the third item nothing is known
    model.start_items([[10, 20], [10, 21], [11, 20]], places)
    moved = (model.backbone.shared.weight - before) / (ITEM_START * 4)
    both = torch.nn.functional.normalize(places[0] + places[1], dim=0)
    torch.testing.assert_close(moved[[10, 20, 21]], torch.stack([both, places[0], places[1]]))
    moved[[10, 20, 21]] = 0.0
    assert not moved.any()
