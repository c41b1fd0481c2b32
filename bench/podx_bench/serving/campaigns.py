"""What is done to a server by clients that ask well-formed questions."""

from __future__ import annotations

import asyncio
import json
import math
import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median

from podx_bench.harness.child import Child, EngineError, Tell, thread_environment
from podx_bench.serving.client import (
    NO_ANSWER,
    OK,
    REFUSED,
    Connection,
    Log,
    closed_loop,
    lasting,
    open_loop,
    run,
    written,
)
from podx_bench.serving.records import (
    CampaignRecord,
    Check,
    LoadRecord,
    ServingOptions,
    at_least,
    at_most,
    none,
)
from podx_bench.serving.server import KEY, QUIT_S, Served
from podx_bench.workload.work import WorkItem

FULL_BATCHES = "podx_bench.serving.server:FullBatches"
RECOMMEND = "/v1/recommend"
USUAL_CLIENTS = 64
"""By whom capacity is measured, and the throughput that has a bound."""
CLIENTS_AT_THE_END = 32
SOAK, OVERLOAD = 0.8, 5.0
"""Questions a second ÷ what the server can answer."""
WARM_UP_S, PART_S = 60.0, 30.0
STILL_S = 1.0
"""Clients that ask so late stood still, as a process that is stopped does; such a part of the soak is void."""
CONNECTIONS = 1024
LATE = 504
PATIENT_MS = 30_000
"""Deadline of requests where none may be late: all clients are to be answered, or the machine may be busy."""
GROWTH = "growth of memory after warm-up, MB"
MOST_GROWTH_MB = 20.0
BURST, LEAVERS = 256, 76
"""Clients that ask at once, and those of them that leave."""
LEAVE_AFTER_S, LOOK_S = 0.2, 0.005


@dataclass(frozen=True)
class Ground:
    """What every campaign needs.

    Attributes:
        asked: the requests that clients take turns with.
        tell: told what is being done.
    """

    bundle: Path
    asked: Sequence[WorkItem]
    options: ServingOptions
    tell: Tell

    @cached_property
    def requests(self) -> list[bytes]:
        """For ``/v1/recommend``."""
        return [written(RECOMMEND, self.body(item), KEY) for item in self.asked]

    def body(self, item: WorkItem) -> dict[str, object]:
        """A request as JSON."""
        return {"user": item.user, "k": self.options.k, "history": item.items, "exclude": item.exclude}

    def served(self, *flags: str, bundle: Path | None = None) -> Served:
        """A server of the bundle. ``flags``: of ``podx serve``, beside those that the options name."""
        asked = self.options
        timeout_ms = asked.timeout_ms if asked.judged else PATIENT_MS
        usual = {
            "device": asked.device,
            "threads": asked.threads,
            "max-batch": asked.max_batch,
            "timeout-ms": timeout_ms,
        }
        named = [word for name, value in usual.items() for word in (f"--{name}", str(value))]
        return Served(bundle or self.bundle, [*named, *flags], self.requests[0])

    def capacity(self, server: Served) -> float:
        """Answers a second that :data:`USUAL_CLIENTS` clients get, when the server is warm."""
        self.tell("capacity")
        for _ in range(2):
            log = run(closed_loop(server.port, self.requests, USUAL_CLIENTS, lasting(self.options.size.load_s)))
        if not log.rate:
            raise EngineError("the server answers none of its clients in time: allow it more with --timeout-ms")
        return log.rate


def load(ground: Ground) -> CampaignRecord:
    """Numbers of clients, each beside full batches of ``recommend_batch`` in the same turn."""
    options, size, requests = ground.options, ground.options.size, ground.requests
    turns: dict[int, list[LoadRecord]] = {clients: [] for clients in options.clients}
    full = Child(
        FULL_BATCHES, ground.bundle, options.device, options.threads, ground.asked, options.max_batch, options.k,
        name="full batches", advice="make room", environment=thread_environment(options.threads),
    )  # fmt: skip
    errors = 0
    with ground.served("--timeout-ms", str(PATIENT_MS)) as server, full:
        ground.capacity(server)
        for _ in range(size.rounds):
            for clients, records in turns.items():
                ground.tell(f"load: {clients} clients")
                rate: float = full.call("rate", size.load_s / 2, returns=float)
                before, busy = server.metrics(), time.process_time()
                log = run(closed_loop(server.port, requests, clients, lasting(size.load_s)))
                cores, during = (time.process_time() - busy) / log.seconds, server.metrics(before)
                batch = during["podx_batch_size_sum"] / during["podx_batch_size_count"]
                errors += log.errors
                p50, p99 = log.percentile(50), log.percentile(99)
                records.append(LoadRecord(clients, len(log), log.rate, log.rate / rate, p50, p99, batch, cores))
    measured = tuple(_median(records) for records in turns.values())
    usual = next((record for record in measured if record.clients == USUAL_CLIENTS), measured[-1])
    bound = at_least(f"answers of {usual.clients} clients ÷ full batches", usual.ratio, 0.85, ground.options.judged)
    return CampaignRecord("load", 0, (bound, none("errors", errors)), measured)


