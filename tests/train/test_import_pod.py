"""A model of the published layout becomes a checkpoint that answers like it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from torch import nn
from transformers import T5Config
from typer.testing import CliRunner

from podx.errors import CheckpointError, ConfigError, DataError, TokenizerError
from podx.text.inputs import Batch, InputEncoder
from podx.text.templates import ALL_TASKS, Task
from podx.text.tokenizer import Tokenizer
from podx_train.checkpoint.checkpoint import Checkpoint, load_checkpoint
from podx_train.cli.import_pod import import_pod as command
from podx_train.data.dataset import Dataset
from podx_train.model.config import backbone_fields
from podx_train.model.losses import IGNORED_LABEL
from podx_train.model.pod_t5 import ModelBatch
from podx_train.published.fit import Fit, measure_fit
from podx_train.published.import_pod import DIFFERENCES, import_pod, summary
from tests.train.saved_pod import Solomon, as_transformers_4, save_whole, solomon

ITEMS = {Task.SEQUENTIAL: [5, 6, 130], Task.TOPN: list(range(1, 40)), Task.EXPLANATION: [2]}


@pytest.fixture
def data(world: Dataset, tmp_path: Path) -> Path:
    world.save(tmp_path / "data")
    return tmp_path / "data"


def inputs_of(encoder: InputEncoder, task: Task, users: list[int]) -> Batch:
    return encoder.collate([encoder.encode(task, user, ITEMS[task]) for user in users])


def require_equal_logits(theirs: Solomon, ours: Checkpoint) -> None:
    """Both models' logits on a record of each task; one record at a time, so that there is no padding."""
    targets = torch.tensor([[7, 9, 12, 1]])
    for task in ALL_TASKS:
        batch = inputs_of(ours.encoder(), task, [3])
        arrays = [torch.from_numpy(a) for a in (batch.input_ids, batch.whole_word_ids, batch.attention_mask)]
        rows = torch.tensor([ours.config.task_row(task)])
        with torch.no_grad():
            expected = theirs.next_token_logits(task.value, *arrays, targets)
            found = ours.model.logits(ModelBatch(*arrays, rows), targets)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert expected.std() > 0.1


def test_the_imported_model_answers_alike(t5_config, tokenizer: Tokenizer, data: Path, tmp_path: Path) -> None:
    theirs = solomon(t5_config, per_task=2, rows=64)
    imported = import_pod(save_whole(theirs, tmp_path / "model.pt"), data, tmp_path / "out", tokenizer.path)
    ours = load_checkpoint(tmp_path / "out")
    require_equal_logits(theirs, ours)
    config = ours.config
    assert (config.prompts, config.whole_word_rows, config.max_history, config.tasks) == (2, 64, 20, ALL_TASKS)
    assert (config.scheme, config.tied_output, config.whole_word_on_prompt) == ("paper", True, False)
    assert ours.training["imported"]["class"] == "module.Solomon"
    assert len(ours.training["imported"]["sha256"]) == 64
    assert imported.notes[: len(DIFFERENCES)] == DIFFERENCES
    assert ours.item_ids[4] == "item-4"
    assert ours.tokenizer.path.read_bytes() == tokenizer.path.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "model.pt", "out"]  # nothing temporary is left


def test_padding_is_the_known_difference(t5_config, tokenizer: Tokenizer, data: Path, tmp_path: Path) -> None:
    theirs = solomon(t5_config)
    import_pod(save_whole(theirs, tmp_path / "model.pt"), data, tmp_path / "out", tokenizer.path)
    ours = load_checkpoint(tmp_path / "out")
    encoder = ours.encoder()
    records = [encoder.encode(Task.SEQUENTIAL, 3, [5]), encoder.encode(Task.SEQUENTIAL, 4, list(range(1, 15)))]
    targets = torch.tensor([[7, 9, 1], [7, 9, 1]])
    batch = encoder.collate(records)
    arrays = [torch.from_numpy(a) for a in (batch.input_ids, batch.whole_word_ids, batch.attention_mask)]
    with torch.no_grad():
        expected = theirs.next_token_logits("sequential", *arrays, targets)
        found = ours.model.logits(ModelBatch(*arrays, torch.zeros(2, dtype=torch.int64)), targets)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-5, atol=1e-5)  # the longest has no padding
    assert not torch.allclose(found[0], expected[0], atol=1e-3)


def test_a_configuration_of_transformers_4(t5_config, tokenizer: Tokenizer, data: Path, tmp_path: Path) -> None:
    path = save_whole(as_transformers_4(solomon(t5_config)), tmp_path / "model.pt")
    import_pod(path, data, tmp_path / "out", tokenizer.path)
    ours = load_checkpoint(tmp_path / "out")
    assert ours.config.backbone["relative_attention_max_distance"] == 128
    assert ours.config.backbone["scale_decoder_outputs"] is True
    require_equal_logits(solomon(t5_config), ours)  # the same weights by the same seed


