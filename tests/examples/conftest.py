"""Requests of both tasks, what podx answers to them, and the files that a program in another language is given."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pytest

import podx
from podx import cli
from podx.requests.types import Recommendations
from tests.conftest import REPOSITORY
from tests.export.conftest import ITEMS, trained, trained_bundle, world

__all__ = ["trained", "trained_bundle", "world"]  # fixtures of the export tests

EXAMPLES = REPOSITORY / "examples"
EACH = 32
EXCLUDED, ALLOWED, CANDIDATES = 20, 15, 40
SCORE_TOLERANCE = 1e-4
TIME_LIMIT = 120.0


@dataclass(frozen=True)
class Case:
    """A bundle and 64 requests in the order in which they are written to the file.

    Attributes:
        requests: one a line; items, users: what ``podx ids`` wrote.
    """

    bundle: Path
    requests: Path
    items: Path
    users: Path
    sequential: list[podx.RecommendRequest]
    ranking: list[podx.RankRequest]

    def answers(self, k: int, beams: int) -> list[Recommendations]:
        """What podx answers to them."""
        recommender = podx.load(self.bundle, device="cpu", threads=1, search_graph="one")
        search = podx.ItemSearchOptions(beams=beams)
        first = recommender.recommend_batch(self.sequential, k, search=search)
        return [*first, *recommender.rank_batch(self.ranking, k, search)]


@pytest.fixture(scope="session")
def case(trained_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Sequential requests with exclusions, one of them with three allowed items and one with none; top-N requests."""
    random = np.random.default_rng(11)

    def some(count: int) -> list[str]:
        return [f"item-{number}" for number in random.choice(ITEMS, size=count, replace=False)]

    sequential = [podx.RecommendRequest(f"user-{n}", some(1 + n % 6), some(n % EXCLUDED)) for n in range(EACH - 3)]
    sequential += [podx.RecommendRequest(f"user-{n}", some(4), some(3), some(n)) for n in (0, 3, ALLOWED)]
    ranking = [podx.RankRequest(f"user-{n}", items := some(2 + n % CANDIDATES), items[: n % 3]) for n in range(EACH)]
    folder = tmp_path_factory.mktemp("requests")
    requests = folder / "requests.jsonl"
    requests.write_text("".join(f"{json.dumps(asdict(r))}\n" for r in (*sequential, *ranking)), encoding="utf-8")
    made = Case(trained_bundle, requests, folder / "items.txt", folder / "users.txt", sequential, ranking)
    cli.app(["ids", str(made.bundle), "--items", str(made.items), "--users", str(made.users)], standalone_mode=False)
    return made


def run(command: Sequence[str | Path], time_limit: float = TIME_LIMIT) -> str:
    """Standard output of a program that must succeed."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=time_limit, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return done.stdout


def assert_answers_as_podx(case: Case, program: Sequence[str | Path]) -> None:
    """The program's answers are podx's: with the graph's defaults, and with a wider search.

    In batches of 7, some have no allowed item at all, so that a width is 0, and one has requests of both tasks.
    """
    for k, beams, more in ((10, 20, ()), (25, 40, ("--k", "25", "--beams", "40", "--batch", "7"))):
        maps = ("--items", case.items, "--users", case.users)
        arguments = (case.bundle, case.requests, *maps, "--threads", "1", *more)
        answers = [json.loads(line) for line in run([*program, *arguments]).splitlines()]
        expected = case.answers(k, beams)
        assert [a["items"] for a in answers] == [[answer.item for answer in own] for own in expected]
        assert [a["exact"] for a in answers] == [own.exact for own in expected]
        differences = [
            abs(score - answer.score)
            for a, own in zip(answers, expected, strict=True)
            for score, answer in zip(a["scores"], own, strict=True)
        ]
        assert max(differences) < SCORE_TOLERANCE


def assert_bad_input_is_one_line(case: Case, program: Sequence[str | Path]) -> None:
    """What a user can cause is told in one line, with podx's exit status."""
    items, lines = ("--items", case.items), case.requests.with_name("strange.jsonl")
    lines.write_text(
        '{"user": "user-1", "history": ["item-1"], "exclude": ["\\u00fc\\ud83d\\ude00"]}\n', encoding="utf-8"
    )
    without = lines.with_name("without.jsonl")
    without.write_text('{"user": "user-1", "history": null}\n', encoding="utf-8")
    for arguments, words in (
        ((), "give a bundle folder"),
        ((case.bundle, case.requests), "--items"),
        ((case.bundle, case.items, *items), "items.txt, line 1"),
        ((case.bundle, lines, *items), '"ü😀" is no item of this bundle'),
        ((case.bundle, without, *items), "a history or candidates"),
        ((case.bundle, case.requests, *items, "--k", "30"), "--beams must not be below --k"),
        ((case.bundle, case.requests, *items, "--k", "0"), "--k must be a whole number"),
        ((case.requests.parent, case.requests, *items), "recommend_numbers.onnx"),
    ):
        done = subprocess.run(
            [*map(str, (*program, *arguments))], capture_output=True, text=True, timeout=TIME_LIMIT, encoding="utf-8"
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
        assert words in done.stderr
