"""Whether bundles answer as transformers does on the checkpoint, list by list and place by place.

``python bench/studies/oracle.py BUNDLE … --checkpoint CHECKPOINT --data DATA --out FILE.json`` asks every bundle and
``generate`` (held to the catalog, float32, one thread) for ten items for the same test users, seen items left out.
``--beams auto --oracle-beams 200`` compares the exact search with a wider one.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import podx
from podx.atomic import write_text
from podx.bundle.bundle import Bundle
from podx.decoding.items import TokenColumns
from podx.decoding.options import AUTO, ItemSearchOptions
from podx.text.templates import Task
from podx_bench.engines.runtime import list_requests
from podx_bench.harness.environment import describe
from podx_bench.workload.scenarios import build_workload
from podx_bench.workload.work import RequestReader, WorkItem
from podx_train.checkpoint.checkpoint import load_checkpoint
from podx_train.data.dataset import Dataset
from podx_train.eager.generation import EagerRecommender, SearchOptions

PLACES = 10
BATCH = 50
List = list[tuple[str, float]]
"""Raw item ids and scores, best first."""


def oracle_lists(checkpoint: Path, bundle: Bundle, requests: Sequence[WorkItem], beams: int) -> list[List]:
    """What transformers answers, scored as the bundle scores."""
    source, reader = load_checkpoint(checkpoint), RequestReader(bundle, Task.SEQUENTIAL)
    catalog, end = bundle.catalog, source.tokenizer.eos_id
    over = None if bundle.manifest.one_pass else TokenColumns.of_catalog(catalog.trie, end).output_tokens
    eager = EagerRecommender(source.model, source.tokenizer, catalog, score_tokens=over)
    search, lists = SearchOptions(num_beams=beams, num_return=PLACES), list[List]()
    for first in range(0, len(requests), BATCH):
        part = requests[first : first + BATCH]
        seen = [reader.items((*request.exclude, *request.items)) for request in part]
        found = eager.recommend(reader.batch(part), Task.SEQUENTIAL, search, excluded=seen)
        assert found.scores is not None  # the default
        for items, scores in zip(found.items, found.scores.tolist(), strict=True):
            lists.append([(catalog.items.raw(int(item)), s) for item, s in zip(items, scores, strict=True) if item])
    return lists


def bundle_lists(bundle: Path, requests: Sequence[WorkItem], beams: int | Any) -> tuple[list[List], float]:
    """What a bundle answers, and the share of answers proven to be the model's best."""
    recommender = podx.load(bundle, threads=1, tasks=[Task.SEQUENTIAL])
    asked = list_requests(Task.SEQUENTIAL, requests)
    found = recommender.recommend_batch(asked, PLACES, search=ItemSearchOptions(beams=beams))
    exact = float(np.mean([answer.exact is True for answer in found]))
    return [[(one.item, one.score) for one in answer] for answer in found], exact


def compared(ours: Sequence[List], theirs: Sequence[List]) -> dict[str, Any]:
    """Equal lists: the same items in the same places. Scores: mean log-probability of an item's tokens.

    ``largest_gap_where_unequal`` is that of the two scores at a place whose items differ: near 0, they are tied.
    """
    gaps = [
        max((abs(a[1] - b[1]) for a, b in zip(mine, other, strict=True) if a[0] != b[0]), default=0.0)
        for mine, other in zip(ours, theirs, strict=True)
        if [item for item, _ in mine] != [item for item, _ in other]
    ]
    pairs = [(dict(mine), dict(other)) for mine, other in zip(ours, theirs, strict=True)]
    shared = [len(mine.keys() & other.keys()) for mine, other in pairs]
    return {
        "users": len(ours),
        "equal_lists": len(ours) - len(gaps),
        "equal_sets": sum(mine.keys() == other.keys() for mine, other in pairs),
        "overlap": sum(shared) / sum(len(other) for _, other in pairs),
        "largest_gap_where_unequal": max(gaps, default=None),
        "largest_score_difference": max(abs(m[i] - o[i]) for m, o in pairs for i in m.keys() & o.keys()),
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the results")
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("--beams", default="20", help="of the bundles; or auto")
    parser.add_argument("--oracle-beams", type=int, default=20)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    bundle = Bundle.load(asked.bundles[0])
    requests = build_workload(Task.SEQUENTIAL, Dataset.load(asked.data), bundle, asked.users, seed=0).requests
    theirs = oracle_lists(asked.checkpoint, bundle, requests, asked.oracle_beams)
    beams, results = AUTO if asked.beams == AUTO else int(asked.beams), []
    for path in asked.bundles:
        ours, exact = bundle_lists(path, requests, beams)
        precision = Bundle.load(path, verify=False).manifest.precision
        results.append({"precision": precision, "exact": exact, **compared(ours, theirs)})
        print(json.dumps(results[-1]), flush=True)
    found = {"beams": beams, "oracle_beams": asked.oracle_beams, "environment": describe("cpu", 1), "bundles": results}
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(asked.out, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
