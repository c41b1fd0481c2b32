"""Other bundles under way: nothing is dropped, no answer mixes two, and broken ones are refused."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

import podx
from podx.bundle.bundle import CATALOG_FILE
from podx.bundle.manifest import MANIFEST_FILE
from podx.bundle.signature import WEIGHTS_FILE
from podx.requests.types import Recommendation
from podx.server.forms import Items
from podx.text.templates import Task
from podx_bench.engines.runtime import list_requests
from podx_bench.serving.bundles import linked, put, renamed, sign
from podx_bench.serving.campaigns import Ground
from podx_bench.serving.client import OK, Connection, closed_loop, run, written
from podx_bench.serving.records import CampaignRecord, Check, none
from podx_bench.serving.server import KEY, Served

CLIENTS = 16
EVERY = 10
"""One bundle of so many is broken."""
TOLERANCE = 1e-4
"""Of scores: the batch's size may change the order in which a product is summed."""
BAD_REQUEST = 400
BUNDLES = "first", "second"


class Judged:
    """Counts answers that are those of no bundle, or of another than they name.

    ``expected``: the right ones, by version.
    """

    def __init__(self, expected: Mapping[str, Sequence[Sequence[Recommendation]]]) -> None:
        self._expected = expected
        self.mixed, self.dropped, self.by_version = 0, 0, Counter[str]()
        self._read = msgspec.json.Decoder(Items).decode

    def __call__(self, number: int, status: int, body: bytes) -> None:
        """An answer to a request."""
        if status != OK:
            self.dropped += 1
            return
        answer = self._read(body)
        right = self._expected.get(answer.bundle, {number: ()})[number]
        same = [each.item for each in right] == [each.item for each in answer.items]
        pairs = zip(right, answer.items, strict=False)
        self.mixed += not (same and all(abs(a.score - b.score) <= TOLERANCE for a, b in pairs))
        self.by_version[answer.bundle] += 1


def swap(ground: Ground) -> CampaignRecord:
    """Clients that ask all the time, and whose every answer is compared, while the bundle is changed."""
    with tempfile.TemporaryDirectory(prefix="podx-shelf-", dir=ground.bundle.parent) as folder:
        shelf = Path(folder)
        linked(ground.bundle, shelf / BUNDLES[0])
        renamed(ground.bundle, shelf / BUNDLES[1])
        broken = _broken(shelf)
        expected = {}
        for name in BUNDLES:
            recommender = podx.load(shelf / name, tasks=[Task.SEQUENTIAL], threads=1)
            answers = recommender.recommend_batch(list_requests(Task.SEQUENTIAL, ground.asked), ground.options.k)
            expected[recommender.version] = answers
        judged, versions = Judged(expected), list(expected)
        with ground.served("--timeout-ms", "60000", bundle=shelf / BUNDLES[0]) as server:
            before = server.rss_mb
            wrong, refused = run(_swaps(ground, server, judged, versions, broken))
            growth = server.rss_mb - before
    checks = (
        Check("swaps", ground.options.size.swaps),
        Check("answers compared", judged.by_version.total()),
        Check("of them from the second bundle", judged.by_version[versions[1]]),
        none("requests dropped", judged.dropped),
        none("answers that mix bundles, or name another", judged.mixed),
        none("whole bundles refused, and broken ones taken or not named", wrong),
        Check("broken bundles refused", refused),
        Check("growth of memory, MB", growth),
    )
    return CampaignRecord("swap", 0, checks)


def _broken(shelf: Path) -> list[str]:
    """Bundles that must be refused: a changed byte, a lost file, half a manifest, weights that are not numbers."""
    names = ["changed", "lost", "half", "no-numbers"]
    changed, lost, half, no_numbers = (linked(shelf / BUNDLES[1], shelf / name) for name in names)
    content = bytearray((changed / CATALOG_FILE).read_bytes())
    content[len(content) // 2] ^= 1
    put(changed / CATALOG_FILE, bytes(content))
    (lost / WEIGHTS_FILE).unlink()
    put(half / MANIFEST_FILE, (half / MANIFEST_FILE).read_bytes()[:1000])
    put(no_numbers / WEIGHTS_FILE, b"\xff" * (no_numbers / WEIGHTS_FILE).stat().st_size)
    sign(no_numbers)
    return names


async def _swaps(
    ground: Ground, server: Served, judged: Judged, versions: Sequence[str], broken: Sequence[str]
) -> tuple[int, int]:
    """Swaps that went wrong, and broken bundles that were refused as they must be."""
    stopped, admin, wrong, refused, current = asyncio.Event(), Connection(server.port), 0, 0, 0
    loop = closed_loop(server.port, ground.requests, CLIENTS, lambda: not stopped.is_set(), judged)
    clients = asyncio.create_task(loop)
    for number in range(1, ground.options.size.swaps + 1):
        ground.tell(f"swap {number} of {ground.options.size.swaps}")
        spoilt = broken[number // EVERY % len(broken)] if number % EVERY == 0 else None
        name = spoilt or BUNDLES[1 - current]
        status, body = await admin.ask(written("/admin/reload", {"path": name}, KEY))
        if spoilt:
            right = status == BAD_REQUEST and msgspec.json.decode(body)["type"] == "SwapError"
            refused += right
        else:
            right = status == OK and msgspec.json.decode(body)["bundle"] == versions[1 - current]
            current = 1 - current
        wrong += not right
    stopped.set()
    await clients
    admin.close()
    return wrong, refused
