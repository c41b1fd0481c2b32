"""Records by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import typer
from click.testing import Result
from typer.testing import CliRunner

from podx_bench.harness.records import AccuracyRecord, SpeedRecord, StreamRecord


def invoke(command: Callable[..., None], arguments: Sequence[str]) -> Result:
    """What a command prints when it is run in this process; it must succeed."""
    app = typer.Typer()
    app.command()(command)
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


def speed_record(engine: str, ms: float, batch_size: int = 1) -> SpeedRecord:
    """A record whose figures follow from one."""
    return SpeedRecord(
        engine=engine,
        task="sequential",
        batch_size=batch_size,
        p50_ms=ms,
        p95_ms=2 * ms,
        p99_ms=3 * ms,
        users_per_s=1000 / ms,
        ms_per_user=ms,
        peak_rss_mb=512.0,
        load_s=1.5,
        rounds=2,
        calls=4,
        ratio_vs_encode_once=200 / ms,
        ratio_vs_as_published=None,
        round_ms=(2 * ms, 2 * ms),
    )


def stream_record(engine: str, seconds: tuple[float, ...], ratio: float | None = None, **more: Any) -> StreamRecord:
    """2,048 users in one call, ten seconds."""
    return StreamRecord(
        engine=engine,
        task="sequential",
        users=2048,
        batch_size=32,
        seconds=10.0,
        users_per_s=204.8,
        peak_rss_mb=500.0,
        ratio_vs_encode_once=ratio,
        ratio_vs_as_published=None,
        round_s=seconds,
        **more,
    )


def ranking_record(engine: str, hr_10: float, users: int = 100) -> AccuracyRecord:
    """A record of the sequential task."""
    metrics = {"hr_1": 0.01, "hr_5": 0.02, "hr_10": hr_10, "ndcg_5": 0.015, "ndcg_10": 0.025}
    return AccuracyRecord(
        engine=engine,
        task="sequential",
        users=users,
        seconds=1.0,
        metrics={**metrics, "invalid": 0.0, "duplicate": 0.0},
    )


def write_peer(path: Path, users: list[int], lists: list[list[int]], **more: Any) -> Path:
    """A peer's file."""
    content = {"name": "SASRec", "seed": 1, "users": users, "lists": lists, "minutes": 2.5, "environment": {}}
    path.write_text(json.dumps(content | more))
    return path
