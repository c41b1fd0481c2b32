"""The campaigns of ``podx bench serving``: clients, what is judged, damaged bundles, and all short forms at once."""

from __future__ import annotations

import contextlib
import http.server
import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil
import pytest
from typer.testing import CliRunner

import podx
from podx.bundle.bundle import Bundle
from podx.errors import BundleError, ConfigError, DataError, PodxError
from podx.requests.types import RankRequest, Recommendation, RecommendRequest
from podx.server.forms import Items
from podx_bench.cli.app import app
from podx_bench.harness.environment import describe
from podx_bench.pages.render import html_report
from podx_bench.serving.bundles import damaged, linked, renamed
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
from podx_bench.serving.fuzzing import faulty, look
from podx_bench.serving.records import (
    CAMPAIGNS,
    FULL,
    SERVING_FILE,
    SHORT,
    CampaignRecord,
    Check,
    LoadRecord,
    ServingOptions,
    ServingResults,
    at_least,
    at_most,
    none,
    parse_campaigns,
)
from podx_bench.serving.report import serving_report, serving_tables
from podx_bench.serving.run import RUN, run_serving
from podx_bench.serving.swapping import Judged
from podx_export.pipeline import export_checkpoint
from podx_train.data.dataset import Dataset
from podx_train.options import Source, TrainOptions
from podx_train.training.train import train_model
from tests.podx.server.client import until

USERS, ITEMS, LENGTH = 20, 40, 5
Answer = list[Recommendation]


# --- clients ----------------------------------------------------------------------------------------------------------


