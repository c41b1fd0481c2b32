"""The synthetic world has the structure it promises, and no popular items."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest

from podx.errors import ConfigError
from podx_train.data.synth import CLUSTER_SIZE, SynthOptions, interactions_csv, make_world

TOP = 10


def sequences(options: SynthOptions) -> dict[int, list[int]]:
    rows: dict[int, list[int]] = {}
    for row in csv.DictReader(io.StringIO(interactions_csv(options))):
        rows.setdefault(int(row["user"][1:]) - 1, []).append(int(row["item"][1:]) - 1)
    return rows


def test_seed_fixes_the_world() -> None:
    small = SynthOptions(users=60, items=60)
    assert interactions_csv(small) == interactions_csv(SynthOptions(users=60, items=60))
    assert interactions_csv(small) != interactions_csv(SynthOptions(users=60, items=60, seed=1))


def test_structure_can_be_learnt_and_popularity_is_weak() -> None:
    options = SynthOptions()
    world = make_world(options, np.random.default_rng(options.seed))
    rows = sequences(options)
    assert len(rows) == options.users
    assert all(len(set(items)) == len(items) for items in rows.values())
    popularity = np.bincount(np.concatenate([items[:-2] for items in rows.values()]), minlength=options.items)
    assert popularity.min() > 0
    popular, cluster, successor = 0, 0, 0
    for user, (*history, target) in rows.items():
        unseen = [item for item in np.argsort(-popularity, kind="stable").tolist() if item not in history]
        popular += target in unseen[:TOP]
        cluster += world.cluster[target] == world.preferred[user, 0]
        successor += world.successor[history[-1]] == target
    assert popular / len(rows) < 0.13  # chance is 10 of about 112 unseen items
    assert cluster / len(rows) > 0.75
    assert successor / len(rows) > 0.6


def test_each_item_is_reviewed_with_one_feature_only() -> None:
    words: dict[str, set[str]] = {}
    for row in csv.DictReader(io.StringIO(interactions_csv(SynthOptions(users=200, items=100)))):
        words.setdefault(row["item"], set()).add(
            row["review"].split(" the ")[-1].split("The ")[-1].split()[0].strip(",")
        )
    assert all(len(features) == 1 for features in words.values())


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"items": 2 * CLUSTER_SIZE - 1}, "items is"),
        ({"users": 50, "items": 100}, "users is 50 and items 100"),
        ({"seed": -1}, "--seed must be at least 0, not -1"),
    ],
)
def test_options_out_of_range_are_named(fields: dict[str, int], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        SynthOptions(**fields)
