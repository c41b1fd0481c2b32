"""One run of ``podx bench-service``: bundle and dataset in, ``service.json`` out."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from podx import errors
from podx.bundle.bundle import Bundle
from podx.errors import ConfigError, PodxError
from podx_bench.harness.child import STDERR_TAIL, EngineError, thread_environment
from podx_bench.harness.environment import describe
from podx_bench.service import CheckRecord, ServiceOptions, ServiceRecord, ServiceResults
from podx_bench.service_worker import MARK
from podx_bench.workload.facts import dataset_facts, model_facts
from podx_bench.workload.matching import require_match
from podx_bench.workload.scenarios import build_workload, choose_tasks
from podx_bench.workload.work import write_work
from podx_train.data.dataset import Dataset

LEAST_USERS = 256
"""So that few requests repeat, however few are timed."""

Tell = Callable[[str], None]


def run_service(
    bundle_path: Path, data: Path, out: Path, options: ServiceOptions, tell: Tell = lambda _: None
) -> ServiceResults:
    """Measure in a process of its own and write ``service.json`` into ``out``.

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
    users = max(LEAST_USERS, options.requests, options.check)
    requests = build_workload(options.task, dataset, bundle, users, options.seed).requests
    records: list[ServiceRecord] = []
    check: CheckRecord | None = None
    with tempfile.TemporaryDirectory(prefix="podx-service-") as folder:
        work, plan = Path(folder) / "work.npz", Path(folder) / "plan.json"
        write_work(work, requests)
        content = {"bundle": str(bundle_path), "work": str(work), "options": options.as_json()}
        plan.write_text(json.dumps(content), encoding="utf-8")
        for message in listen(plan, options):
            if "doing" in message:
                tell(message["doing"])
            elif "record" in message:
                records.append(ServiceRecord.from_json(message["record"]))
            elif "check" in message:
                check = CheckRecord(**message["check"])
    results = ServiceResults(
        environment=describe(options.device, options.threads),
        options=options.as_json(),
        model=model_facts(bundle),
        dataset=dataset_facts(dataset, data),
        records=tuple(records),
        check=check,
    )
    results.save(out)
    return results


def listen(plan: Path, options: ServiceOptions) -> Iterator[dict[str, Any]]:
    """What the process says, line by line, until it ends; its errors are raised here."""
    with tempfile.TemporaryFile() as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "podx_bench.service_worker", str(plan)],
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=thread_environment(options.thread_count, spin=False),
            text=True,
            encoding="utf-8",
        )
        try:
            assert process.stdout is not None  # opened as a pipe
            for line in process.stdout:
                if line.startswith(MARK):
                    message = json.loads(line.removeprefix(MARK))
                    if "error" in message:
                        raise _error(message["error"], message["message"])
                    yield message
            status = process.wait()
        finally:
            process.kill()
            process.wait()
        if status:
            stderr.seek(0)
            tail = stderr.read().decode("utf-8", errors="replace")[-STDERR_TAIL:].strip()
            raise EngineError(
                f"the measured process died with status {status} (-9: killed, often for want of memory; then ask for "
                f"fewer --clients or --no-direct); what it said last:\n{tail or '(nothing)'}"
            )


def _error(name: str, message: str) -> PodxError:
    """The error that the process raised, as one of the same kind."""
    kind = getattr(errors, name, EngineError)
    return kind(message) if isinstance(kind, type) and issubclass(kind, PodxError) else EngineError(message)