class Stub(http.server.BaseHTTPRequestHandler):
    """Answers with the status and body that a request asks for; status 0: closes the connection."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not asked["status"]:
            self.close_connection = True
            return
        self.send_response(asked["status"])
        content = json.dumps(asked.get("body")).encode()
        for name, value in {"Content-Length": str(len(content)), **asked.get("headers", {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Of a stub."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()


def asking(status: int, **more: Any) -> bytes:
    return written("/", {"status": status, **more})


def test_a_connection_is_used_again_until_the_server_ends_it(port: int) -> None:
    async def several() -> list[tuple[int, bytes, bool]]:
        connection, asked = Connection(port), []
        for request in (asking(OK, body=1), asking(429), asking(OK, headers={"Connection": "close"}), asking(0)):
            asked.append((*await connection.ask(request), connection.closing))
        return asked

    first, refused, last, lost = run(several())
    assert first == (OK, b"1", False) and refused == (429, b"null", False)
    assert last == (OK, b"null", True) and lost[0] == NO_ANSWER


def test_clients_ask_in_turns_and_are_told_of_every_answer(port: int) -> None:
    told: list[tuple[int, int]] = []
    requests = [asking(OK), asking(REFUSED)]
    log = run(closed_loop(port, requests, 3, lambda: len(told) < 40, lambda n, status, _: told.append((n, status))))
    assert len(log) == len(told) >= 40 and set(told) == {(0, OK), (1, REFUSED)}
    assert (log.count(OK), log.errors) == (told.count((0, OK)), told.count((1, REFUSED)))
    assert log.rate == pytest.approx(log.count(OK) / log.seconds)
    cut = run(closed_loop(port, [asking(0)], 3, lasting(60)))
    assert len(cut) == cut.errors == cut.count(NO_ANSWER) == 3, "who is cut off does not ask again"


def test_questions_come_at_their_own_times(port: int) -> None:
    log = run(open_loop(port, [asking(OK)], rate=200, seconds=0.5, connections=50))
    assert 60 < len(log) + log.unsent < 140 and log.count(OK) == len(log)
    one = run(open_loop(port, [asking(OK)], rate=5000, seconds=0.2, connections=1))
    assert one.unsent > 0 and one.errors == one.unsent and not one.stood_still
    late = run(open_loop(port, [asking(OK)], rate=1e8, seconds=60, connections=1, most_late_s=0.1))
    assert late.stood_still and late.seconds < 30, "clients that cannot keep up are not the server's fault"


def test_percentiles_are_of_a_status() -> None:
    log = Log()
    for ms, status in [(10, OK), (20, OK), (500, REFUSED), (40, OK), (80, OK)]:
        log.add(log.begun, status)
        log._ms[-1] = ms
    assert log.percentile(50) == 30 and log.percentile(99, REFUSED) == 500
    assert log.percentile(50, NO_ANSWER) == 0.0


# --- what is judged ---------------------------------------------------------------------------------------------------


def test_an_answer_must_be_of_the_bundle_that_it_names() -> None:
    lists = {"a": [[Recommendation("x", -1.0)]], "b": [[Recommendation("y", -2.0)]]}
    judged = Judged(lists)

    def said(item: str, score: float, bundle: str, status: int = OK) -> tuple[int, int]:
        judged(0, status, msgspec.json.encode(Items([Recommendation(item, score)], True, "known", bundle)))
        return judged.mixed, judged.dropped

    assert said("x", -1.0, "a") == said("y", -2.00001, "b") == (0, 0)
    assert said("x", -1.0, "b") == (1, 0)
    assert said("x", -1.1, "a") == (2, 0)
    assert said("x", -1.0, "c") == (3, 0)
    assert said("x", -1.0, "a", 504) == (3, 1)
    assert judged.by_version == {"a": 2, "b": 2, "c": 1}


LISTED = {"a", "b", "c", "d"}


@pytest.mark.parametrize(
    ("request_", "items", "fault"),
    [
        (RecommendRequest("u", ["a"]), ["b", "c"], None),
        (RecommendRequest("u", ["a"]), ["a", "b"], "seen"),
        (RecommendRequest("u", ["a"], ["b"]), ["b", "c"], "excluded"),
        (RecommendRequest("u", ["a"]), ["b", "b"], "repeated"),
        (RecommendRequest("u", ["a"]), ["b", "?"], "invalid"),
        (RecommendRequest("u", ["a"], allow=["b", "c"]), ["b", "d"], "invalid"),
        (RecommendRequest("u", ["a"]), ["b"], "missing"),
        (RecommendRequest("u", ["a"], allow=["b", "a"]), ["b"], None),
        (RankRequest("u", ["b", "c"]), ["b", "d"], "invalid"),
        (RankRequest("u", ["b", "c"], ["b"], ["c"]), ["c"], None),
    ],
)
def test_every_fault_of_a_list_is_seen(request_: Any, items: list[str], fault: str | None) -> None:
    counts = Counter[str]()
    look(counts, request_, [Recommendation(item, -float(n)) for n, item in enumerate(items)], 2, True, LISTED)
    assert (counts.pop("requests"), counts.pop("items")) == (1, len(items))
    assert {name for name, count in counts.items() if count} == ({fault} if fault else set())


def test_scores_must_descend() -> None:
    found, answers = (
        Counter[str](),
        [Recommendation("b", -2.0), Recommendation("c", -1.0)],
    )
    look(found, RecommendRequest("u", ["a"]), answers, 2, True, LISTED)
    look(found, RecommendRequest("u", ["a"]), [Recommendation("b", float("nan"))] * 2, 2, True, LISTED)
    assert found["unordered"] == 2


@pytest.mark.parametrize(
    ("status", "body", "wrong"),
    [
        (200, {}, False),
        (404, {"type": "UnknownUserError"}, False),
        (504, {"type": "RequestTimeoutError"}, True),
        (400, {"type": "ValueError"}, True),
        (400, {}, True),
        (0, {}, True),
    ],
)
def test_only_named_errors_pass(status: int, body: dict[str, Any], wrong: bool) -> None:
    assert faulty(status, json.dumps({"error": "…", **body}).encode()) == wrong


# --- options, files and pages -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{"clients": ()}, {"clients": (0, 4)}, {"soak_minutes": 0.0}, {"max_batch": 0}, {"device": "tpu"}]
)
def test_options_out_of_range_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"--{next(iter(options)).replace('_', '-')}"):
        ServingOptions(**options)


def test_campaigns_are_chosen_by_name() -> None:
    assert parse_campaigns("stop, load") == ("load", "stop")
    for wrong in ("", "walk", "load,walk"):
        with pytest.raises(ConfigError, match="--campaigns must name some of load,soak"):
            parse_campaigns(wrong)
    assert tuple(RUN) == tuple(CAMPAIGNS) == ServingOptions().campaigns
    assert ServingOptions().size is FULL and ServingOptions(short=True).size is SHORT


def test_bounds() -> None:
    assert at_most("x", 20, 20).passed and not at_most("x", 20.1, 20).passed
    assert at_least("x", 0.9, 0.9).passed and not at_least("x", 0.89, 0.9).passed
    assert none("x", 0).passed and not none("x", 1).passed
    assert at_most("x", 99, 1, judged=False).passed is None


def canned(ratio: float = 0.9, short: bool = False) -> ServingResults:
    bound = at_least("answers of 64 clients ÷ full batches", ratio, 0.85, not short)
    loads = tuple(LoadRecord(n, 100, 80.0 + n, ratio, 9.0, 12.0, n / 2, 0.1) for n in (1, 64))
    return ServingResults(
        environment=describe("cpu", 2),
        options=msgspec.to_builtins(ServingOptions(short=short)) | {"beams": 20},
        model={"precision": "fp32", "parameters": 1000, "prompts": 3, "best_epoch": 4, "parity": {}},
        dataset={"name": "Beauty <b>", "scheme": "paper", "users": 22363, "items": 12101, "interactions": 198502},
        records=(
            CampaignRecord("load", 12.0, (bound, none("errors", 0)), loads),
            CampaignRecord("bundles", 3.0, (Check("damaged bundles", 40),), notes=("bundle 7: odd",)),
        ),
    )


def test_results_read_back_as_written(tmp_path: Path) -> None:
    assert SERVING_FILE.read(SERVING_FILE.write(tmp_path, canned())).records == canned().records


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot read"),
        ("[]", "no results of podx bench serving"),
        ('{"format": "podx-serving", "format_version": 1}', "format version 1"),
        ('{"format": "podx-serving", "format_version": 2, "records": [{}]}', "damaged"),
    ],
)
def test_foreign_files_are_named_errors(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / SERVING_FILE.name).write_text(text)
    with pytest.raises(DataError, match=message):
        SERVING_FILE.read(tmp_path / SERVING_FILE.name)


def test_the_report_says_which_bound_is_missed() -> None:
    assert serving_report(canned()).headline == "All bounds of 2 campaigns are kept."
    missed = serving_report(canned(ratio=0.7))
    assert missed.headline == "Of 2 campaigns, 1 miss a bound: load."
    assert "times are shown and not judged" in serving_report(canned(0.7, short=True)).headline
    tables = serving_tables(canned(ratio=0.7))
    assert [table.title for table in tables] == ["Load", "Load by number of clients", "Bundles"]
    assert tables[0].rows[0][1:] == ("0.7", "≥ 0.85", "NO") and tables[2].notes[-1] == "bundle 7: odd"
    page = html_report(missed)
    assert page.count("<svg") == 1 and "Beauty &lt;b&gt;" in page


# --- bundles, and the command -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(bundle, data) of a tiny untrained model."""
    folder = tmp_path_factory.mktemp("model")
    starts = np.random.default_rng(3).integers(0, ITEMS, size=(USERS, 1))
    items = (starts + 7 * np.arange(LENGTH)) % ITEMS + 1
    dataset = Dataset(
        items=items.astype(np.int32).ravel(),
        offsets=np.arange(0, USERS * LENGTH + 1, LENGTH, dtype=np.int32),
        user_ids=[f"user-{n}" for n in range(USERS)],
        item_ids=[f"item-{n}" for n in range(ITEMS)],
        scheme="paper",
    )
    dataset.save(folder / "data")
    options = TrainOptions(epochs=0, device="cpu", max_history=3)
    train_model(dataset, folder / "checkpoint", options, Source(preset="tiny", pieces=100))
    export_checkpoint(folder / "checkpoint", folder / "bundle", parity_users=2)
    return folder / "bundle", folder / "data"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_bundle_with_other_ids_answers_with_other_items(folders: tuple[Path, Path], tmp_path: Path) -> None:
    before = contents(folders[0])
    other = podx.load(renamed(folders[0], tmp_path / "other"), threads=1)
    same = podx.load(folders[0], threads=1)
    history = ["item-3", "item-10"]
    assert other.version != same.version
    ours, theirs = (each.recommend("user-1", history, k=5) for each in (same, other))
    assert [answer.item for answer in ours] != [answer.item for answer in theirs]
    assert contents(folders[0]) == before


