"""How fast ``podx score`` is: ``python bench/studies/scoring.py BUNDLE --out FILE.json [--rounds 1]``.

``batches`` is ``Recommender.recommend_batch`` at the same batch size for the same users, without Parquet and parts:
what the others are compared with. Every run is a process of its own, which says how many users a second it made with
loading, and without it: from when each worker had finished something. Runs take turns, the median counts. Runs with the
names of ``--runs`` that the file holds already are replaced, others stay. The runs ``x10`` have every user ten times:
memory is to stay what it is, and engines that take seconds to begin have something to do. Ray's need ``podx[ray]``.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

import podx
from podx.atomic import write_text
from podx.bundle.bundle import Bundle
from podx.scoring import score
from podx.scoring.run import ScoreOptions
from podx.text.batches import DEFAULT_BATCH_SIZE
from podx_bench.harness.environment import describe
from podx_bench.harness.resources import peak_rss_mb

BATCHES = "batches"
RUNS: dict[str, dict[str, Any]] = {
    "local": {},
    "local x10": {"times": 10},
    "local x10, 2 processes": {"times": 10, "workers": 2},
    "ray x10, 1 actor": {"times": 10, "engine": "ray", "workers": 1},
    "ray x10, 2 actors": {"times": 10, "engine": "ray", "workers": 2},
}


def ids_of(bundle: Path, count: int | None) -> list[str]:
    """The first users of a bundle who have a history."""
    users = Bundle.load(bundle).users
    known = [number for number in range(1, len(users) + 1) if len(users.history(number))]
    return [users.ids.raw(number) for number in known[:count]]


def measure(name: str, bundle: Path, count: int | None) -> dict[str, float]:
    """One run, in this process."""
    given = dict(RUNS.get(name, {}))
    ids = ids_of(bundle, count) * given.pop("times", 1)
    start = time.perf_counter()
    begun = [(0, start)]  # who was finished, and when
    workers = given.get("workers", 1)

    def progress(done: int, _: int) -> None:
        if done and len(begun) <= workers:
            begun.append((done, time.perf_counter()))

    if name == BATCHES:
        recommender = podx.load(bundle, tasks=["sequential"])
        requests = [podx.RecommendRequest(user) for user in ids]
        few = recommender.recommend_batch(requests[:DEFAULT_BATCH_SIZE])
        progress(len(few), len(ids))
        recommender.recommend_batch(requests[DEFAULT_BATCH_SIZE:])
    else:
        with tempfile.TemporaryDirectory() as folder:
            pq.write_table(pa.table({"user": ids}), Path(folder) / "users.parquet")
            start = time.perf_counter()
            out = Path(folder) / "lists.parquet"
            score(bundle, out, Path(folder) / "users.parquet", ScoreOptions(**given), progress=progress)
    end = time.perf_counter()
    before, since = begun[-1]
    return {
        "users": len(ids),
        "users_per_s": round((len(ids) - before) / (end - since), 1),
        "users_per_s_with_loading": round(len(ids) / (end - start), 1),
        "peak_rss_mb": round(peak_rss_mb(), 1),
    }


def _child(answer: Any, *arguments: Any) -> None:
    answer.send(measure(*arguments))


def apart(*arguments: Any) -> dict[str, float]:
    """One run, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(there, *arguments))
    process.start()
    there.close()
    try:
        result: dict[str, float] = here.recv()
    finally:
        process.join()
    return result


def summary(rounds: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Medians of each run, and its rate beside that of plain batches."""
    result = {name: {key: statistics.median(r[key] for r in runs) for key in runs[0]} for name, runs in rounds.items()}
    if BATCHES in result:
        for run in result.values():
            run["of_batches"] = round(run["users_per_s"] / result[BATCHES]["users_per_s"], 3)
    return result


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the results")
    parser.add_argument("--users", type=int, help="how many; default: all of whom a history is known")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--runs", nargs="+", choices=(BATCHES, *RUNS), default=(BATCHES, *RUNS))
    asked = parser.parse_args()
    bundle = Bundle.load(asked.bundle)
    kept = json.loads(asked.out.read_text()) if asked.out.exists() else {}
    rounds = {name: runs for name, runs in kept.get("rounds", {}).items() if name not in asked.runs}
    for _ in range(asked.rounds):
        for name in asked.runs:
            rounds.setdefault(name, []).append(apart(name, asked.bundle, asked.users))
            print(f"{name}: {rounds[name][-1]}", flush=True)
    results = {
        "bundle": bundle.version,
        "precision": bundle.manifest.precision,
        "items": len(bundle.catalog),
        "batch_size": DEFAULT_BATCH_SIZE,
        "environment": describe("cpu", 0),
        "summary": summary(rounds),
        "rounds": rounds,
    }
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(asked.out, json.dumps(results, indent=1) + "\n")
    for name, run in results["summary"].items():
        print(f"{name:24} {run['users_per_s']:8.1f} users/s {run.get('of_batches', float('nan')):6.2f} of batches")


if __name__ == "__main__":
    main()
