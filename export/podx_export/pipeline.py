"""Checkpoint → bundle: load, validate, fold, build, check, compare, save.

All files are written into a temporary folder beside the target, which takes the target's name only when everything has
succeeded. A kill at any moment leaves no folder that loads.
"""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from podx import __version__
from podx.atomic import partial_folder, put_in_place
from podx.bundle import signature as sig
from podx.bundle.bundle import CATALOG_FILE, TOKENIZER_FILE, USERS_FILE, Bundle
from podx.bundle.catalog import Catalog, IdTable
from podx.bundle.manifest import MANIFEST_FILE, Manifest, file_sha256
from podx.bundle.tables import TableFile
from podx.bundle.users import UserTable
from podx.errors import ExportError
from podx.graphs.session import CPU
from podx.text.inputs import InputEncoder
from podx.text.templates import Task
from podx_export.blocks.decoder import build_decoder, build_text_decoder
from podx_export.blocks.encoder import build_encoder
from podx_export.blocks.graph import BF16, FP32, INT8, GraphBuilder
from podx_export.blocks.quantize import LARGEST
from podx_export.blocks.source import SourceModel, read_model
from podx_export.blocks.weights import WeightStore
from podx_export.card import NOT_MEASURED, write_card
from podx_export.search.recommend import build_exact_recommender, build_recommender
from podx_export.search.words import Wording, item_words, wording
from podx_export.verify.cost import measure_cost
from podx_export.verify.parity import measure, session_options
from podx_export.verify.validate import require_exportable
from podx_train.batches.templates import kind_of_inference, with_inference
from podx_train.checkpoint.checkpoint import Checkpoint, load_checkpoint

DEFAULT_PARITY_USERS = 16
COST_USERS = 256
"""Users per task on whom a lower precision is compared with float32."""
Progress = Callable[[str], None]


def silent(_: str) -> None:
    """Progress that nobody watches."""


def export_checkpoint(
    checkpoint: Path,
    out: Path,
    precision: str = "fp32",
    parity_users: int = DEFAULT_PARITY_USERS,
    force: bool = False,
    progress: Progress = silent,
    inference: str | None = None,
) -> Manifest:
    """Export a checkpoint folder to a bundle folder.

    Args:
        checkpoint: folder that ``podx train`` wrote.
        out: folder to make.
        precision: ``fp32``; ``int8``: weights and what they are multiplied with in 8 bits, for CPUs; ``fp16``,
            ``bf16``: matrix products and attention in 16 bits, for GPUs, with norms and residual sums in float32.
        parity_users: users per task on whom the graphs are compared with the eager model.
        force: replace a bundle that is already there.
        progress: told the name of each stage.
        inference: words in inputs: ``bare``: none; ``discrete``: those of training's first worded template (POD paper,
            section 5.5); None: as trained.

    Raises:
        CheckpointError: the checkpoint cannot be read. ConfigError: unknown ``inference``. ParityError: the graphs do
            not answer like the eager model. ExportError: faults of the checkpoint, all listed, or ``out`` is in use.
    """
    out = out.resolve()  # "." has no name that a suffix could be put to
    _require_free(out, force)
    progress("load the checkpoint")
    source = with_inference(load_checkpoint(checkpoint), inference)
    progress("validate")
    require_exportable(source, precision)
    with partial_folder(out) as partial:
        manifest = write_bundle(source, source.catalog(), partial, precision, progress)
        progress("compare with the eager model")
        manifest = _with_parity(source, partial, manifest, parity_users)
        write_card(partial)
        progress("save")
        put_in_place(partial, out)
    return manifest


def _require_free(out: Path, force: bool) -> None:
    if out.exists() and not out.is_dir():
        raise ExportError(f"{out} is a file: choose another --out")
    in_use = out.is_dir() and any(out.iterdir())
    if in_use and not force:
        raise ExportError(f"{out} is not empty: choose another --out, or replace the bundle there with --force")
    if in_use and not (out / MANIFEST_FILE).is_file():
        raise ExportError(f"{out} is no bundle, so --force does not replace it: choose another --out")


def _with_parity(source: Checkpoint, folder: Path, manifest: Manifest, users: int) -> Manifest:
    """Compare the graphs with the eager model and note the result in the manifest.

    In float32 they must agree; a lower precision is measured against float32 instead.
    """
    bundle = Bundle.load(folder)
    if manifest.precision == BF16 and session_options(bundle).device == CPU:
        manifest = replace(manifest, parity={NOT_MEASURED: "ONNX Runtime has no bf16 on CPUs, and no GPU was at hand"})
        (folder / MANIFEST_FILE).write_bytes(manifest.to_json().encode())
        return manifest
    parity = measure(source, bundle, users)
    facts: dict[str, Any] = dict(parity.to_json())
    if manifest.precision == FP32:
        parity.require()
    else:
        costs = measure_cost(source, bundle, folder / CATALOG_FILE, max(users, COST_USERS))
        facts["cost"] = [cost.to_json() for cost in costs]
    manifest = replace(manifest, parity=facts)
    (folder / MANIFEST_FILE).write_bytes(manifest.to_json().encode())
    return manifest


