"""``exact`` never lies: three thousand users of small random models, every item of their catalogs scored one by one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from podx.decoding.items import ItemResults
from podx.decoding.options import MAX_RETRY_BEAMS, ItemSearchOptions
from podx.requests.batch import ItemBatch
from podx_train.checkpoint.checkpoint import load_checkpoint
from tests.export.tiny import (
    PLAIN,
    Small,
    catalog_of,
    item_scores,
    make_small,
    permitted,
    random_items,
    random_model,
    random_text,
    token_sums,
)

WORLDS, USERS, PART = 10, 300, 30
PENALTIES = (0.0, 1.0, -1.0, 2.0, 0.5)
CLOSE = {"rtol": 1e-5, "atol": 1e-4}


@dataclass
class Count:
    """Users by what was said of them and what is true."""

    users: int = 0
    certified: int = 0
    certified_though_narrow: int = 0
    wrong_certificates: int = 0
    missed: int = 0

    def add(self, found: ItemResults, truth: np.ndarray, may: np.ndarray, beams: int) -> None:
        """``truth``: every item's score, -inf where not permitted; ``may``: whether it is."""
        k = found.items.shape[1]
        best = -np.sort(-truth, axis=1)[:, :k]
        rows = np.arange(len(truth))[:, None]
        own = np.where(found.items > 0, truth[rows, found.items], -np.inf)  # what the returned items are worth
        right = np.isclose(found.scores, best, **CLOSE).all(axis=1) & np.isclose(own, best, **CLOSE).all(axis=1)
        assert found.exact is not None
        self.users += len(truth)
        self.certified += int(found.exact.sum())
        self.certified_though_narrow += int((found.exact & (may.sum(axis=1) > max(beams, k))).sum())
        self.wrong_certificates += int((found.exact & ~right).sum())
        self.missed += int((~right).sum())


def _random_small(folder: Path, source: Path, seed: int) -> Small:
    random = np.random.default_rng(seed)
    longest = int(random.integers(1, 6))
    tokens = int(random.integers(3, 13)) if longest > 1 else 30
    items = random_items(random, int(random.integers(8, 29)), longest, tokens)
    model = random_model(load_checkpoint(source), seed, sharpness=float(random.choice([1.0, 4.0, 12.0])))
    return make_small(model, catalog_of(items, unlisted=[2]), folder)


def _requests(random: np.random.Generator, small: Small, k: int, limited: bool) -> ItemBatch:
    everything = np.arange(1, small.items + 1)
    denied, allowed = [PLAIN] * PART, [None] * PART
    if limited:
        denied = [random.choice(everything, size=random.integers(0, 6), replace=False) for _ in range(PART)]
        allowed = [random.choice(everything, size=len(everything) // 2) if row % 2 else None for row in range(PART)]
    return ItemBatch(random_text(random, PART), int(random.integers(3)), denied, allowed, k)


def test_three_thousand_users_and_no_wrong_certificate(untrained: Path, tmp_path: Path) -> None:
    count = Count()
    for seed in range(WORLDS):
        small, random = _random_small(tmp_path / str(seed), untrained, seed), np.random.default_rng(seed)
        for part in range(USERS // PART):
            options = ItemSearchOptions(int(random.integers(1, 9)), PENALTIES[part % len(PENALTIES)])
            batch = _requests(random, small, int(random.integers(1, 6)), limited=part % 2 == 1)
            may = permitted(small, batch.denied, batch.allowed)
            sums = token_sums(small, batch.text, batch.task_id)
            truth = np.where(may, item_scores(small, sums, options.length_penalty), -np.inf)
            count.add(small.search(batch, options), truth, may, options.beams)
    assert count.users == 3_000
    assert count.wrong_certificates == 0
    assert count.certified > count.users / 10
    assert count.certified_though_narrow > 150  # with continuations left out
    assert count.missed > 150  # so a graph that always said yes would be found out


def _widths(small: Small, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Requests and beams of each run of the graph from here on."""
    ran, run = [], small.model.recommend

    def record(batch: ItemBatch, options: ItemSearchOptions) -> ItemResults:
        ran.append((batch.text.size, options.beams))
        return run(batch, options)

    monkeypatch.setattr(small.model, "recommend", record)
    return ran


def test_retrying_certifies_more_and_stays_true(
    untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, random = _random_small(tmp_path / "small", untrained, seed=1), np.random.default_rng(1)
    ran = _widths(small, monkeypatch)
    for penalty in PENALTIES:
        batch = _requests(random, small, k=3, limited=True)
        may = permitted(small, batch.denied, batch.allowed)
        sums = token_sums(small, batch.text, batch.task_id)
        truth = np.where(may, item_scores(small, sums, penalty), -np.inf)
        once, retried = Count(), Count()
        reported = small.search(batch, ItemSearchOptions(2, penalty))
        once.add(reported, truth, may, beams=2)
        ran.clear()
        found = small.search(batch, ItemSearchOptions(2, penalty, exact="retry"))
        retried.add(found, truth, may, beams=2)
        assert retried.certified > once.certified and retried.missed < once.missed
        assert once.wrong_certificates == retried.wrong_certificates == 0
        sure = reported.exact
        np.testing.assert_array_equal(found.items[sure], reported.items[sure])
        rows, widths = zip(*ran, strict=True)
        assert widths[:3] == (2, 6, 12)  # the first is raised to k, and then doubled
        assert rows[:2] == (PART, PART - once.certified) and list(rows) == sorted(rows, reverse=True)


def test_retrying_ends_where_nothing_can_be_certain(
    untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [(first, second, last) for first in range(3, 13) for second in range(3, 13) for last in range(3, 13)]
    model = random_model(load_checkpoint(untrained), seed=0, sharpness=0.0)  # all items are worth the same
    small = make_small(model, catalog_of(items), tmp_path / "small")
    ran = _widths(small, monkeypatch)
    batch = ItemBatch(random_text(np.random.default_rng(0), 2), 0, [PLAIN] * 2, [None] * 2, 4)
    found = small.search(batch, ItemSearchOptions(beams=5, exact="retry"))
    assert found.exact is not None and not found.exact.any()
    assert [beams for _, beams in ran] == [5, 10, 20, 40, 80, 160, 320]
    assert ran[-1] == (2, MAX_RETRY_BEAMS)
