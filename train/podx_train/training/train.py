"""Training from Python: a dataset in, a checkpoint folder out. The command line calls :func:`train_model` too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from podx.atomic import write_bytes
from podx.errors import CheckpointError, ConfigError
from podx.text.templates import ALL_TASKS, DEFAULT_TEMPLATES, Task
from podx.text.tokenizer import Tokenizer
from podx_train.batches.templates import TEMPLATES_KEY, Templates, templates_as_json
from podx_train.checkpoint.checkpoint import CONFIG_FILE, TRAINER_FILE, read_tensors, restore_trainer, save_dataset
from podx_train.codes.one_token import with_item_codes
from podx_train.console import console
from podx_train.data.dataset import Dataset
from podx_train.data.stats import leaky_explanations
from podx_train.model.adapters import build_model, freeze, trained_groups
from podx_train.model.config import PodConfig
from podx_train.model.pod_t5 import PodT5
from podx_train.model.presets import TOKENIZER_FILE
from podx_train.options import Source, TrainOptions
from podx_train.training.cpu import tune_for_cpu
from podx_train.training.loop import Trainer, TrainResult
from podx_train.training.processes import Processes
from podx_train.training.start import Start, choose_tasks, fingerprint, make_parts, start_from
from podx_train.training.state import TrainState
from podx_train.users.user_vectors import attach_users, write_users

ADAM_BETA1 = 0.9


@dataclass(frozen=True)
class _Earlier:
    """A training that goes on: its saved tensors and the header that came with them."""

    tensors: Mapping[str, torch.Tensor]
    header: Mapping[str, Any]


def train_model(
    dataset: Dataset,
    out: Path | str,
    options: TrainOptions | None = None,
    source: Source | None = None,
    templates: Templates = DEFAULT_TEMPLATES,
    resume: bool = False,
) -> TrainResult:
    """Train a PodT5 and write its checkpoint.

    Args:
        out: the checkpoint folder; new or empty, unless ``resume``.
        options: how to train.
        source: where weights and tokeniser come from; by default the smallest preset and a tokeniser learnt here.
        templates: of the inputs.
        resume: go on with the training that ``out`` holds, to the result it would have had; start it if there is none.

    Raises:
        ConfigError: options conflict, ``out`` holds something, or ``resume`` with other options or data.
        DataError: the dataset lacks what a task needs.
        TokenizerError, CatalogError: the items cannot be written, or not told apart.
        CheckpointError: the backbone or the saved state is damaged.
        DeviceError: the device is not there.
    """
    options = options or TrainOptions()
    if options.one_pass:
        dataset = with_item_codes(dataset)
    start = start_from(source or Source(), options, dataset, templates)
    trainer = make_trainer(
        dataset, Path(out), options, start, templates, resume
    )  # what was read to make it, an earlier training's tensors among it, is released before training
    return trainer.run()


def make_trainer(
    dataset: Dataset, folder: Path, options: TrainOptions, start: Start, templates: Templates, resume: bool
) -> Trainer:
    """All that comes before the first update; arguments and errors are those of :func:`train_model`."""
    tasks = choose_tasks(dataset, options)
    processes = Processes(options)
    earlier = _find_earlier(folder, resume)
    facts: dict[str, Any] = {
        "options": options.as_json(),
        "source": dict(start.facts),
        "fingerprint": fingerprint(dataset, templates),
        TEMPLATES_KEY: templates_as_json(templates),
    }
    if earlier is not None:
        _refuse_changes(earlier.header, facts, options, start, folder / TOKENIZER_FILE)
    processes.wait()  # all have looked at the folder before the first writes to it
    if processes.is_main:
        _tell_of_explanations(dataset, options, tasks)
    if processes.is_main and earlier is None:
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(folder / TOKENIZER_FILE, start.tokenizer())
        save_dataset(folder, dataset)
    processes.wait()
    tokenizer = Tokenizer(folder / TOKENIZER_FILE)
    if earlier is None:
        model = start.model(tasks, tokenizer)
    else:
        model = build_model(PodConfig.from_json(earlier.header["config"]))
    began_with = None if earlier is None else earlier.header.get("user_vectors")
    if processes.is_main and earlier is None:
        write_users(model.config, folder, options, dataset, start.users)
    processes.wait()
    facts["user_vectors"] = attach_users(model, folder, options, dataset, began_with)
    parts = make_parts(model.config, options, dataset, tokenizer, templates)
    model.read_catalog(parts.trie)
    model.label_smoothing = options.label_smoothing
    model.to(processes.device)
    if processes.device.type == "cpu":
        tune_for_cpu(model.backbone)
    freeze(model, dataset, tokenizer)
    optimizer = _optimizer(model, options, start.embedding_scale)
    state = TrainState()
    if earlier is not None:
        restore_trainer(model, optimizer, earlier.tensors, folder / TRAINER_FILE)
        state = TrainState.from_json(earlier.header["state"])
    facts["config"] = model.config.to_json()
    return Trainer(folder, model, optimizer, parts, options, processes, state, facts, start.objective(model))


def _tell_of_explanations(dataset: Dataset, options: TrainOptions, tasks: tuple[Task, ...]) -> None:
    if options.tasks is None and not options.one_pass and len(tasks) < len(ALL_TASKS):
        console.print(f"no explanations in the dataset: training {' and '.join(tasks)} only", soft_wrap=True)
    if Task.EXPLANATION in tasks and (leaks := leaky_explanations(dataset)):
        console.print(
            f"note: {leaks} training explanations are of a user's own validation or test item, so accuracy on held-out "
            f"items will be flattered; datasets made by podx data prepare have none unless asked",
            soft_wrap=True,
        )


def _optimizer(model: PodT5, options: TrainOptions, embedding_scale: float) -> torch.optim.AdamW:
    """AdamW in two groups; the loop sets each group's rate to the update's rate times its ``scale``."""
    scale = options.embedding_lr or embedding_scale
    tables = [model.backbone.shared.weight, model.whole_word.weight, model.prompts]
    of_tables = {id(table) for table in tables}
    others = [parameter for parameter in model.parameters() if id(parameter) not in of_tables]
    groups = [{"params": others, "scale": 1.0}, {"params": tables, "scale": scale}]
    if model.config.one_pass:  # AdamW decays by rate times weight decay; tables are to decay as all else does
        groups[1]["weight_decay"] = options.weight_decay / scale
    return torch.optim.AdamW(
        trained_groups(model, groups),
        lr=options.lr,
        betas=(ADAM_BETA1, options.beta2),
        weight_decay=options.weight_decay,
        fused=True,
    )


def _find_earlier(folder: Path, resume: bool) -> _Earlier | None:
    """The training that ``folder`` holds, or None for a new one.

    Raises:
        ConfigError: the folder holds something and ``resume`` was not asked for.
        CheckpointError: the saved state is damaged.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file: choose another folder with --out")
    if not resume:
        if folder.exists() and any(folder.iterdir()):
            raise ConfigError(f"{folder} is not empty: go on with its training with --resume, or choose another --out")
        return None
    path = folder / TRAINER_FILE
    if not path.exists():
        if (folder / CONFIG_FILE).exists():
            raise ConfigError(f"{folder} holds a checkpoint without {TRAINER_FILE}: it cannot be resumed")
        return None
    tensors, header = read_tensors(path)
    missing = {"options", "source", "fingerprint", "config", "state"} - header.keys()
    if missing:
        raise CheckpointError(f"{path} lacks {', '.join(sorted(missing))}: it is damaged, train again")
    return _Earlier(tensors, header)


def _refuse_changes(
    header: Mapping[str, Any], facts: Mapping[str, Any], options: TrainOptions, start: Start, own: Path
) -> None:
    """A resumed training goes on as it began, with its ``own`` tokeniser: another one must not be passed over."""
    options.refuse_changes(header["options"])
    for name, what in (("source", start.options), ("fingerprint", "the dataset or the templates")):
        if header[name] != facts[name]:
            raise ConfigError(f"--resume: {what} changed since this training began: give the same, or train anew")
    if start.names_tokenizer and own.is_file() and start.tokenizer() != own.read_bytes():
        raise ConfigError(f"--resume: --tokenizer is not the one that training began with: leave it out, or give {own}")
