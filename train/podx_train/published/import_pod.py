"""The checkpoint that POD's own code writes (``torch.save`` of the whole model), made a checkpoint of podx.

What the published code does, as far as it matters here: the model is a T5 with an embedding of ``tasks * K`` prompt
vectors, task after task in the order explanation, sequential, top-N, and one of whole words with a row per position;
inputs are ``user_1 item_2 …`` with the last 20 items; a number stands for itself in the dataset's files. RDRec's models
are of the same class, with two more tasks behind the three; those are left out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import T5Config

from podx.atomic import whole_folder, write_bytes
from podx.bundle.manifest import file_sha256
from podx.errors import CheckpointError, ConfigError
from podx.text.templates import ALL_TASKS, Task
from podx.text.tokenizer import Tokenizer
from podx_train.checkpoint.checkpoint import CONFIG_FILE, publish, save_dataset, set_model_tensors
from podx_train.data.dataset import UNKNOWN_SCHEME, Dataset
from podx_train.model.adapters import build_model
from podx_train.model.config import DEFAULT_MAX_HISTORY, PodConfig, backbone_fields
from podx_train.model.pod_t5 import PodT5
from podx_train.model.presets import TOKENIZER_FILE
from podx_train.published.fit import Fit, measure_fit
from podx_train.published.saved_module import SavedModule, read_module

PAPER_SCHEME = "paper"
TASK_ROWS: Mapping[Task, int] = {Task.EXPLANATION: 0, Task.SEQUENTIAL: 1, Task.TOPN: 2}
"""Place of each task's prompt vectors in the published code."""

PROMPTS = "prompt_embeddings.weight"
WHOLE_WORDS = "whole_word_embeddings.weight"
TOKENS = "shared.weight"
OUTPUT = "lm_head.weight"
_THEIRS = {"prompts": PROMPTS, "whole_word.weight": WHOLE_WORDS}
_COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
_UNUSED = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
"""Left in files of old transformers; no T5 reads it."""

DIFFERENCES = (
    "cross-attention: the published code lets a record see the padding of its batch; podx masks it, so that a record's "
    "answer does not depend on its batch. Without padding both are the same",
    "search: the published code searches all text and puts a random item where the text is no number; podx searches "
    "the catalog alone, and leaves out items of the user's history unless told otherwise",
)


@dataclass(frozen=True)
class Imported:
    """What came of an import.

    Attributes:
        config: of the checkpoint written.
        users, items: of the dataset.
        fit: how well the model predicts the dataset, see :func:`podx_train.published.fit.measure_fit`.
        notes: for people to read.
    """

    config: PodConfig
    users: int
    items: int
    fit: Fit
    notes: tuple[str, ...]


def import_pod(
    model: Path | str, data: Path | str, out: Path | str, tokenizer: Path | str, max_history: int = DEFAULT_MAX_HISTORY
) -> Imported:
    """Write a checkpoint folder from a saved POD model; nothing in the file is run.

    Args:
        model: what ``torch.save(model, file)`` of the published code wrote, with torch 1.6 or later.
        data: the dataset folder it was trained on, as published: a number is a user's or item's name to the model.
        out: the checkpoint folder, new or empty.
        tokenizer: the sentencepiece model of the T5 it began as.
        max_history: last items of a user that the model reads; 20 in the published code.

    Raises:
        CheckpointError: the file is damaged, no POD model, or asks for something to be run.
        ConfigError: the tokeniser is of another model, or the dataset is numbered otherwise.
        DataError: the dataset is damaged, or ``out`` is taken.
        TokenizerError, CatalogError: the items cannot be written, or not told apart.
    """
    saved = read_module(Path(model))
    pieces = Tokenizer(Path(tokenizer))
    dataset = _numbered_by_paper(Dataset.load(data), Path(data))
    config = _config(saved, pieces, max_history)
    ours = _filled(config, saved)
    fit = measure_fit(ours, pieces, dataset)
    notes = (*DIFFERENCES, *_notes(saved, config, fit))
    facts = {
        "imported": {"file": saved.path.name, "sha256": file_sha256(saved.path), "class": saved.class_name},
        "fit": {"loss": fit.loss, "loss_of_other_users_items": fit.other_loss, "users": fit.users},
        "notes": list(notes),
    }
    with whole_folder(Path(out), marker=CONFIG_FILE) as folder:
        write_bytes(folder / TOKENIZER_FILE, pieces.path.read_bytes())
        save_dataset(folder, dataset)
        publish(folder, ours, facts, epoch=0)
    return Imported(config, dataset.user_count, dataset.item_count, fit, notes)