def write_bundle(
    source: Checkpoint, catalog: Catalog, folder: Path, precision: str = FP32, progress: Progress = silent
) -> Manifest:
    """Write every file of a bundle, over a catalog that may be another than the checkpoint's; nothing is compared."""
    model, levels = read_model(source.model), catalog.trie.depth
    progress("tabulate the catalog")
    catalog, how = _with_words(source, catalog)
    catalog.save(folder / CATALOG_FILE, model.one_pass)
    weights = WeightStore(folder / sig.WEIGHTS_FILE)
    progress("fold the prompts, build the encoder graph")
    _save_graph(build_encoder(model, weights, precision), folder / sig.ENCODER_FILE)
    progress("build the decoder graphs")
    _save_graph(build_decoder(model, weights, False, precision), folder / sig.DECODER_FILE)
    _save_graph(build_decoder(model, weights, True, precision), folder / sig.ITEM_DECODER_FILE)
    _save_graph(build_text_decoder(model, weights, precision), folder / sig.TEXT_DECODER_FILE)
    if Task.EXPLANATION in source.config.tasks and (only := source.explanation_tokens) is not None:
        _save_graph(build_text_decoder(model, weights, precision, only), folder / sig.EXPLANATION_DECODER_FILE)
    progress("build the graph of the whole search")
    tables = TableFile(folder / CATALOG_FILE)
    _save_graph(build_recommender(model, weights, tables, levels, precision), folder / sig.RECOMMEND_FILE)
    if how.task_ids:
        by_numbers = build_recommender(model, weights, tables, levels, precision, wording=how)
        _save_graph(by_numbers, folder / sig.NUMBERS_FILE)
    if model.one_pass and levels > 1:  # of one token an item, every answer is certain
        _save_graph(build_exact_recommender(model, weights, tables, levels, precision), folder / sig.EXACT_FILE)
    if precision != INT8:  # which is for CPUs
        fixed_shapes = build_recommender(model, weights, tables, levels, precision, cuda_graph=True)
        _save_graph(fixed_shapes, folder / sig.CUDA_GRAPH_FILE)
    weights.close()
    progress("check the graphs")
    for path in folder.glob("*.onnx"):
        onnx.checker.check_model(str(path))
    _user_table(source).save(folder / USERS_FILE)
    shutil.copyfile(source.tokenizer.path, folder / TOKENIZER_FILE)
    manifest = _manifest(source, model, precision, levels, folder)
    (folder / MANIFEST_FILE).write_bytes(manifest.to_json().encode())
    return manifest


def _with_words(source: Checkpoint, catalog: Catalog) -> tuple[Catalog, Wording]:
    """The catalog with what inputs are written with, and how requests for items are written."""
    config = source.config
    how_written = config.whole_word_rows, config.item_prefix, config.parsed_templates(), config.one_pass
    encoder = InputEncoder(source.tokenizer, catalog.text, *how_written)
    task_ids: dict[Task, int] = {task: config.task_row(task) for task in config.tasks if task is not Task.EXPLANATION}
    how, words = wording(encoder, task_ids, config.max_history, len(source.user_ids))
    if words is None:
        return catalog, how
    return replace(catalog, words=words.followed_by(item_words(catalog, encoder, config.item_prefix))), how


def _user_table(source: Checkpoint) -> UserTable:
    """Users and their items, and who of them has no embedding to make prompt vectors from."""
    without, user_prompts = None, source.model.user_prompts
    if user_prompts is not None and not bool(user_prompts.known[1:].all()):
        without = np.flatnonzero(~user_prompts.known.numpy())[1:].astype(np.int32)  # the first, user 0, is nobody
    sequences = source.sequences
    ids, offsets = IdTable.of(source.user_ids, "user"), sequences.offsets.astype(np.int64)
    return UserTable(ids, sequences.items, offsets, without)


def _save_graph(graph: GraphBuilder, path: Path) -> None:
    path.write_bytes(graph.model().SerializeToString())


def _manifest(source: Checkpoint, model: SourceModel, precision: str, levels: int, folder: Path) -> Manifest:
    config = source.config
    return Manifest(
        podx_version=__version__,
        shape=model.shape,
        tasks=config.tasks,
        prompts=config.prompts,
        user_prompts=config.user_prompts,
        scheme=config.scheme,
        precision=precision,
        max_history=config.max_history,
        whole_word_rows=config.whole_word_rows,
        start_token=model.start_token,
        item_prefix=config.item_prefix,
        templates={task.value: text for task, text in config.inference_templates.items()},
        levels=levels,
        one_pass=config.one_pass,
        ceiling=config.ceiling,
        int8_limit=LARGEST if precision == INT8 else 0,
        files={path.name: file_sha256(path) for path in sorted(folder.iterdir())},
        provenance={
            "exported": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "onnx": onnx.__version__,
            "inference": kind_of_inference(config),
            "parameters": sum(parameter.numel() for parameter in source.model.parameters()),
            "training": _training_facts(source.training),
        },
    )


def _training_facts(training: Mapping[str, Any]) -> dict[str, Any]:
    """What a manifest says of the training; checkpoints that do not name the time have it in their curve."""
    curve = training.get("curve", ())
    seconds = training.get("train_seconds", sum(entry["train_seconds"] for entry in curve))
    kept = ("seed", "best_epoch", "updates", "options", "environment")
    best = [entry for entry in curve if entry.get("epoch") == training.get("best_epoch")]
    ranking = (
        {"validation_ranking": best[-1]["validation_ranking"]} if best and "validation_ranking" in best[-1] else {}
    )
    return {**{key: training.get(key) for key in kept}, "train_seconds": seconds, **ranking}