def _median(records: Sequence[LoadRecord]) -> LoadRecord:
    """Of several turns, figure by figure; requests are those of all."""
    columns = {name: median(getattr(r, name) for r in records) for name in LoadRecord.__annotations__}
    total = sum(record.requests for record in records)
    return LoadRecord(**{**columns, "clients": records[0].clients, "requests": total})


def soak(ground: Ground) -> CampaignRecord:
    """A long time at 80 % of capacity."""
    seconds = ground.options.size.soak_s if ground.options.soak_minutes is None else 60 * ground.options.soak_minutes
    parts = max(5, round(seconds / PART_S))
    logs, void = list[Log](), 0
    with ground.served() as server:
        rate = SOAK * ground.capacity(server)
        _questions(ground, server, rate, min(seconds, WARM_UP_S))
        before = server.rss_mb
        while len(logs) < parts:
            ground.tell(f"soak: part {len(logs) + 1} of {parts}")
            log = _questions(ground, server, rate, seconds / parts, STILL_S)
            if log.stood_still:
                void += 1
                _questions(ground, server, rate, min(seconds, WARM_UP_S) / 10)
            else:
                logs.append(log)
        growth = server.rss_mb - before
    p99 = [log.percentile(99) for log in logs]
    first, last = median(p99[: parts // 5]), median(p99[-(parts // 5) :])
    late = sum(log.count(REFUSED) + log.count(LATE) + log.unsent for log in logs)
    checks = (
        Check("minutes", seconds / 60),
        Check("parts of it", parts),
        Check("parts left out, in which the clients stood still", void),
        Check("questions a second", rate),
        none("errors", sum(log.errors for log in logs) - late),
        at_most("refused, too late or never sent", late, 0, ground.options.judged),
        at_most(GROWTH, growth, MOST_GROWTH_MB, ground.options.judged),
        Check("p99 of the first fifth, ms, median of its parts", first),
        at_most("p99 of the last fifth ÷ the first", last / first if first else 0.0, 1.2, ground.options.judged),
    )
    return CampaignRecord("soak", 0, checks)


def overload(ground: Ground) -> CampaignRecord:
    """Five times the capacity."""
    with ground.served() as server:
        peak = ground.capacity(server)
        _questions(ground, server, OVERLOAD * peak, ground.options.size.overload_s / 3)
        before = server.rss_mb
        ground.tell("overload")
        log = _questions(ground, server, OVERLOAD * peak, ground.options.size.overload_s)
        growth = server.rss_mb - before
    sent, refused = len(log), log.count(REFUSED)
    checks = (
        Check("peak, answers a second", peak),
        Check("questions a second ÷ peak", (sent + log.unsent) / log.seconds / peak),
        Check("of them, never sent for want of a free connection", log.unsent / (sent + log.unsent)),
        at_least("answers a second ÷ peak", log.rate / peak, 0.9, ground.options.judged),
        Check("p99 of answers, ms", log.percentile(99)),
        at_most("p99 of refusals, ms", log.percentile(99, REFUSED), 20, ground.options.judged),
        Check("refused of those sent", refused / sent),
        none("answered with anything but 200, 429 and 504", sent - log.count(OK) - refused - log.count(LATE)),
        at_most(GROWTH, growth, MOST_GROWTH_MB, ground.options.judged),
    )  # fmt: skip
    return CampaignRecord("overload", 0, checks)


def _questions(ground: Ground, server: Served, rate: float, seconds: float, most_late_s: float = math.inf) -> Log:
    seed = ground.options.seed
    return run(open_loop(server.port, ground.requests, rate, seconds, CONNECTIONS, seed, most_late_s))


def stop(ground: Ground) -> CampaignRecord:
    """SIGTERM and kill -9 in turns under load, and each time a server that takes the port again."""
    lost, wrong, statuses, starts = Counter[signal.Signals](), 0, set[int](), list[float]()
    for number in range(2 * ground.options.size.stops):
        ground.tell(f"stop {number + 1} of {2 * ground.options.size.stops}")
        chosen = (signal.SIGTERM, signal.SIGKILL)[number % 2]
        with ground.served() as server:
            log = run(_ended(server, ground.requests, chosen, 0.5 + 0.1 * number))
            status = server.process.wait(QUIT_S)
            with ground.served("--port", str(server.port)) as again:
                starts.append(again.start_s)
        wrong += len(log) - log.count(OK) - log.count(NO_ANSWER)
        lost[chosen] += log.count(NO_ANSWER)
        statuses |= {status} if chosen is signal.SIGTERM else set()
    checks = (
        Check("servers ended under load", 2 * ground.options.size.stops),
        none("SIGTERM: accepted and not answered", lost[signal.SIGTERM]),
        none("SIGTERM: exit status", max(statuses)),
        Check("kill -9: cut off", lost[signal.SIGKILL]),
        none("answered with anything but 200", wrong),
        at_most("slowest start to the first answer, s", max(starts), 3, ground.options.judged),
    )
    return CampaignRecord("stop", 0, checks)


async def _ended(server: Served, requests: Sequence[bytes], number: signal.Signals, after_s: float) -> Log:
    clients = asyncio.create_task(closed_loop(server.port, requests, CLIENTS_AT_THE_END, lambda: True))
    await asyncio.sleep(after_s)
    server.process.send_signal(number)
    return await clients


def vanish(ground: Ground) -> CampaignRecord:
    """Clients that ask behind a long queue; 30 % of them leave before it is their turn."""
    room = ("--max-pending", "1000000", "--timeout-ms", "60000", "--max-body-kb", str(10**6))
    left, noticed, stayed, answered, computed = 0, 0, 0, 0, 0
    gone = f'podx_requests_total{{route="{RECOMMEND}",status="499"}}'
    with ground.served(*room) as server:
        ahead, bursts = int(ground.capacity(server)), 0
        while bursts < ground.options.size.bursts:
            ground.tell(f"vanish: burst {bursts + 1} of {ground.options.size.bursts} behind {ahead} questions")
            before = server.metrics()
            in_time, answers = run(_burst(ground, server.port, ahead))
            during = server.metrics(before)
            if not in_time:
                ahead *= 2
                continue
            bursts, left, stayed = bursts + 1, left + LEAVERS, stayed + ahead + BURST - LEAVERS
            noticed += int(during.get(gone, 0))
            computed += int(during["podx_batch_size_sum"])
            answered += answers
    checks = (
        Check("clients that left", left),
        none("left, and not noticed", left - noticed),
        none("computed for nobody", computed - answered),
        none("stayed, and not answered", stayed - answered),
    )
    return CampaignRecord("vanish", 0, checks)


async def _burst(ground: Ground, port: int, ahead: int) -> tuple[bool, int]:
    """Whether those who left did so before it was their turn, and how many of the others were answered."""
    requests, items = ground.requests, ground.asked
    queue = written(RECOMMEND, {"requests": [ground.body(items[n % len(items)]) for n in range(ahead)]}, KEY)
    before = asyncio.create_task(Connection(port).ask(queue))
    watch, empty = Connection(port), b"\npodx_queue_waiting 0"
    while not before.done() and empty in (await watch.ask(written("/metrics", key=KEY)))[1]:
        await asyncio.sleep(LOOK_S)  # its rows enter together, when all are read
    watch.close()
    leaving = [Connection(port) for _ in range(LEAVERS)]
    asked = [requests[number % len(requests)] for number in range(BURST)]
    staying = [asyncio.create_task(Connection(port).ask(request)) for request in asked[LEAVERS:]]
    for connection, request in zip(leaving, asked, strict=False):
        await connection.send(request)
    await asyncio.sleep(LEAVE_AFTER_S)
    for connection in leaving:
        connection.close()
    await asyncio.sleep(LEAVE_AFTER_S)
    in_time = not before.done()
    status, body = await before
    answered = sum("items" in row for row in json.loads(body)["answers"]) if status == OK else 0
    return in_time, answered + sum([(await answer)[0] == OK for answer in staying])
