"""Nonsense for the server, damaged bundles, and random requests for the library."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import chain, pairwise
from operator import methodcaller
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

import podx
from podx import errors
from podx.bundle.bundle import Bundle
from podx.errors import DependencyError, PodxError, SwapError
from podx.recommender import Recommender
from podx.requests.types import RankRequest, Recommendation, RecommendRequest
from podx.server.forms import Failure
from podx.text.templates import Task
from podx_bench.harness.child import ChildDiedError, run_in_child, tell, thread_environment
from podx_bench.harness.options import usable_cores
from podx_bench.serving.bundles import damaged
from podx_bench.serving.campaigns import Ground
from podx_bench.serving.client import HOST, NO_ANSWER, OK, written
from podx_bench.serving.records import CampaignRecord, Check, none
from podx_bench.serving.server import KEY

Request = RecommendRequest | RankRequest
CHUNK = 500
BATCH, LONGEST = 256, 20
"""Requests of a call, and items of a history."""
SHARES = {"recommend": 0.4, "rank": 0.3, "explain": 0.12, "infer": 0.08, "reload": 0.01}
IDLE = 0.011
"""Of the requests, the share of each route that takes something, half of them right by the schema and half wrong; and
of each that takes nothing."""
BAD_REQUEST, FAILED = 400, 500
NAMED = {name for name, kind in vars(errors).items() if isinstance(kind, type)} | {"NotFound", "MethodNotAllowed"}
MOST_NOTES, MOST_LETTERS = 5, 300
DAY_S = 24 * 3600.0
PATIENT_S = 600
"""For an answer: a machine that does other work as well may let server and askers wait."""
MOST_ROWS = 16
"""Requests of a body. A body with one more is made up as well; to make up hundreds takes a third of a second."""
IDS, WITH_IDS, TEXT = 16, ("Recommend", "Rank", "Explain"), '"type": "string"'
"""Users and items that are named in made-up requests, and whose fields they are."""
SWAPPED = 10
"""One damaged bundle of so many is given to ``swap`` and not to ``load``."""


def in_child(function: Callable[..., Any], ground: Ground, *arguments: Any, count: Any, returns: Any) -> Any:
    """What a function of this module returns that is called in a process of its own, which a fault may end."""
    return run_in_child(
        f"{function.__module__}:{function.__name__}", ground.bundle, count, ground.options.seed, *arguments,
        returns=returns, name=function.__name__, advice="report it", tell=ground.tell, timeout=DAY_S,
        environment=thread_environment(ground.options.threads),
    )  # fmt: skip


def schema(ground: Ground) -> CampaignRecord:
    """Made-up requests for the server, right and wrong ones, from a process on each core."""
    count, askers = ground.options.cases or ground.options.size.cases, usable_cores()
    with ground.served("--timeout-ms", str(1000 * PATIENT_S), "--max-pending", str(MOST_ROWS)) as server:
        document = json.loads(server.ask(written("/openapi.json", key=KEY))[1])
        del document["security"]  # every request has the key
        returns, known = tuple[dict[str, int], list[str]], (document, server.port, KEY)
        ask = partial(in_child, ask_nonsense, ground, *known, count=count, returns=returns)
        with ThreadPoolExecutor(askers) as pool:
            counted, noted = zip(*pool.map(ask, [(number, askers) for number in range(askers)]), strict=True)
        alive = server.ask(ground.requests[0])[0] == OK
        said = server.close()
    statuses, notes = sum(map(Counter, counted), Counter[str]()), list(chain.from_iterable(noted))
    checks = (
        Check("requests", statuses.total()),
        *(Check(f"of them with status {status}", count) for status, count in sorted(statuses.items())),
        none("status 500 and above, errors without a name, and no answer", len(notes)),
        none("tracebacks in the server's log", said.count("Traceback")),
        none("servers that did not go on", int(not alive)),
    )
    return CampaignRecord("schema", 0, checks, notes=tuple(notes[:MOST_NOTES]))


def ask_nonsense(
    bundle: Path, count: int, seed: int, document: dict[str, Any], port: int, key: str, part: tuple[int, int]
) -> tuple[Counter[str], list[str]]:
    """Requests that schemathesis makes of ``/openapi.json``, half of them with ids that the bundle knows.

    ``count``: of all processes; ``part``: number of this one, and how many there are. Returns how many responses had
    each status, and what no response may be.
    """
    try:
        import hypothesis
        import requests
        import schemathesis
    except ImportError as error:
        raise DependencyError("the campaign schema needs schemathesis: pip install 'podx[bench]'") from error
    statuses, notes, chunks = Counter[str](), list[str](), list[tuple[Any, Any, int, int]]()
    session, url, head = requests.Session(), f"http://{HOST}:{port}", {"Authorization": f"Bearer {key}"}
    session.trust_env = False  # proxies

    def ask(case: Any) -> None:
        try:
            response = case.call(url, session, head, timeout=PATIENT_S)
            status, body = response.status_code, response.content
        except requests.RequestException as error:
            status, body = NO_ANSWER, repr(error).encode()
        statuses[str(status)] += 1
        if faulty(status, body):
            notes.append(
                f"{case.method} {case.path}, {str(case.body)[:MOST_LETTERS]}: {status}, {body[:MOST_LETTERS]!r}"
            )

    for described in (document, with_ids(document, Bundle.load(bundle))):
        for operation in map(methodcaller("ok"), schemathesis.openapi.from_dict(described).get_all_operations()):
            modes = list(schemathesis.GenerationMode)[: 2 if operation.body else 1]  # what reads nothing reads all
            share = SHARES.get(operation.path.rpartition("/")[2], IDLE) / len(modes) / 2
            firsts = range(0, max(1, round(count * share)), CHUNK)
            chunks += [(operation, mode, first, min(CHUNK, firsts.stop - first)) for mode in modes for first in firsts]
    for number, (operation, mode, first, size) in list(enumerate(chunks))[part[0] :: part[1]]:
        tell(f"schema: {operation.path}, {number} of {len(chunks)}")
        few = hypothesis.settings(
            max_examples=size, phases=[hypothesis.Phase.generate], deadline=None, database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        )  # fmt: skip
        made = hypothesis.given(case=operation.as_strategy(generation_mode=mode))
        hypothesis.seed(seed + first)(few(made(ask)))()
    return statuses, notes


def with_ids(document: dict[str, Any], bundle: Bundle) -> dict[str, Any]:
    """The document with ids of the bundle in the place of texts; a text made up is no id."""
    schemas = dict(document["components"]["schemas"])
    users, items = (
        json.dumps({"enum": [ids.raw(number + 1) for number in range(min(IDS, len(ids)))]})[1:-1]
        for ids in (bundle.users.ids, bundle.catalog.items)
    )
    for name in WITH_IDS:  # the first text of each is its user
        schemas[name] = json.loads(json.dumps(schemas[name]).replace(TEXT, users, 1).replace(TEXT, items))
    return {**document, "components": {**document["components"], "schemas": schemas}}


def faulty(status: int, body: bytes) -> bool:
    """Whether a response is neither an answer nor an error by its name."""
    if OK <= status < BAD_REQUEST:
        return False
    try:
        return status >= FAILED or msgspec.json.decode(body, type=Failure).type not in NAMED
    except (msgspec.DecodeError, UnicodeDecodeError):
        return True


# --- damaged bundles --------------------------------------------------------------------------------------------------


def bundles(ground: Ground) -> CampaignRecord:
    """Damaged bundles are loaded, in processes of their own, which a fault may end."""
    outcomes, faults = Counter[str](), list[str]()
    numbers = list(range(ground.options.cases or ground.options.size.bundles))
    while numbers:
        ground.tell(f"damaged bundles: {numbers[0]} and later")
        done = list[str]()
        try:
            in_child(try_damaged, replace(ground, tell=done.append), count=numbers[:CHUNK], returns=None)
        except ChildDiedError as error:
            done.append(f"!the process of bundle {numbers[len(done)]} died: {error}")
        outcomes.update(outcome for outcome in done if outcome[0] != "!")
        faults += [outcome[1:] for outcome in done if outcome[0] == "!"]
        numbers = numbers[len(done) :]
    checks = (
        Check("damaged bundles", sum(outcomes.values()) + len(faults)),
        *(Check(f"of them: {outcome}", count) for outcome, count in sorted(outcomes.items())),
        none("bundles that ended otherwise", len(faults)),
    )
    return CampaignRecord("bundles", 0, checks, notes=tuple(faults[:MOST_NOTES]))


def try_damaged(bundle: Path, numbers: list[int], seed: int) -> None:
    """Load damaged bundles and ask each once; tells of each what came of it, after a ``!`` where it should not."""
    whole = podx.load(bundle, threads=1)
    for number in numbers:
        with tempfile.TemporaryDirectory(prefix="podx-damaged-", dir=bundle.parent) as folder:
            broken = damaged(bundle, Path(folder, "b"), np.random.default_rng([seed, number]))
            try:
                outcome = _tried(whole, broken, swapped=number % SWAPPED == 0)
            except PodxError as error:
                outcome = type(error).__name__
            except Exception as error:
                outcome = f"!bundle {number}: {error!r}"
        tell(outcome)


def _tried(whole: Recommender, broken: Path, swapped: bool) -> str:
    """What came of a damaged bundle that loads."""
    if swapped:
        taker = podx.load(whole.bundle.path, threads=1, verify=False)
        version = taker.version
        try:
            taker.swap(broken)
        except SwapError:
            answers = taker.recommend(*_question(whole)) == whole.recommend(*_question(whole))
            return "SwapError" if answers and taker.version == version else "!the old bundle does not go on"
    else:
        taker = podx.load(broken, threads=1)
    catalog = taker.bundle.catalog.items
    items = [answer.item for answer in taker.recommend(*_question(taker))]
    right = 0 < len(items) == len(set(items)) and None not in map(catalog.number, items)
    return "answers" if right else f"!answers {items}"


def _question(recommender: Recommender) -> tuple[str, list[str]]:
    bundle = recommender.bundle
    return bundle.users.ids.raw(1), [bundle.catalog.items.raw(1)]


# --- the library ------------------------------------------------------------------------------------------------------


FAULTS = {
    "invalid": "not of the catalog, the allowed or the candidates",
    "repeated": "repeated",
    "excluded": "excluded",
    "seen": "seen",
    "missing": "fewer items than wanted and permitted",
    "unordered": "scores not numbers, or not descending",
}
"""What no answer may have."""


def library(ground: Ground) -> CampaignRecord:
    """Random requests: histories, exclusions, allowed items and candidates of every length, and numbers of answers."""
    count = ground.options.cases or ground.options.size.library
    found: dict[str, int] = in_child(ask_library, ground, count=count, returns=dict[str, int])
    counted = Check("requests", found["requests"]), Check("items that came back", found["items"])
    return CampaignRecord("library", 0, (*counted, *(none(said, found[name]) for name, said in FAULTS.items())))


def ask_library(bundle: Path, count: int, seed: int) -> Counter[str]:
    """Ask ``count`` random requests, in batches, and look at every answer."""
    recommender = podx.load(bundle)
    random, found, loaded = np.random.default_rng(seed), Counter[str](), recommender.bundle
    items, users = ([bytes(raw).decode() for raw in ids.raw_ids] for ids in (loaded.catalog.items, loaded.users.ids))
    listed = {item for item, there in zip(items, loaded.catalog.listed.tolist(), strict=True) if there}
    longest = min(LONGEST, loaded.manifest.max_history)
    ranks, one_pass = Task.TOPN in loaded.manifest.answered, loaded.manifest.one_pass

    def some(least: int, most: int, of: Sequence[str] = items) -> list[str]:
        """So many different ones."""
        chosen = random.choice(len(of), min(int(random.integers(least, most + 1)), len(of)), replace=False)
        return [of[place] for place in chosen.tolist()]

    def recommendation() -> RecommendRequest:
        allow = some(0, 2 * LONGEST) if random.random() < 0.3 else None
        return RecommendRequest(some(1, 1, users)[0], some(1, longest), some(0, LONGEST), allow)

    def ranking() -> RankRequest:
        candidates, history = some(1, 20), some(1, longest) if one_pass else None
        return RankRequest(some(1, 1, users)[0], candidates, some(0, 5, candidates), history)

    while found["requests"] < count:
        tell(f"library: {found['requests']:,} of {count:,}")
        rows, k, seen = range(min(BATCH, count - found["requests"])), int(random.integers(1, 31)), random.random() < 0.8
        if ranks and random.random() < 0.5:
            rankings = [ranking() for _ in rows]
            pairs: list[Any] = list(zip(rankings, recommender.rank_batch(rankings, k), strict=True))
        else:
            wanted = [recommendation() for _ in rows]
            pairs = list(zip(wanted, recommender.recommend_batch(wanted, k, exclude_seen=seen), strict=True))
        for request, answer in pairs:
            look(found, request, answer, k, seen, listed)
    return found


def look(
    found: Counter[str],
    request: Request,
    answer: Sequence[Recommendation],
    k: int,
    exclude_seen: bool,
    listed: set[str],
) -> None:
    """Count what is wrong with an answer of up to ``k`` items. ``listed``: items that may be recommended."""
    ranked = isinstance(request, RankRequest)
    among = request.candidates if isinstance(request, RankRequest) else request.allow
    allowed = listed if among is None else listed & set(among)
    excluded, seen = set(request.exclude), set() if ranked or not exclude_seen else set(request.history or ())
    items, scores = [each.item for each in answer], [each.score for each in answer]
    found["requests"] += 1
    found["items"] += len(items)
    found["invalid"] += sum(item not in allowed for item in items)
    found["repeated"] += len(items) - len(set(items))
    found["excluded"] += len(excluded.intersection(items))
    found["seen"] += len(seen.intersection(items))
    found["missing"] += min(k, len(allowed - excluded - seen)) - len(items)
    found["unordered"] += not (np.isfinite(scores).all() and all(a >= b for a, b in pairwise(scores)))
