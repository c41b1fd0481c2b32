"""One run of ``podx bench serving``: bundle and dataset in, ``serving.json`` out."""

from __future__ import annotations

from pathlib import Path

import msgspec

from podx.bundle.bundle import Bundle
from podx.errors import ConfigError
from podx_bench.harness.child import Tell, run_in_child, thread_environment
from podx_bench.harness.environment import describe
from podx_bench.serving.records import SERVING_FILE, ServingOptions, ServingRecord, ServingResults
from podx_bench.workload.inputs import dataset_facts, model_facts, require_match
from podx_bench.workload.scenarios import build_workload, choose_tasks
from podx_train.data.dataset import Dataset

MEASURE = "podx_bench.serving.server:measure"
TIMEOUT_S = 24 * 3600.0
LEAST_USERS = 256
"""Few requests repeat, however few are timed."""


def run_serving(
    bundle_path: Path, data: Path, out: Path, options: ServingOptions, tell: Tell = lambda _: None
) -> ServingResults:
    """Measure in a process of its own and write ``serving.json`` into ``out``.

    Raises:
        ConfigError: the task is not in the bundle, or bundle and dataset do not belong together.
        DataError, BundleError: what was given cannot be read. DeviceError: the device is not there.
        EngineError: the process died.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file: choose another --out")
    bundle, dataset = Bundle.load(bundle_path), Dataset.load(data)
    require_match(bundle, dataset)
    choose_tasks(bundle, dataset, (options.task,))
    users = max(LEAST_USERS, options.requests)
    records: tuple[ServingRecord, ...] = run_in_child(
        MEASURE,
        bundle_path,
        build_workload(options.task, dataset, bundle, users, options.seed).requests,
        options,
        returns=tuple[ServingRecord, ...],
        name="the served recommender",
        advice="ask with fewer clients, or make room",
        environment=thread_environment(options.threads),
        tell=tell,
        timeout=TIMEOUT_S,
    )
    environment, asked = describe(options.device, options.threads), msgspec.to_builtins(options)
    facts = model_facts(bundle), dataset_facts(dataset, data)
    results = ServingResults(environment, asked, *facts, records)
    SERVING_FILE.write(out, results)
    return results
