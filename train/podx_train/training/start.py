"""What a training starts from: a preset or backbone, or a teacher (:mod:`podx_train.training.distill`)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from podx.bundle.catalog import Catalog
from podx.bundle.trie import Trie
from podx.errors import ConfigError, DataError
from podx.text.inputs import InputEncoder
from podx.text.templates import ALL_TASKS, DEFAULT_TEMPLATES, ITEM_PREFIX, Task
from podx.text.tokenizer import Tokenizer
from podx_train.batches.batching import BatchBuilder
from podx_train.batches.samplers import Pool, evaluation_pool, training_pool
from podx_train.batches.templates import Templates, inference_templates, training_templates
from podx_train.codes.places import item_places
from podx_train.data.dataset import Dataset
from podx_train.model.adapters import LORA, PROMPT_ONLY, add_adapter, load_peft
from podx_train.model.config import NO_ADAPTER, PodConfig, backbone_fields
from podx_train.model.item_tokens import with_codes
from podx_train.model.one_pass import start_copying
from podx_train.model.pod_t5 import PodT5
from podx_train.model.presets import (
    backbone_tokenizer,
    grow_vocabulary,
    load_backbone,
    preset_config,
    rounded_rows,
    special_ids,
)
from podx_train.model.tokenizer_training import train_tokenizer
from podx_train.options import COOCCURRENCE, COPY, RANDOM_EMBEDDING_LR, TRAIN_TOKENIZER, Source, TrainOptions
from podx_train.training.ranking import Judge
from podx_train.users.user_vectors import user_fields


@dataclass(frozen=True)
class Start:
    """How to make what a training works on.

    Attributes:
        facts: what a resumed training must agree on, JSON values; ``training.json`` shows them as its ``source``.
        options: the command's options behind ``facts``, for an error message.
        tokenizer: makes the sentencepiece model.
        names_tokenizer: whether the tokeniser is one that somebody named: a resumed training must have that very one.
        model: makes the model to train, for these tasks and this tokeniser.
        embedding_scale: how many times the learning rate the embedding tables learn at by default.
        users: frozen arrays of users' prompt vectors; None: made from the dataset or read from a file.
        objective: wraps the model, which is on its device, in a module whose forward is the training loss; by default
            that is the model's own, Eq. (1) of the POD paper.
    """

    facts: Mapping[str, Any]
    options: str
    tokenizer: Callable[[], bytes]
    names_tokenizer: bool
    model: Callable[[tuple[Task, ...], Tokenizer], PodT5]
    embedding_scale: float = 1.0
    users: Mapping[str, Tensor] | None = None
    objective: Callable[[PodT5], nn.Module] = lambda model: model


def start_from(source: Source, options: TrainOptions, dataset: Dataset, templates: Templates) -> Start:
    """Plain training from a preset or a backbone.

    Raises:
        ConfigError: an adapter that cannot work with it. DependencyError: the adapter's library is not installed.
    """
    require_usable(options, source)
    learnt = source.backbone and options.adapter == NO_ADAPTER  # an adapter trains none of a backbone's own rows
    return Start(
        facts=source.as_json(),
        options="--preset or --backbone",
        tokenizer=lambda: tokenizer_bytes(source, dataset, templates),
        names_tokenizer=source.tokenizer not in (None, TRAIN_TOKENIZER),
        model=lambda tasks, tokenizer: new_model(source, options, tasks, tokenizer, dataset, templates),
        embedding_scale=1.0 if learnt else RANDOM_EMBEDDING_LR,
    )


def choose_tasks(dataset: Dataset, options: TrainOptions) -> tuple[Task, ...]:
    """The tasks to train; those of a one-pass model are sequential and, where asked for, explanation.

    Raises:
        DataError: explanations were asked for and there are none to learn from.
    """
    asked, has_explanations = options.tasks, bool(dataset.explanations["train"])
    if asked is None and options.one_pass:
        return (Task.SEQUENTIAL,)
    if asked is None:
        return tuple(task for task in ALL_TASKS if task is not Task.EXPLANATION or has_explanations)
    if Task.EXPLANATION in asked and not has_explanations:
        raise DataError(
            "the dataset has no training explanations (explanation.json): leave explanation out of --tasks, "
            "or prepare the data from interactions with a review column"
        )
    return asked


def require_usable(options: TrainOptions, source: Source) -> None:
    """Refuse, before anything is written, an adapter that cannot work.

    Raises:
        ConfigError: the backbone has no weights worth keeping, or nothing would be left to train.
        DependencyError: ``peft`` is not installed.
    """
    if options.adapter == NO_ADAPTER:
        return
    if not source.backbone:
        raise ConfigError(
            f"--adapter {options.adapter} leaves the backbone's weights as they are, and those of a preset are random: "
            f"give --backbone, or leave --adapter out"
        )
    if options.adapter == PROMPT_ONLY and not (options.prompts or options.user_prompts):
        raise ConfigError("--adapter prompt-only without prompt vectors has too little to train: give --prompts")
    if options.adapter == LORA:
        load_peft()


@dataclass(frozen=True)
class Parts:
    """What the loop works on; pools of tasks without held-out records are left out of ``held_out_pools``.

    Attributes:
        judge: ranks the held-out items where that is cheap, which is in one-pass models; None: validation is by loss.
    """

    trie: Trie
    training_pools: tuple[Pool, ...]
    held_out_pools: tuple[Pool, ...]
    training_builder: BatchBuilder
    held_out_builder: BatchBuilder
    judge: Judge | None = None


def tokenizer_bytes(source: Source, dataset: Dataset, templates: Templates) -> bytes:
    """The sentencepiece model to train with.

    Raises:
        TokenizerError: the file is no such model, or none can be trained.
        ConfigError: the backbone comes without one.
    """
    if source.trains_tokenizer:
        model = train_tokenizer(dataset, source.pieces, templates)
    else:
        path = Path(source.tokenizer) if source.tokenizer else backbone_tokenizer(str(source.backbone))
        Tokenizer(path)  # refuses what is no model before anything is written
        model = path.read_bytes()
    return model if dataset.item_codes is None else with_codes(model, dataset.item_codes)


def new_model(
    source: Source,
    options: TrainOptions,
    tasks: tuple[Task, ...],
    tokenizer: Tokenizer,
    dataset: Dataset,
    templates: Templates = DEFAULT_TEMPLATES,
) -> PodT5:
    """A model at the start of training; equal seeds give equal weights.

    Raises:
        ConfigError: no such preset or backbone, one with fewer rows than the tokeniser has pieces, or a task that is
            to keep words has none.
        CheckpointError: the backbone's weights are damaged. DependencyError: ``peft`` is not installed.
    """
    torch.manual_seed(options.seed)
    backbone = load_backbone(source.backbone) if source.backbone else None
    if backbone is not None and dataset.item_codes is not None:
        grow_vocabulary(backbone, rounded_rows(tokenizer.vocab_size))
    t5 = preset_config(source.preset_name, tokenizer, source.layers) if backbone is None else backbone.config
    if source.dropout is not None:
        t5.dropout_rate = source.dropout
    if t5.vocab_size < tokenizer.vocab_size:
        raise ConfigError(
            f"the tokeniser has {tokenizer.vocab_size} pieces, the backbone only {t5.vocab_size} rows for them: "
            f"give the sentencepiece model that belongs to the backbone"
        )
    config = PodConfig(
        backbone=backbone_fields(t5) | special_ids(tokenizer),
        tasks=tasks,
        prompts=options.prompts,
        whole_word_on_prompt=options.whole_word_on_prompt,
        max_history=options.max_history,
        scheme=dataset.scheme,
        tied_output=backbone is None or backbone.lm_head.weight is backbone.shared.weight,
        item_prefix=ITEM_PREFIX if dataset.item_codes is None else "",
        inference_templates=inference_templates(options.inference, templates, tasks),
        adapter=options.adapter,
        lora_rank=options.lora_rank,
        one_pass=options.one_pass,
        ceiling=options.ceiling,
        **user_fields(options, dataset, t5.d_model),
    )
    torch.manual_seed(options.seed)
    model = PodT5(config, backbone)
    if options.one_pass and backbone is None:
        model.start_small()
        if options.layer_init == COPY:
            start_copying(model.backbone)
        if options.item_init == COOCCURRENCE:
            places = item_places(dataset.items, dataset.offsets, dataset.item_count, t5.d_model, options.seed)
            model.start_items(tokenizer.encode_many(dataset.item_texts or []), torch.from_numpy(places))
    return add_adapter(model)


def make_parts(
    config: PodConfig, options: TrainOptions, dataset: Dataset, tokenizer: Tokenizer, templates: Templates
) -> Parts:
    """Pools and builders of every task of ``config``.

    Raises:
        TokenizerError: an item cannot be written with the tokeniser.
        CatalogError: two items are written alike.
        DataError: a task has nothing to learn from, or no task can be validated.
    """
    catalog = Catalog.create(dataset.item_ids, tokenizer, dataset.item_texts)
    trie = catalog.trie  # two items of the same tokens are found now, not at export
    encoder = InputEncoder(
        tokenizer, catalog.text, config.whole_word_rows, config.item_prefix, config.parsed_templates(), config.one_pass
    )
    encoder.warm(dataset.user_count, dataset.item_count)
    shared = (dataset, catalog, tokenizer, config.max_history)
    training = tuple(training_pool(task, *shared, options.targets, options.skip) for task in config.tasks)
    held_out = tuple(evaluation_pool(task, *shared, "validation", config.one_pass) for task in config.tasks)
    held_out = tuple(pool for pool in held_out if pool.count)
    empty = [pool.task for pool in training if not pool.count]
    if empty or not held_out:
        what = f"nothing to learn {' or '.join(empty)} from" if empty else "no held-out records to validate on"
        raise DataError(f"the dataset has {what}: add data, or choose other --tasks")
    return Parts(
        trie=trie,
        training_pools=training,
        held_out_pools=held_out,
        training_builder=BatchBuilder(config, encoder, training, training_templates(config, templates)),
        held_out_builder=(builder := BatchBuilder(config, encoder, held_out)),
        judge=Judge.of(dataset, builder, held_out[0]) if config.one_pass else None,
    )


def fingerprint(dataset: Dataset, templates: Templates) -> str:
    """Digest of all that training reads, to tell a resumed training that its data has changed."""
    digest = hashlib.sha256(b"" if dataset.item_codes is None else repr(dataset.item_codes).encode())
    for array in (dataset.items, dataset.offsets, dataset.validation_negatives):
        digest.update(b"" if array is None else array.tobytes())
    digest.update(repr((dataset.user_ids, dataset.item_ids)).encode())
    digest.update(repr([dataset.explanations["train"], dataset.explanations["val"]]).encode())
    digest.update(repr(sorted((task.value, chosen) for task, chosen in templates.items())).encode())
    return digest.hexdigest()
