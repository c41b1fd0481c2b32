"""``podx bench``: measure a bundle against eager PyTorch; bench accuracy, serving, scale and exactness."""

from __future__ import annotations

from podx_bench.cli.bench import bench
from podx_bench.cli.group import group_of
from podx_bench.cli.subcommands import accuracy, exactness, scale, serving

app = group_of(bench, {"accuracy": accuracy, "serving": serving, "scale": scale, "exactness": exactness})
