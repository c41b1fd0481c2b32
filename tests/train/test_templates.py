"""Which words stand around the ids: P5 in training, and other words at inference."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from podx.errors import CheckpointError, ConfigError
from podx.text.templates import ALL_TASKS, DEFAULT_TEMPLATES, Task, Template, bare_template
from podx_train.batches.batching import batch_stream
from podx_train.batches.templates import (
    inference_templates,
    kind_of_inference,
    templates_as_json,
    trained_templates,
    training_templates,
    with_inference,
)
from podx_train.checkpoint.checkpoint import TRAINING_FILE, load_checkpoint
from podx_train.data.dataset import Dataset
from podx_train.model.config import PodConfig
from podx_train.options import Source, TrainOptions, method_options
from podx_train.training.start import make_parts, new_model
from podx_train.training.train import train_model

OWN = {
    **DEFAULT_TEMPLATES,
    Task.TOPN: (bare_template(Task.TOPN), Template.parse(Task.TOPN, "take {user} through {candidates} now")),
}


@pytest.fixture
def p5() -> TrainOptions:
    return TrainOptions(epochs=1, batch_size=32, device="cpu", **method_options("p5"))


def test_bare_inference_has_no_words() -> None:
    assert inference_templates("bare", DEFAULT_TEMPLATES, ALL_TASKS) == {}


def test_discrete_inference_takes_the_first_template_with_words() -> None:
    chosen = inference_templates("discrete", OWN, (Task.SEQUENTIAL, Task.TOPN))
    assert chosen == {
        Task.SEQUENTIAL: "so far {user} took {history} and now turns to",
        Task.TOPN: "take {user} through {candidates} now",
    }


def test_what_cannot_be_meant_is_refused() -> None:
    with pytest.raises(ConfigError, match="choose among bare, discrete"):
        inference_templates("loud", OWN, ALL_TASKS)
    only_bare = {**OWN, Task.TOPN: OWN[Task.TOPN][:1]}
    with pytest.raises(ConfigError, match="topn has no template with words"):
        inference_templates("discrete", only_bare, ALL_TASKS)


def test_training_leaves_the_bare_form_to_bare_inference(make_model) -> None:
    plain = make_model().config
    assert training_templates(plain, OWN) == OWN
    kept = inference_templates("discrete", OWN, ALL_TASKS)
    worded = training_templates(dataclasses.replace(plain, inference_templates=kept), OWN)
    for task in ALL_TASKS:
        assert worded[task] == OWN[task][1:]


def test_p5_reads_words_and_mixes_tasks(world: Dataset, tokenizer, p5: TrainOptions) -> None:
    model = new_model(Source(), p5, ALL_TASKS, tokenizer, world)
    config = PodConfig.from_json(model.config.to_json())
    assert (config.prompts, kind_of_inference(config), p5.batching) == (0, "discrete", "mixed")
    parts = make_parts(config, p5, world, tokenizer, DEFAULT_TEMPLATES)
    words = {task: {tokenizer.encode(w) for t in DEFAULT_TEMPLATES[task][1:] for w in t.words} for task in ALL_TASKS}
    for builder, pools in (
        (parts.training_builder, parts.training_pools),
        (parts.held_out_builder, parts.held_out_pools),
    ):
        plan = tuple((pool.task, np.arange(4)) for pool in pools)
        built = builder.build(plan, batch_stream(0, 0, 0))
        ids, whole = built.batch.input_ids.numpy(), built.batch.whole_word_ids.numpy()
        mask = built.batch.attention_mask.numpy().astype(bool)
        for row, task in enumerate(built.tasks):
            literal = ids[row][mask[row] & (whole[row] == 0)]
            assert len(literal) > 1  # beside the end of sequence there are words, in training and in validation
            assert set(literal[:-1].tolist()) <= {token for word in words[task] for token in word}
    first = inference_templates("discrete", DEFAULT_TEMPLATES, ALL_TASKS)
    assert config.inference_templates == first


def test_p5_trains_resumes_and_loads(world: Dataset, p5: TrainOptions, tmp_path: Path) -> None:
    folder = tmp_path / "p5"
    train_model(world, folder, p5)
    train_model(world, folder, dataclasses.replace(p5, epochs=2), resume=True)
    loaded = load_checkpoint(folder)
    assert loaded.model.prompts.shape == (3, 0, 64)
    assert [sorted(entry["train_loss"]) for entry in loaded.training["curve"]] == [["mixed"], ["mixed"]]
    record = loaded.encoder().encode(Task.TOPN, 1, [3, 5])
    worded = DEFAULT_TEMPLATES[Task.TOPN][1]
    np.testing.assert_array_equal(record.input_ids, loaded.encoder().encode(Task.TOPN, 1, [3, 5], worded).input_ids)


def test_a_checkpoint_is_read_with_the_words_it_was_trained_with(
    world: Dataset, quick: TrainOptions, tmp_path: Path
) -> None:
    train_model(world, tmp_path / "pod", dataclasses.replace(quick, epochs=0), templates=OWN)
    pod = load_checkpoint(tmp_path / "pod")
    assert trained_templates(pod.training) == OWN
    assert with_inference(pod, None) is pod
    assert with_inference(pod, "bare") is pod
    worded = with_inference(pod, "discrete")
    assert worded.config.inference_templates[Task.TOPN] == "take {user} through {candidates} now"
    assert worded.model is pod.model
    assert len(worded.encoder().encode(Task.TOPN, 1, [2])) > len(pod.encoder().encode(Task.TOPN, 1, [2]))
    assert with_inference(worded, "bare").config == pod.config
    with pytest.raises(ConfigError, match="choose among bare, discrete"):
        with_inference(pod, "loud")


def test_templates_of_a_checkpoint_may_be_missing_but_not_damaged() -> None:
    assert trained_templates({}) == DEFAULT_TEMPLATES
    stored = json.loads(json.dumps(templates_as_json(OWN)))
    assert trained_templates({"templates": stored}) == OWN
    for damaged in (["topn"], {"cooking": []}, {"topn": ["no placeholder"]}, {"topn": 3}):
        with pytest.raises(CheckpointError, match=TRAINING_FILE):
            trained_templates({"templates": damaged})
