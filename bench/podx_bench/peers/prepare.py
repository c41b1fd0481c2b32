"""What is done in the bench's own process before a peer's starts: the checkpoint is written as a plain T5, which every
library can read (prompts and whole words stay behind), and converted for the peer; for Optimum it is exported whole.

All are kept from run to run, in folders named after what they were made from.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from podx.atomic import partial_folder
from podx.bundle.bundle import TOKENIZER_FILE, Bundle
from podx.bundle.manifest import file_sha256
from podx.errors import ConfigError, DeviceError
from podx.text.templates import Task
from podx_bench.harness.child import run_in_child
from podx_bench.harness.record_file import digest_of
from podx_bench.peers import place
from podx_bench.workload.inputs import require_same
from podx_bench.workload.work import EngineContext
from podx_export.blocks.graph import FP32
from podx_export.layouts.transformers_folder import fill_folder, require_layout, t5_config
from podx_train.checkpoint.checkpoint import CONFIG_FILE, WEIGHTS_FILE, Checkpoint, load_checkpoint
from podx_train.model.config import PodConfig

CONVERT_TIMEOUT_S = 1800.0
PLAIN_VERSION = "1"
FOLDER_VERSION = "1"
"""To be raised when what is written changes, as a plain T5 and for Optimum: they are part of the cache's keys."""


def prepare_peer(name: str, context: EngineContext) -> EngineContext:
    """Convert the checkpoint for a peer, unless that was done before.

    Returns:
        the context for the peer's process, whose ``checkpoint`` is the folder the peer reads.

    Raises:
        ConfigError: there is no checkpoint or no peers' environment, or the model cannot be converted.
        CheckpointError: the checkpoint is damaged, or not the one the bundle was made from.
        DeviceError: another device than the CPU was asked for.
        EngineError: the peer's library failed to convert it.
    """
    plain = plain_folder(context.bundle, checkpoint_of(name, context))
    mark = content_key([], *(f"{library}={version}" for library, version in place.versions().items()))
    converted = made_once(plain.parent / f"{name}-{mark}", lambda out: convert(name, plain, out))
    return replace(context, checkpoint=converted)


def checkpoint_of(name: str, context: EngineContext) -> Path:
    """The checkpoint that a peer's files are made of; raises what :func:`prepare_peer` says."""
    if context.device != "cpu":
        raise DeviceError(f"{name} is measured on the CPU only: leave it out of --engines, or use --device cpu")
    if context.checkpoint is None:
        raise ConfigError(f"{name} needs --checkpoint: give the folder the bundle was exported from")
    return context.checkpoint


def prepare_optimum(context: EngineContext) -> EngineContext:
    """Export the checkpoint in the layout transformers, unless that was done before; see :func:`prepare_peer`.

    Raises:
        ExportError: the layout cannot hold the model.
    """
    checkpoint = checkpoint_of("optimum", context)
    loaded, manifest = load_checkpoint(checkpoint), Bundle.load(context.bundle, verify=False).manifest
    require_same(context.bundle, loaded)
    templates = {Task(name): text for name, text in manifest.templates.items()}  # export may have chosen others
    loaded = replace(loaded, config=replace(loaded.config, inference_templates=templates))
    require_layout(loaded, FP32)
    mark = content_key([], FOLDER_VERSION, *templates.values())
    folder = cache_folder() / _checkpoint_key(checkpoint) / f"optimum-{mark}"
    return replace(context, checkpoint=made_once(folder, lambda out: fill_folder(loaded, out)))


def _checkpoint_key(checkpoint: Path) -> str:
    return content_key([checkpoint / name for name in (CONFIG_FILE, WEIGHTS_FILE, TOKENIZER_FILE)], PLAIN_VERSION)


@cache
def plain_folder(bundle: Path, checkpoint: Path) -> Path:
    """The checkpoint as a plain T5, made if need be; checked once per run to be the bundle's."""
    loaded = load_checkpoint(checkpoint)
    require_same(bundle, loaded)
    return made_once(cache_folder() / _checkpoint_key(checkpoint) / "plain", lambda folder: write_plain(loaded, folder))


def convert(name: str, plain: Path, out: Path) -> None:
    """Let the peers' environment write what peer ``name`` loads into the empty folder ``out``.

    Raises:
        EngineError: it failed; the message has its last words.
    """
    run_in_child(
        f"{place.MODULES[name]}:convert",
        name,
        plain,
        out,
        returns=None,
        name=f"the conversion for {name}",
        advice=f"run `make peers` again if its environment is incomplete, or leave {name} out of --engines",
        interpreter=place.interpreter(),
        timeout=CONVERT_TIMEOUT_S,
    )


def write_plain(checkpoint: Checkpoint, folder: Path) -> None:
    """Write configuration, weights and tokeniser of the backbone.

    Raises:
        ConfigError: other versions of transformers cannot describe this T5.
    """
    tensors = {name: weight.detach().contiguous() for name, weight in checkpoint.model.backbone.named_parameters()}
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})  # tied weights once
    shutil.copyfile(checkpoint.tokenizer.path, folder / TOKENIZER_FILE)
    # rows of the embedding beyond the pieces get names of their own, so that there is a name for every row
    rows = checkpoint.config.backbone["vocab_size"] - checkpoint.tokenizer.vocab_size
    tokenizer = {"tokenizer_class": "T5Tokenizer", "extra_ids": rows}
    for file, content in (("tokenizer_config.json", tokenizer), (CONFIG_FILE, plain_config(checkpoint.config))):
        (folder / file).write_text(json.dumps(content, indent=2), encoding="utf-8")


def plain_config(config: PodConfig) -> dict[str, Any]:
    """The backbone's ``config.json`` as transformers before version 5 reads it.

    Raises:
        ConfigError: the decoder's outputs are scaled although the output layer is not tied, or the other way round:
            older versions of transformers have one switch for both.
    """
    if config.backbone["scale_decoder_outputs"] != config.tied_output:
        raise ConfigError(
            "the peers cannot run this model: with them, T5 scales its decoder's outputs where the output layer is the "
            "token embedding and nowhere else; leave them out of --engines"
        )
    return t5_config(config)


def cache_folder() -> Path:
    """Folder of all conversions, in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "podx" / "peers"


def content_key(files: Sequence[Path], *more: str) -> str:
    """Name for what is made from these files: it follows from their bytes and ``more``, not from where they lie."""
    return digest_of(list(more), [file_sha256(path) for path in files])


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """``folder``, made if it is not there: under a temporary name, then renamed, so that it is never there in part."""
    if not folder.is_dir():
        with partial_folder(folder.with_name(f"{folder.name}-{os.getpid()}")) as partial:
            make(partial)
            try:
                partial.rename(folder)
            except OSError:
                if not folder.is_dir():  # another run has made it meanwhile: either will do
                    raise
    return folder
