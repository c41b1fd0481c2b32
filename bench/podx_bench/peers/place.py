"""Where the peers' environment is, and what is in it."""

from __future__ import annotations

import os
from importlib.metadata import distributions
from pathlib import Path

from podx.errors import ConfigError

VARIABLE = "PODX_PEERS"
FOLDER = ".venv-peers"
COMMAND = "make peers"
PACKAGES = ("ctranslate2", "numpy", "onnxruntime", "optimum", "optimum-onnx", "torch", "transformers")
CHECKOUT = Path(__file__).resolve().parents[3]
"""Where `make` puts environments, if podx runs from a checkout."""


def environment() -> Path:
    """Folder of the peers' environment: what the variable ``PODX_PEERS`` names, or ``.venv-peers`` in the checkout."""
    return Path(os.environ.get(VARIABLE) or CHECKOUT / FOLDER)


def interpreter() -> Path:
    """The Python of the peers' environment.

    Raises:
        ConfigError: there is no such environment.
    """
    python = environment() / "bin" / "python"
    if not python.is_file():
        raise ConfigError(
            f"the peers' environment is missing, there is no {python}: run `{COMMAND}` in the checkout, or set "
            f"{VARIABLE} to the folder of one, or leave the peers out of --engines"
        )
    return python


def versions() -> dict[str, str]:
    """Versions of the peers' libraries, by name; those that are not installed are left out."""
    folders = [str(folder) for folder in environment().glob("lib/python*/site-packages")]
    found = {one.metadata["Name"]: one.version for one in distributions(path=folders)}
    return {name: found[name] for name in PACKAGES if name in found}