def _numbered_by_paper(dataset: Dataset, where: Path) -> Dataset:
    """The dataset with its scheme spelt out.

    Raises:
        ConfigError: its numbers are not those of the published files.
    """
    if dataset.scheme not in (PAPER_SCHEME, UNKNOWN_SCHEME) or dataset.item_codes is not None:
        how = "items are written as codes" if dataset.item_codes is not None else f"numbered {dataset.scheme!r}"
        raise ConfigError(
            f"{where}: {how}, but a POD model knows users and items by their numbers in the published files: give the "
            f"folder it was trained on, or one made with podx data prepare --ids paper from the same interactions"
        )
    return dataclasses.replace(dataset, scheme=PAPER_SCHEME)


def _config(saved: SavedModule, tokenizer: Tokenizer, max_history: int) -> PodConfig:
    """The shape of the saved model.

    Raises:
        CheckpointError: it is no POD model.
        ConfigError: the tokeniser does not belong to it.
    """
    tables = (PROMPTS, WHOLE_WORDS, TOKENS, OUTPUT)
    lacking = [n for n in tables if n not in saved.parameters or len(saved.parameters[n].size) != 2]
    if lacking:
        raise CheckpointError(
            f"{saved.path} holds a {saved.class_name} without {', '.join(lacking)}: it is no POD model. podx imports "
            f"what the published code of POD and RDRec saves (PeaPOD's makes its prompts otherwise)"
        )
    backbone = _backbone(saved, tokenizer)
    return PodConfig(
        backbone=backbone_fields(backbone),
        tasks=ALL_TASKS,
        prompts=_prompts_per_task(saved),
        whole_word_rows=saved.parameters[WHOLE_WORDS].size[0],
        whole_word_on_prompt=False,
        max_history=max_history,
        scheme=PAPER_SCHEME,
        tied_output=_same(saved, TOKENS, OUTPUT),
    )


def _prompts_per_task(saved: SavedModule) -> int:
    """K of the paper: the model says it itself."""
    rows, per_task = saved.parameters[PROMPTS].size[0], saved.attributes.get("prompts_per_task")
    if type(per_task) is not int or per_task < 1 or rows % per_task or rows < per_task * len(TASK_ROWS):
        raise CheckpointError(
            f"{saved.path}: {rows} prompt vectors, {per_task!r} a task: they do not make the three tasks explanation, "
            f"sequential and top-N; save a model that was made with the published init_prompt"
        )
    return per_task


def _backbone(saved: SavedModule, tokenizer: Tokenizer) -> T5Config:
    """The T5's configuration, from what the model says of itself; shapes are compared later."""
    told = saved.config
    if told.get("model_type", "t5") != "t5" or "d_model" not in told:
        raise CheckpointError(f"{saved.path}: the model is of type {told.get('model_type')!r}: podx imports T5 models")
    for name, own in (("pad_token_id", tokenizer.pad_id), ("eos_token_id", tokenizer.eos_id)):
        if told.get(name, own) != own:
            raise ConfigError(f"the model has {name} {told[name]}, the tokeniser {own}: give the one of its own T5")
    if saved.parameters[TOKENS].size[0] < tokenizer.vocab_size:
        raise ConfigError(
            f"the tokeniser has {tokenizer.vocab_size} pieces, the model {saved.parameters[TOKENS].size[0]} rows for "
            f"them: give the sentencepiece model of the T5 it began as"
        )
    if any(type(told.get(n)) is int and told[n] > len(saved.parameters) for n in ("num_layers", "num_decoder_layers")):
        raise CheckpointError(f"{saved.path} says it has more layers than weights: it is damaged, copy it again")
    wanted = backbone_fields(T5Config.from_dict({"decoder_start_token_id": tokenizer.pad_id}))
    fields = {name: told[name] for name in wanted if told.get(name) is not None}
    fields |= {"pad_token_id": tokenizer.pad_id, "eos_token_id": tokenizer.eos_id}
    fields.setdefault("decoder_start_token_id", tokenizer.pad_id)
    fields.setdefault("scale_decoder_outputs", told.get("tie_word_embeddings") is not False)
    try:
        return T5Config.from_dict(fields)
    except (TypeError, ValueError, AttributeError, StrictDataclassError) as error:
        raise CheckpointError(f"{saved.path}: its configuration describes no T5 ({error}): copy it again") from error


