"""One run of ``podx bench serving``: bundle and dataset in, ``serving.json`` out."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import msgspec

from podx.bundle.bundle import Bundle
from podx.decoding.options import DEFAULT_BEAMS
from podx.errors import ConfigError
from podx.text.templates import Task
from podx_bench.harness.child import Tell
from podx_bench.harness.environment import describe
from podx_bench.serving.campaigns import Ground, load, overload, soak, stop, vanish
from podx_bench.serving.fuzzing import bundles, library, schema
from podx_bench.serving.records import SERVING_FILE, CampaignRecord, ServingOptions, ServingResults
from podx_bench.serving.swapping import swap
from podx_bench.workload.inputs import dataset_facts, model_facts, require_match
from podx_bench.workload.scenarios import build_workload, choose_tasks
from podx_train.data.dataset import Dataset

RUN: Mapping[str, Callable[[Ground], CampaignRecord]] = {
    campaign.__name__: campaign for campaign in (load, soak, overload, swap, stop, vanish, schema, bundles, library)
}
USERS = 1024
"""Whose requests clients take turns with."""


def run_serving(
    bundle_path: Path, data: Path, out: Path, options: ServingOptions, tell: Tell = lambda _: None
) -> ServingResults:
    """Run campaigns, and write ``serving.json`` into ``out`` after each.

    Raises:
        ConfigError: the model was not trained for next items, or bundle and dataset do not belong together.
        DataError, BundleError: what was given cannot be read. EngineError: a process does not start, or died.
        DependencyError: schemathesis is asked for and not installed.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file: choose another --out")
    bundle, dataset = Bundle.load(bundle_path), Dataset.load(data)
    require_match(bundle, dataset)
    choose_tasks(bundle, dataset, (Task.SEQUENTIAL,))
    asked = build_workload(Task.SEQUENTIAL, dataset, bundle, USERS, options.seed).requests
    ground = Ground(bundle_path, asked, options, tell)
    results = ServingResults(
        environment=describe(options.device, options.threads),
        options=msgspec.to_builtins(options) | {"beams": DEFAULT_BEAMS},
        model=model_facts(bundle),
        dataset=dataset_facts(dataset, data),
        records=(),
    )
    gc.freeze()  # what is imported here is not looked through for garbage while clients count milliseconds
    for name in options.campaigns:
        start = time.perf_counter()
        record = replace(RUN[name](ground), seconds=time.perf_counter() - start)
        results = replace(results, records=(*results.records, record))
        SERVING_FILE.write(out, results)
    return results
