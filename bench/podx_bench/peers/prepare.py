"""What is done in the bench's own process before a peer's process starts: the checkpoint is converted for it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

from podx.bundle.bundle import TOKENIZER_FILE
from podx.errors import ConfigError, DeviceError
from podx_bench.harness.child import run_in_child
from podx_bench.peers import place
from podx_bench.peers.cache import cache_folder, content_key, made_once
from podx_bench.peers.plain import PLAIN_VERSION, write_plain
from podx_bench.workload.engine import EngineContext
from podx_bench.workload.matching import require_same
from podx_train.checkpoint.checkpoint import CONFIG_FILE, WEIGHTS_FILE, load_checkpoint

CONVERTER = "podx_bench.peers.convert:convert"
CONVERT_TIMEOUT_S = 1800.0
PLAIN_FOLDER = "plain"


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
    if context.device != "cpu":
        raise DeviceError(f"{name} is measured on the CPU only: leave it out of --engines, or use --device cpu")
    if context.checkpoint is None:
        raise ConfigError(f"{name} needs --checkpoint: give the folder the bundle was exported from")
    plain = plain_folder(context.bundle, context.checkpoint)
    mark = content_key([], *(f"{library}={version}" for library, version in place.versions().items()))
    converted = made_once(plain.parent / f"{name}-{mark}", lambda out: convert(name, plain, out))
    return replace(context, checkpoint=converted)


@cache
def plain_folder(bundle: Path, checkpoint: Path) -> Path:
    """The checkpoint as a plain T5, made if need be; checked once per run to be the bundle's."""
    loaded = load_checkpoint(checkpoint)
    require_same(bundle, loaded)
    files = [checkpoint / name for name in (CONFIG_FILE, WEIGHTS_FILE, TOKENIZER_FILE)]
    key = content_key(files, PLAIN_VERSION)
    return made_once(cache_folder() / key / PLAIN_FOLDER, lambda folder: write_plain(loaded, folder))


def convert(name: str, plain: Path, out: Path) -> None:
    """Let the peers' environment write what peer ``name`` loads into the empty folder ``out``.

    Raises:
        EngineError: it failed; the message has its last words.
    """
    run_in_child(
        CONVERTER,
        name,
        plain,
        out,
        returns=None,
        name=f"the conversion for {name}",
        advice=f"run `{place.COMMAND}` again if its environment is incomplete, or leave {name} out of --engines",
        interpreter=place.interpreter(),
        timeout=CONVERT_TIMEOUT_S,
    )
