"""``python -m podx_bench.peers.convert PEER PLAIN OUT``: writes what a peer loads. Runs in the peers' environment."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

MODULES = {
    "ctranslate2": "podx_bench.peers.ctranslate",
    "ctranslate2-int8": "podx_bench.peers.ctranslate",
    "optimum": "podx_bench.peers.optimum_ort",
    "ort-beamsearch": "podx_bench.peers.beamsearch",
}
"""Peer → module with its ``convert(name, plain, out)`` and ``open_search(name, plan)``."""


def main(arguments: list[str]) -> None:
    """Convert for one peer."""
    name, plain, out = arguments
    import_module(MODULES[name]).convert(name, Path(plain), Path(out))


if __name__ == "__main__":
    main(sys.argv[1:])
