"""Bundles on the Hugging Face Hub, by its own client: ``podx.load("owner/name")`` and ``podx push``."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from podx.atomic import partial_folder
from podx.bundle.bundle import Bundle
from podx.bundle.manifest import MANIFEST_FILE
from podx.errors import BundleError, ConfigError, DependencyError

CARD_FILE = "README.md"
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_LINKLESS = "podx"
"""Beside ``snapshots`` in a repository's part of the client's cache: the same files without links."""


def bundle_folder(path: str | Path, revision: str | None = None) -> Path:
    """Folder of a bundle.

    Args:
        path: a folder; or, where nothing is there, ``owner/name`` of a model on the Hub, which is downloaded into the
            client's cache, or taken from there where the Hub cannot be reached.
        revision: branch, tag or commit on the Hub; None: its main branch.

    Raises:
        BundleError: the Hub has no such model, or does not let us read it.
        ConfigError: a revision of a folder was asked for.
        DependencyError: huggingface_hub is not installed.
    """
    local = Path(path)
    if local.exists() or not _NAME.fullmatch(str(path)):
        if revision is not None:
            raise ConfigError(f"revision={revision!r} is of a model on the Hub, and {path} names none: leave it out")
        return local
    hub = _client(f"there is no folder {path}, and reading {path} from the Hugging Face Hub needs huggingface_hub")
    with _named_errors(f"there is no folder {path}, and the Hugging Face Hub does not give us {path}"):
        return _without_links(Path(hub.snapshot_download(str(path), revision=revision)))


def push_bundle(folder: Path, name: str, private: bool = False, message: str | None = None) -> str:
    """Write a bundle and its card to a model on the Hub, which is made if need be, in one commit.

    Args:
        folder: the bundle; checked first.
        name: ``owner/name``.
        message: of the commit; None: it names the bundle's version.

    Returns:
        address of the commit.

    Raises:
        ConfigError: ``name`` is no ``owner/name``. BundleError: the bundle is damaged, or the Hub does not take it.
        DependencyError: huggingface_hub is not installed.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{name!r} names no model on the Hub: write owner/name")
    bundle = Bundle.load(folder)
    hub = _client("writing to the Hugging Face Hub needs huggingface_hub")
    with _named_errors(f"the Hugging Face Hub does not take {name}"):
        api = hub.HfApi()
        api.create_repo(name, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=name,
            folder_path=folder,
            allow_patterns=[*bundle.manifest.files, MANIFEST_FILE, CARD_FILE],
            delete_patterns=["*.onnx", "*.bin"],  # of a bundle that lay there before
            commit_message=message or f"podx bundle {bundle.version}",
        )
    return str(commit.commit_url)


def _client(wanted: str) -> ModuleType:
    try:
        import huggingface_hub
    except ModuleNotFoundError as error:
        raise DependencyError(f"{wanted}: pip install 'podx[hub]', or give a folder that podx export wrote") from error
    return huggingface_hub


@contextmanager
def _named_errors(what: str) -> Iterator[None]:
    """The client's errors as one of podx."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        yield
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise BundleError(
            f"{what} ({type(error).__name__}: {reason}): check name, revision and network, log in with `hf auth login` "
            f"if it is private or yours to write, or give a folder that podx export wrote"
        ) from error


def _without_links(snapshot: Path) -> Path:
    """The files of a snapshot under a folder of its own: ONNX Runtime follows no link out of a graph's folder."""
    folder = snapshot.parent.parent / _LINKLESS / snapshot.name
    if not (folder / MANIFEST_FILE).is_file():
        with partial_folder(folder.with_name(f"{folder.name}-{os.getpid()}")) as partial:
            for path in snapshot.iterdir():
                if path.is_file():
                    _link(path.resolve(), partial / path.name)
            if not folder.exists():
                partial.rename(folder)
    return folder


def _link(source: Path, target: Path) -> None:
    """The same file under another name, where the disk can; else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