def test_damaged_bundles_have_one_fault_and_the_whole_one_none(folders: tuple[Path, Path], tmp_path: Path) -> None:
    before, manifest = contents(folders[0]), "manifest.json"
    found = set()
    for number in range(60):
        spoilt = damaged(folders[0], tmp_path / str(number), np.random.default_rng(number))
        changed = {name for name, content in before.items() if contents(spoilt).get(name) != content}
        found |= changed
        assert len(changed - {manifest}) <= 1
        try:
            Bundle.load(spoilt)
        except PodxError:
            continue
        assert not changed or manifest in changed, "only what was signed anew passes its checksums"
    assert found == set(before) - {"README.md"}
    assert contents(folders[0]) == before


def test_a_graph_that_fits_its_checksum_and_not_the_bundle_is_named(folders: tuple[Path, Path], tmp_path: Path) -> None:
    from podx_bench.serving.bundles import put, sign

    odd = linked(folders[0], tmp_path / "odd")
    put(odd / "recommend.onnx", (odd / "encoder.onnx").read_bytes())
    sign(odd)
    with pytest.raises(BundleError, match="export"):
        podx.load(odd, threads=1)


def test_threads_share_one_recommender_and_its_graphs(folders: tuple[Path, Path]) -> None:
    items = [f"item-{number}" for number in range(ITEMS)]
    histories = [[items[(first + step) % ITEMS] for step in range(1 + first % 3)] for first in range(ITEMS)]

    def ask(asked: podx.Recommender | podx.Batcher, number: int) -> tuple[Answer, Answer]:
        user, first = f"user-{number % USERS}", number % ITEMS
        candidates = (items * 2)[first : first + 7]
        return asked.recommend(user, histories[first], k=5), asked.rank(user, candidates, k=3)

    serial = podx.load(folders[0], "cpu", threads=1)
    expected = [ask(serial, number) for number in range(200)]
    assert len({tuple(answer) for lists in expected for answer in lists}) > 1
    shared = podx.load(folders[0], "cpu", threads=1)
    with podx.Batcher(shared) as batcher:
        for asked, clients in ((shared, 16), (batcher, 64)):
            with ThreadPoolExecutor(clients) as pool:
                given = list(pool.map(lambda number, asked=asked: ask(asked, number), range(200)))
            for lists, found_lists in zip(expected, given, strict=True):
                for right, found in zip(lists, found_lists, strict=True):
                    assert np.allclose([r.score for r in right], [f.score for f in found], rtol=0, atol=1e-5)
                    assert [r.item for r in right] == [f.item for f in found]


