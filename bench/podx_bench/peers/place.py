"""The peers' modules; where their environment is, and what is in it. Imported on both sides."""

from __future__ import annotations

import os
from importlib.metadata import distributions
from pathlib import Path

from podx.errors import ConfigError

VARIABLE = "PODX_PEERS"
MODULES = {
    "ctranslate2": "podx_bench.peers.ctranslate",
    "ctranslate2-int8": "podx_bench.peers.ctranslate",
    "ort-beamsearch": "podx_bench.peers.beamsearch",
    "openvino-t5": "podx_bench.peers.openvino_t5",
}
"""Peer that runs the plain T5 → module with its ``convert(name, plain, out)``, which writes into the empty folder
``out`` what its ``open_search(name, plan)`` loads."""
PACKAGES = (
    *("ctranslate2", "numpy", "onnxruntime", "openvino", "optimum", "optimum-intel", "optimum-onnx"),
    *("torch", "transformers"),
)
CHECKOUT = Path(__file__).resolve().parents[3]
"""Where `make` puts environments, if podx runs from a checkout."""


def environment() -> Path:
    """Folder of the peers' environment: what the variable ``PODX_PEERS`` names, or ``.venv-peers`` in the checkout."""
    return Path(os.environ.get(VARIABLE) or CHECKOUT / ".venv-peers")


def interpreter() -> Path:
    """The Python of the peers' environment.

    Raises:
        ConfigError: there is no such environment.
    """
    python = environment() / "bin" / "python"
    if not python.is_file():
        raise ConfigError(
            f"the peers' environment is missing, there is no {python}: run `make peers` in the checkout, or set "
            f"{VARIABLE} to the folder of one, or leave the peers out of --engines"
        )
    return python


def versions() -> dict[str, str]:
    """Versions of the peers' libraries, by name; those that are not installed are left out."""
    folders = [str(folder) for folder in environment().glob("lib/python*/site-packages")]
    installed = {package.metadata["Name"]: package.version for package in distributions(path=folders)}
    return {name: installed[name] for name in PACKAGES if name in installed}
