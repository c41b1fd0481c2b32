from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from podx.errors import ConfigError, DataError
from podx.text.inputs import InputEncoder
from podx.text.templates import ALL_TASKS, DEFAULT_TEMPLATES, Task
from podx_train.batches.batching import ROTATION, BatchBuilder, batch_stream, plan_epoch, plan_stream
from podx_train.batches.samplers import Pool, training_pool
from podx_train.model.losses import IGNORED_LABEL


def fake_pool(task: Task, count: int) -> Pool:
    return Pool(task, count, lambda indices, rng: [])


@pytest.fixture
def pools(world, catalog, tokenizer) -> list[Pool]:
    return [training_pool(task, world, catalog, tokenizer, 20, "segment") for task in ALL_TASKS]


@pytest.fixture
def builder(make_model, encoder, pools) -> BatchBuilder:
    return BatchBuilder(make_model().config, encoder, pools, DEFAULT_TEMPLATES)


def test_alternated_rotates_and_passes_the_longest_once() -> None:
    pools = [fake_pool(Task.SEQUENTIAL, 10), fake_pool(Task.TOPN, 10), fake_pool(Task.EXPLANATION, 25)]
    plan = plan_epoch(pools, "alternated", 4, plan_stream(0, 0))
    assert [batch[0][0] for batch in plan] == list(ROTATION) * 7
    taken = {task: Counter() for task in ALL_TASKS}
    for ((task, indices),) in plan:
        taken[task].update(indices.tolist())
    assert taken[Task.EXPLANATION] == Counter(range(25))
    for task in (Task.SEQUENTIAL, Task.TOPN):
        assert taken[task].total() == 25
        assert set(taken[task].values()) == {2, 3}  # cycled: twice, and some a third time
    assert len(plan[-1][0][1]) == 1


def test_mixed_passes_every_record_once() -> None:
    pools = [fake_pool(Task.SEQUENTIAL, 10), fake_pool(Task.EXPLANATION, 25)]
    plan = plan_epoch(pools, "mixed", 8, plan_stream(0, 0))
    assert [sum(len(indices) for _, indices in batch) for batch in plan] == [8, 8, 8, 8, 3]
    taken = Counter((task, index) for batch in plan for task, indices in batch for index in indices.tolist())
    assert taken == Counter({(p.task, i): 1 for p in pools for i in range(p.count)})
    assert any(len(batch) == 2 for batch in plan)


@pytest.mark.parametrize("batching", ["alternated", "mixed"])
def test_plans_differ_by_epoch_and_repeat_by_seed(batching: str) -> None:
    pools = [fake_pool(Task.SEQUENTIAL, 50)]
    orders = [
        [indices.tolist() for batch in plan_epoch(pools, batching, 8, plan_stream(seed, epoch)) for _, indices in batch]
        for seed, epoch in ((0, 0), (0, 0), (0, 1), (1, 0))
    ]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert orders[0] != orders[3]


def test_faulty_plans() -> None:
    with pytest.raises(DataError, match="no training records for task topn"):
        plan_epoch([fake_pool(Task.TOPN, 0)], "mixed", 8, plan_stream(0, 0))
    with pytest.raises(ConfigError, match="alternated or mixed"):
        plan_epoch([fake_pool(Task.TOPN, 3)], "sorted", 8, plan_stream(0, 0))


def test_built_batch(builder, make_model, tokenizer) -> None:
    plan = ((Task.SEQUENTIAL, np.arange(3)), (Task.TOPN, np.arange(2)))
    built = builder.build(plan, batch_stream(0, 0, 0))
    assert built.tasks == (Task.SEQUENTIAL,) * 3 + (Task.TOPN,) * 2
    assert built.batch.task_index.tolist() == [0, 0, 0, 1, 1]
    pads = int((built.batch.attention_mask == 0).sum()) + int((built.labels == IGNORED_LABEL).sum())
    assert (built.pads, built.tokens) == (pads, built.batch.input_ids.numel() + built.labels.numel())
    assert (built.batch.input_ids[built.batch.attention_mask == 0] == tokenizer.pad_id).all()
    lengths = (built.labels != IGNORED_LABEL).sum(dim=1)
    assert all(built.labels[row, n - 1] == tokenizer.eos_id for row, n in enumerate(lengths.tolist()))
    assert torch.isfinite(make_model()(built.batch, built.labels))