def test_an_output_layer_of_its_own(t5_config, tokenizer: Tokenizer, data: Path, tmp_path: Path) -> None:
    shape = backbone_fields(t5_config) | {"feed_forward_proj": "gated-gelu", "scale_decoder_outputs": False}
    theirs = solomon(T5Config(**shape, tie_word_embeddings=False))
    theirs.lm_head.weight = nn.Parameter(torch.randn_like(theirs.shared.weight))
    import_pod(save_whole(theirs, tmp_path / "model.pt"), data, tmp_path / "out", tokenizer.path)
    ours = load_checkpoint(tmp_path / "out")
    assert not ours.config.tied_output
    assert ours.config.backbone["scale_decoder_outputs"] is False
    require_equal_logits(theirs, ours)


def test_equal_copies_are_one_weight(t5_config, tokenizer: Tokenizer, data: Path, tmp_path: Path) -> None:
    theirs = solomon(t5_config)
    theirs.lm_head.weight = nn.Parameter(theirs.shared.weight.detach().clone())
    theirs.decoder.embed_tokens.weight = nn.Parameter(theirs.shared.weight.detach().clone())
    import_pod(save_whole(theirs, tmp_path / "model.pt"), data, tmp_path / "out", tokenizer.path)
    assert load_checkpoint(tmp_path / "out").config.tied_output
    require_equal_logits(theirs, load_checkpoint(tmp_path / "out"))


def test_tasks_behind_the_three_are_left_out(t5_config, tokenizer: Tokenizer, data: Path, tmp_path: Path) -> None:
    theirs = solomon(t5_config, tasks=5, per_task=3)
    imported = import_pod(save_whole(theirs, tmp_path / "model.pt"), data, tmp_path / "out", tokenizer.path)
    assert "2 more tasks" in imported.notes[len(DIFFERENCES)]
    require_equal_logits(theirs, load_checkpoint(tmp_path / "out"))


def test_foreign_folders_have_the_paper_scheme(world, t5_config, tokenizer, tmp_path: Path) -> None:
    dataclasses.replace(world, scheme="unknown").save(tmp_path / "data")
    (tmp_path / "data" / "dataset.json").unlink()
    path = save_whole(solomon(t5_config), tmp_path / "model.pt")
    import_pod(path, tmp_path / "data", tmp_path / "out", tokenizer.path, max_history=7)
    assert load_checkpoint(tmp_path / "out").config.max_history == 7
    assert Dataset.load(tmp_path / "out" / "dataset").scheme == "paper"


@pytest.mark.parametrize("scheme", ["shuffled", "train-first"])
def test_other_numbers_are_refused(scheme: str, world, t5_config, tokenizer, tmp_path: Path) -> None:
    dataclasses.replace(world, scheme=scheme).save(tmp_path / "data")
    path = save_whole(solomon(t5_config), tmp_path / "model.pt")
    with pytest.raises(ConfigError, match=f"numbered '{scheme}'"):
        import_pod(path, tmp_path / "data", tmp_path / "out", tokenizer.path)
    assert not (tmp_path / "out").exists()


def spoil_parameter(model: Solomon) -> None:
    model.extra = nn.Linear(2, 2)


def spoil_prompts(model: Solomon) -> None:
    del model.prompt_embeddings


def spoil_table(model: Solomon) -> None:
    model.whole_word_embeddings.weight = nn.Parameter(torch.tensor(1.0))


def spoil_count(model: Solomon) -> None:
    model.prompts_per_task = 4


def spoil_shape(model: Solomon) -> None:
    model.config.d_ff = 40


def spoil_size(model: Solomon) -> None:
    model.config.d_ff = 1 << 50


def spoil_layers(model: Solomon) -> None:
    model.config.num_layers = 1 << 40


def spoil_type(model: Solomon) -> None:
    model.config.__dict__["d_model"] = "wide"


def spoil_embedding(model: Solomon) -> None:
    model.decoder.embed_tokens.weight = nn.Parameter(torch.randn_like(model.shared.weight))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_parameter, "extra"),
        (spoil_prompts, "without prompt_embeddings"),
        (spoil_table, "without whole_word_embeddings"),
        (spoil_count, "do not make the three tasks"),
        (spoil_shape, "DenseReluDense"),
        (spoil_size, "DenseReluDense|describes no T5"),
        (spoil_layers, "more layers than weights"),
        (spoil_type, "describes no T5"),
        (spoil_embedding, r"decoder\.embed_tokens"),
    ],
)
def test_models_of_another_kind(spoil, message: str, t5_config, tokenizer, data: Path, tmp_path: Path) -> None:
    model = solomon(T5Config(**backbone_fields(t5_config)))
    spoil(model)
    path = save_whole(model, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=message):
        import_pod(path, data, tmp_path / "out", tokenizer.path)
    assert not (tmp_path / "out").exists()