def test_what_cannot_be_measured_is_named(folders: tuple[Path, Path], tmp_path: Path) -> None:
    bundle, data = folders
    with pytest.raises(ConfigError, match="is a file"):
        run_serving(bundle, data, bundle / "manifest.json", ServingOptions())
    with pytest.raises(BundleError):
        run_serving(tmp_path / "missing", data, tmp_path, ServingOptions())
    assert list(tmp_path.iterdir()) == []


def test_who_is_ended_ends_its_server(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, data = folders
    monkeypatch.setattr("tests.podx.server.client.PATIENCE_S", 120)  # it imports much
    arguments = ["serving", str(bundle), "--data", str(data), "--out", str(tmp_path / "out"), "--campaigns", "soak"]
    code = f"from podx_bench.cli.app import app; app({arguments!r})"
    campaigns = psutil.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)

    def serves(process: psutil.Process) -> bool:
        with contextlib.suppress(psutil.Error):  # of other children, which end meanwhile
            return "serve" in process.cmdline()
        return False

    def servers() -> list[psutil.Process]:
        return list(filter(serves, campaigns.children()))

    try:
        until(lambda: servers() and servers()[0].net_connections("tcp") != [])
        (server,) = servers()
    finally:
        campaigns.terminate()
        status = campaigns.wait(60)
    assert status != 0 and not server.is_running()


@pytest.mark.slow
def test_all_campaigns_in_short_keep_their_bounds(folders: tuple[Path, Path], tmp_path: Path) -> None:
    bundle, data = folders
    arguments = ["serving", str(bundle), "--data", str(data), "--out", str(tmp_path / "out"), "--short"]
    done = CliRunner().invoke(app, [*arguments, "--clients", "1,8"], catch_exceptions=False)
    results = SERVING_FILE.read(tmp_path / "out" / SERVING_FILE.name)
    wrong = [(record.name, check) for record in results.records for check in record.checks if check.passed is False]
    assert done.exit_code == 0 and not wrong, (wrong, [record.notes for record in results.records])
    assert [record.name for record in results.records] == list(CAMPAIGNS)
    figures = {record.name: {check.name: check.value for check in record.checks} for record in results.records}
    assert [load.clients for load in results.records[0].load] == [1, 8]
    assert figures["swap"]["broken bundles refused"] == SHORT.swaps // 10
    assert figures["swap"]["of them from the second bundle"] > 0
    assert figures["vanish"]["clients that left"] == SHORT.bursts * 76
    assert figures["bundles"]["damaged bundles"] == SHORT.bundles
    assert figures["library"]["requests"] == SHORT.library
    assert figures["schema"]["requests"] >= 0.8 * SHORT.cases
    assert "All bounds of 9 campaigns are kept" in (tmp_path / "out" / "report.md").read_text()
    assert str(tmp_path) not in (tmp_path / "out" / SERVING_FILE.name).read_text()
    assert not list(bundle.parent.glob("podx-*")), "what campaigns make is removed"
