"""Writes what a peer loads. Runs in the peers' environment, which has the peer's library."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

MODULES = {
    "ctranslate2": "podx_bench.peers.ctranslate",
    "ctranslate2-int8": "podx_bench.peers.ctranslate",
    "optimum": "podx_bench.peers.optimum_ort",
    "ort-beamsearch": "podx_bench.peers.beamsearch",
}
"""Peer → module with its ``convert(name, plain, out)`` and ``open_search(name, plan)``."""


def convert(name: str, plain: Path, out: Path) -> None:
    """Convert a plain T5 for one peer, into the empty folder ``out``."""
    import_module(MODULES[name]).convert(name, plain, out)