def test_templates_are_drawn_per_record_and_bare_in_evaluation(make_model, encoder, pools) -> None:
    plan = ((Task.EXPLANATION, np.zeros(400, dtype=np.int64)),)
    config = make_model().config
    drawn = BatchBuilder(config, encoder, pools, DEFAULT_TEMPLATES).build(plan, batch_stream(0, 0, 0))
    wordings = Counter(tuple(row) for row in drawn.batch.input_ids.tolist())
    assert len(wordings) == len(DEFAULT_TEMPLATES[Task.EXPLANATION])
    assert min(wordings.values()) > 400 / len(wordings) * 0.6
    bare = BatchBuilder(config, encoder, pools).build(plan, batch_stream(0, 0, 0))
    record = pools[2].draw(np.array([0]), batch_stream(0, 0, 0))[0]
    expected = encoder.encode(Task.EXPLANATION, record.user, record.items).input_ids.tolist()
    assert {tuple(row) for row in bare.batch.input_ids.tolist()} == {tuple(expected)}


def test_shares_of_processes_are_disjoint_and_make_up_the_batch(builder) -> None:
    plan = ((Task.TOPN, np.arange(7)),)
    whole = builder.build(plan, batch_stream(3, 1, 4))
    shares = [builder.build(plan, batch_stream(3, 1, 4), rank, 3) for rank in range(3)]
    for rank, share in enumerate(shares):
        width = share.batch.input_ids.shape[1]
        assert torch.equal(share.batch.input_ids, whole.batch.input_ids[rank::3, :width])
    # gradients are averaged over processes, so the weights of all, averaged, are those of the mean over the batch
    assert sum(float(share.weights.sum()) for share in shares) / 3 == pytest.approx(1.0)


def test_a_process_without_rows_counts_nothing(builder) -> None:
    share = builder.build(((Task.TOPN, np.arange(1)),), batch_stream(0, 0, 0), rank=1, world=2)
    assert share.weights.tolist() == [0.0]


def test_building_never_calls_the_tokeniser(make_model, tokenizer, world, pools, monkeypatch) -> None:
    encoder = InputEncoder(tokenizer)
    encoder.warm(world.user_count, world.item_count)
    builder = BatchBuilder(make_model().config, encoder, pools, DEFAULT_TEMPLATES)

    def refuse(*_: object) -> None:
        raise AssertionError("the tokeniser was called while a batch was built")

    monkeypatch.setattr(tokenizer, "encode", refuse)
    monkeypatch.setattr(tokenizer, "encode_many", refuse)
    for plan in plan_epoch(pools, "mixed", 16, plan_stream(0, 0)):
        assert builder.build(plan, batch_stream(0, 0, 0)).tokens > 0


def test_records_of_like_length_share_a_batch() -> None:
    lengths = np.random.default_rng(0).integers(1, 21, size=1000)
    pool = Pool(Task.SEQUENTIAL, len(lengths), lambda indices, rng: [], lengths)
    plan = plan_epoch([pool], "alternated", 16, np.random.default_rng(1))
    batches = [indices for ((_, indices),) in plan]
    assert sorted(np.concatenate(batches).tolist()) == list(range(1000))
    assert [len(batch) for batch in batches] == [16] * 62 + [8]
    spread = [int(np.ptp(lengths[batch])) for batch in batches]
    assert max(spread) <= 4  # of 20; at random nearly every batch spans them all
    means = [float(lengths[batch].mean()) for batch in batches]
    assert means != sorted(means)  # whole batches are shuffled


def test_lengths_change_nothing_in_mixed_batching() -> None:
    pools = [Pool(Task.SEQUENTIAL, 100, lambda indices, rng: [], lengths) for lengths in (None, np.arange(100))]
    plans = [plan_epoch([pool], "mixed", 8, np.random.default_rng(3)) for pool in pools]
    assert all(np.array_equal(a[1], b[1]) for ((a,), (b,)) in zip(*plans, strict=True))