def test_other_inputs_that_do_not_fit(t5_config, tokenizer, data: Path, tmp_path: Path) -> None:
    path = save_whole(solomon(t5_config), tmp_path / "model.pt")
    small = save_whole(solomon(T5Config(**backbone_fields(t5_config) | {"vocab_size": 50})), tmp_path / "small.pt")
    with pytest.raises(ConfigError, match="rows for them"):
        import_pod(small, data, tmp_path / "out", tokenizer.path)
    odd = save_whole(solomon(T5Config(**backbone_fields(t5_config) | {"eos_token_id": 5})), tmp_path / "odd.pt")
    with pytest.raises(ConfigError, match="eos_token_id 5"):
        import_pod(odd, data, tmp_path / "out", tokenizer.path)
    with pytest.raises(TokenizerError, match="no sentencepiece model"):
        import_pod(path, data, tmp_path / "out", tmp_path / "none")
    with pytest.raises(DataError, match="missing"):
        import_pod(path, tmp_path / "none", tmp_path / "out", tokenizer.path)
    with pytest.raises(DataError, match="not empty"):
        import_pod(path, data, data, tokenizer.path)
    plain = tmp_path / "plain.pt"
    torch.save(nn.Linear(2, 2), plain)
    with pytest.raises(CheckpointError, match="no POD model"):
        import_pod(plain, data, tmp_path / "out", tokenizer.path)


def test_fit_is_the_models_own_loss(make_model, tokenizer: Tokenizer, world: Dataset, catalog) -> None:
    model = make_model()
    encoder = InputEncoder(tokenizer)
    fit = measure_fit(model, tokenizer, world)
    assert fit.users == world.user_count
    losses = []
    for user in range(1, world.user_count + 1):
        items = world.train_items(user)
        batch = encoder.collate([encoder.encode(Task.SEQUENTIAL, user, items[:-1])])
        arrays = [torch.from_numpy(a) for a in (batch.input_ids, batch.whole_word_ids, batch.attention_mask)]
        labels = torch.tensor([[*catalog.target(int(items[-1])), tokenizer.eos_id]])
        with torch.no_grad():
            losses.append(model.sample_losses(ModelBatch(*arrays, torch.tensor([0])), labels).item())
    assert fit.loss == pytest.approx(np.mean(losses), rel=1e-5)
    assert fit.other_loss != pytest.approx(fit.loss, rel=1e-6)


def test_a_model_that_knows_its_data_is_told_from_one_that_does_not(
    make_model, tokenizer: Tokenizer, world: Dataset, catalog
) -> None:
    model = make_model(seed=2)
    encoder = InputEncoder(tokenizer)
    users = range(1, world.user_count + 1)
    batch = encoder.collate([encoder.encode(Task.SEQUENTIAL, u, world.train_items(u)[:-1]) for u in users])
    arrays = [torch.from_numpy(a) for a in (batch.input_ids, batch.whole_word_ids, batch.attention_mask)]
    inputs = ModelBatch(*arrays, torch.zeros(len(users), dtype=torch.int64))
    targets = [torch.tensor([*catalog.target(int(world.train_items(u)[-1])), tokenizer.eos_id]) for u in users]
    labels = nn.utils.rnn.pad_sequence(targets, batch_first=True, padding_value=IGNORED_LABEL)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    for _ in range(40):
        optimizer.zero_grad()
        model(inputs, labels).backward()
        optimizer.step()
    fit = measure_fit(model, tokenizer, world)
    assert fit.knows
    assert fit.loss < fit.other_loss - 0.5
    mirrored = dataclasses.replace(world, items=np.ascontiguousarray(131 - world.items))  # the items numbered otherwise
    assert measure_fit(model, tokenizer, mirrored).loss > fit.loss + 0.5


def test_short_histories_are_not_judged(make_model, tokenizer: Tokenizer) -> None:
    short = Dataset(np.array([1, 2, 3], dtype=np.int32), np.array([0, 3], dtype=np.int32), ["u"], ["a", "b", "c"])
    assert measure_fit(make_model(), tokenizer, short).users == 0


def run(*arguments: object):
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_command(t5_config, tokenizer: Tokenizer, data: Path, tmp_path: Path) -> None:
    path = save_whole(solomon(t5_config), tmp_path / "model.pt")
    result = run(path, "--data", data, "--out", tmp_path / "out", "--tokenizer", tokenizer.path)
    assert result.exit_code == 0, result.output
    assert "48 users, 130 items" in result.output
    assert result.output.count("note: ") >= len(DIFFERENCES)
    facts = json.loads((tmp_path / "out" / "training.json").read_text())
    assert facts["fit"]["users"] == 48
    assert isinstance(run(path, "--data", data, "--out", tmp_path / "o").exception, ConfigError)


def test_tokenizer_of_a_backbone(t5_config, backbone_folder: Path, data: Path, tmp_path: Path) -> None:
    path = save_whole(solomon(t5_config), tmp_path / "model.pt")
    result = run(path, "--data", data, "--out", tmp_path / "out", "--backbone", backbone_folder)
    assert result.exit_code == 0, result.output
    assert load_checkpoint(tmp_path / "out").tokenizer.path.is_file()


def test_a_model_that_knows_nothing_is_noted(t5_config, tokenizer, data: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("podx_train.published.import_pod.measure_fit", lambda *_: Fit(3.0, 2.0, 48))
    path = save_whole(solomon(t5_config), tmp_path / "model.pt")
    imported = import_pod(path, data, tmp_path / "out", tokenizer.path)
    assert "does not know this dataset" in imported.notes[-1]
    assert "3.000" in summary(tmp_path / "out", imported)