def _same(saved: SavedModule, one: str, other: str) -> bool:
    """Whether two parameters are one, or have the same values."""
    if saved.parameters[one] == saved.parameters[other]:
        return True
    return torch.equal(*saved.tensors([one, other]).values())


def _filled(config: PodConfig, saved: SavedModule) -> PodT5:
    """Our model with the saved one's weights, in evaluation mode.

    Raises:
        CheckpointError: weights are missing, of another shape, or more than a POD model has.
    """
    with torch.device("meta"):  # shapes without memory: a damaged configuration must not ask for all there is
        wanted = {name: tuple(p.shape) for name, p in build_model(config).named_parameters()}
    names = {ours: _THEIRS.get(ours, ours.removeprefix("backbone.")) for ours in wanted}
    wanted["prompts"] = saved.parameters[PROMPTS].size[:1] + wanted["prompts"][2:]  # theirs is flat
    wrong = [n for ours, n in names.items() if n not in saved.parameters or saved.parameters[n].size != wanted[ours]]
    known = {*names.values(), *_COPIES, OUTPUT, _UNUSED}
    wrong += sorted(saved.parameters.keys() - known)
    wrong += [name for name in _COPIES if name in saved.parameters and not _same(saved, TOKENS, name)]
    if wrong:
        raise CheckpointError(
            f"{saved.path} holds a {saved.class_name} whose weights are not those of a POD model of its configuration "
            f"({', '.join(wrong[:3])} of {len(wrong)} missing, unknown or of another shape): podx imports what the "
            f"published code of POD and RDRec saves"
        )
    values = saved.tensors(list(names.values()))
    tensors = {ours: values[theirs] for ours, theirs in names.items()}
    by_task = tensors["prompts"].view(-1, config.prompts, tensors["prompts"].shape[-1])
    tensors["prompts"] = by_task[[TASK_ROWS[task] for task in config.tasks]]
    model = build_model(config)
    set_model_tensors(model, tensors, saved.path)
    return model.eval()


def _notes(saved: SavedModule, config: PodConfig, fit: Fit) -> list[str]:
    notes = []
    beyond = saved.parameters[PROMPTS].size[0] // config.prompts - len(TASK_ROWS)
    if beyond:
        notes.append(f"left out: the prompt vectors of {beyond} more tasks than POD has (RDRec's rationales)")
    if fit.users and not fit.knows:
        notes.append(
            f"the model does not know this dataset: users' own items cost it {fit.loss:.3f} a token, other users' "
            f"{fit.other_loss:.3f}. Is it the folder that the model was trained on, and was the model trained at all?"
        )
    return notes


def summary(out: Path, imported: Imported) -> str:
    """A few lines for people."""
    config: Any = imported.config
    fit = imported.fit
    lines = [
        f"{out}: {', '.join(config.tasks)}; {config.prompts} prompts a task, {config.whole_word_rows} whole-word rows, "
        f"{imported.users:,} users, {imported.items:,} items",
        f"sequential loss on {fit.users} training items: {fit.loss:.3f} a token; on other users' items "
        f"{fit.other_loss:.3f}",
    ]
    return "\n".join([*lines, *(f"note: {note}" for note in imported.notes)])
