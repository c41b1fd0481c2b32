"""``podx bench``: measure a bundle against eager PyTorch; bench accuracy, serving, scale and exactness."""

from __future__ import annotations

from podx_bench.accuracy_report.cli import accuracy_command
from podx_bench.certainty import run as exactness
from podx_bench.cli.bench import bench
from podx_bench.cli.group import group_of
from podx_bench.scale_cli import bench_scale
from podx_bench.service_cli import bench_service

app = group_of(
    bench, {"accuracy": accuracy_command, "serving": bench_service, "scale": bench_scale, "exactness": exactness}
)
