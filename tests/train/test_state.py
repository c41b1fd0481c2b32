from __future__ import annotations

import json
import time

import pytest

from podx.errors import CheckpointError
from podx_train.options import TrainOptions
from podx_train.training.clock import FORWARD_SHARE, MOST_FOR_VALIDATION, SETTLED_UPDATES, TELL_SECONDS, Clock, Signal
from podx_train.training.state import Totals, TrainState, dropout_seed, learning_rate


@pytest.mark.parametrize(("cumulative", "counts"), [(False, [0, 1, 0, 1, 2]), (True, [0, 1, 1, 2, 3])])
def test_patience_in_a_row_or_in_all(cumulative: bool, counts: list[int]) -> None:
    state = TrainState()
    seen = []
    for criterion in (5.0, 6.0, 4.0, 4.0, 4.5):
        state.judge(criterion, cumulative)
        seen.append(state.bad_epochs)
    assert seen == counts


def test_state_survives_json() -> None:
    state = TrainState(epoch=3, best_loss=0.1 + 0.2, curve=[{"epoch": 1}])
    assert TrainState.from_json(json.loads(json.dumps(state.as_json()))) == state
    with pytest.raises(CheckpointError, match="trainer state"):
        TrainState.from_json({"epoch": 1})


def test_dropout_seeds_differ() -> None:
    seeds = {dropout_seed(s, e, b, r) for s in range(3) for e in range(5) for b in range(20) for r in range(2)}
    assert len(seeds) == 600


def test_learning_rates() -> None:
    assert [learning_rate(1.0, u, 4, None) for u in (0, 1, 3, 4, 99)] == [0.25, 0.5, 1.0, 1.0, 1.0]
    cosine = [learning_rate(1.0, u, 0, 10) for u in range(11)]
    assert cosine[0] == 1.0
    assert cosine[5] == pytest.approx(0.5)
    assert cosine[10] == pytest.approx(0.0, abs=1e-12)
    assert cosine == sorted(cosine, reverse=True)


def test_means_since() -> None:
    totals = Totals(loss={"a": 6.0, "b": 4.0}, batches={"a": 3, "b": 2})
    before = totals.copy()
    totals.loss["a"] += 1.0
    totals.batches["a"] += 2
    assert totals.means() == {"a": 7 / 5, "b": 2.0}
    assert totals.means(before) == {"a": 0.5}  # none of b came since


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, as its only entry."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_signals_in_order_of_weight(at: list[float]) -> None:
    clock = Clock(TrainOptions(max_minutes=10.0, save_minutes=2.0), held_out_batches=0)
    some = Totals(loss={"a": 1.0}, batches={"a": 1}, seconds=1.0)
    assert clock.signal(some) is Signal.GO_ON
    at[0] += TELL_SECONDS + 1
    assert clock.signal(Totals()) is Signal.GO_ON  # an epoch that has not begun has nothing to tell
    assert clock.signal(some) is Signal.TELL
    clock.told()
    assert clock.signal(some) is Signal.GO_ON
    at[0] += TELL_SECONDS + 1
    assert clock.signal(some) is Signal.SAVE
    clock.saved()
    assert clock.signal(some) is Signal.TELL
    at[0] = 1000.0 + 600.0
    assert clock.signal(some) is Signal.STOP


def test_time_is_set_aside_for_validation(at: list[float]) -> None:
    clock = Clock(TrainOptions(max_minutes=10.0, save_minutes=60.0), held_out_batches=50)
    few = Totals(batches={"a": SETTLED_UPDATES - 1}, seconds=500.0)
    assert clock.validation_ahead(few) == 0.0  # the first updates foretell nothing
    many = Totals(batches={"a": SETTLED_UPDATES}, seconds=2.0 * SETTLED_UPDATES)
    assert clock.validation_ahead(many) == pytest.approx(FORWARD_SHARE * 50 * 2.0)
    clock.validated(120.0)
    assert clock.validation_ahead(few) == 120.0
    at[0] = 1000.0 + 479.0
    assert clock.signal(few) is not Signal.STOP
    at[0] = 1000.0 + 480.0
    assert clock.signal(few) is Signal.STOP


def test_a_validation_longer_than_the_time_leaves_half_of_it_to_training(at: list[float]) -> None:
    clock = Clock(TrainOptions(max_minutes=1.0), held_out_batches=50)
    clock.validated(1e6)
    assert clock.signal(Totals()) is Signal.GO_ON
    at[0] += 60.0 * MOST_FOR_VALIDATION
    assert clock.signal(Totals()) is Signal.STOP
