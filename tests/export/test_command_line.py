"""The command line as a user meets it, on a real bundle: answers, errors of one line, exit status 2."""

from __future__ import annotations

import json
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import podx
from podx import __version__, cli
from podx.requests.types import Recommendation


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run ``podx`` in this process; the exit status."""
    monkeypatch.setattr(sys, "argv", ["podx", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return int(stopped.value.code or 0)


def test_recommend_prints_items(
    trained_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    history = "item-1,item-8"
    common = ("recommend", trained_bundle, "--user", "user-1", "--history", history, "-k", "3", "--threads", "1")
    assert run(monkeypatch, *common, "--json") == 0
    answers = json.loads(capsys.readouterr().out)
    assert len({a["item"] for a in answers}) == 3
    assert not {a["item"] for a in answers} & set(history.split(","))
    assert run(monkeypatch, *common) == 0
    table = capsys.readouterr().out
    assert all(a["item"] in table for a in answers)
    assert run(monkeypatch, *common, "--exclude", answers[0]["item"], "--json") == 0
    assert answers[0]["item"] not in capsys.readouterr().out
    assert run(monkeypatch, *common, "--allow", "item-1,item-2", "--include-seen", "--json") == 0
    assert {a["item"] for a in json.loads(capsys.readouterr().out)} == {"item-1", "item-2"}


def test_rank_and_explain(
    trained_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "rank", trained_bundle, "--user", "user-1", "--candidates", "item-3,item-4", "--json") == 0
    assert {a["item"] for a in json.loads(capsys.readouterr().out)} == {"item-3", "item-4"}
    assert run(monkeypatch, "explain", trained_bundle, "--user", "user-1", "--item", "item-3", "--json") == 0
    explanation = json.loads(capsys.readouterr().out)
    assert run(monkeypatch, "explain", trained_bundle, "--user", "user-1", "--item", "item-3") == 0
    assert capsys.readouterr().out.strip() == explanation["text"].strip()


def test_explain_takes_every_option_of_the_search(
    trained_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"beams": 4, "groups": 2, "diversity_penalty": 0.5, "min_length": 3, "max_length": 6, "length_penalty": 0.0}
    options = podx.TextSearchOptions(**given, score_over="vocabulary", exhaustive=True)  # type: ignore[arg-type]
    flags = [part for name, value in given.items() for part in ("--" + name.replace("_", "-"), str(value))]
    flags += ["--score-over", "vocabulary", "--exhaustive"]
    assert run(monkeypatch, "explain", trained_bundle, "--user", "user-1", "--item", "item-3", "--json", *flags) == 0
    answer = json.loads(capsys.readouterr().out)
    expected = podx.load(trained_bundle).explain("user-1", "item-3", options)
    assert (answer["text"], answer["score"]) == (expected.text, pytest.approx(expected.score))


LONG = ",".join(f"item-{n}" for n in range(1, 30))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("recommend", "--user", "nobody"), "not among the 1000 users"),
        (("recommend", "--user", "[/bold]"), "user '[/bold]' is not among"),
        (("recommend", "--user", "user-1", "--history", "nothing"), "not in the catalog"),
        (("recommend", "--user", "user-1", "--history", ""), "is empty"),
        (("recommend", "--user", "user-1", "--history", LONG), "keep-last"),
        (("recommend", "--user", "user-1", "--device", "cuda"), "podx[gpu]"),
        (("recommend", "--user", "user-1", "--device", "tpu"), "auto, cpu or cuda"),
        (("recommend", "--user", "user-1", "-k", "0"), "at least 1"),
        (("rank", "--user", "user-1", "--candidates", ""), "empty"),
        (("rank", "--user", "user-1", "--candidates", "item-3,item-3"), "twice"),
        (("explain", "--user", "user-1", "--item", "item-3", "--diversity-penalty", "-1"), "diversity_penalty"),
        (("explain", "--user", "user-1", "--item", "item-3", "--beams", "4"), "multiple of groups"),
    ],
)
def test_bad_input_is_one_line_and_status_two(
    arguments: tuple[str, ...],
    expected: str,
    trained_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command, *rest = arguments
    assert run(monkeypatch, command, trained_bundle, *rest) == 2
    printed = capsys.readouterr()
    assert expected in printed.err
    assert "Traceback" not in printed.err
    assert printed.out == ""


def test_ids_that_look_like_markup_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    long = "B" * 200
    cli._show("next for [/bold]", [Recommendation("[red]x[/nope]", -1.0), Recommendation(long, -2.0)], as_json=False)
    printed = capsys.readouterr().out
    assert "next for [/bold]" in printed and "[red]x[/nope]" in printed
    assert printed.count("B") == len(long)  # folded, not cut


def test_a_folder_that_cannot_be_written_is_one_line_too(
    untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("no folder")
    assert run(monkeypatch, "export", untrained, "--out", tmp_path / "file" / "bundle") == 2
    printed = capsys.readouterr().err
    assert "Not a directory" in printed and "check that the path is right" in printed
    assert "Traceback" not in printed


def test_keep_last_reads_a_long_history(
    trained_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--user", "user-1", "--history", LONG, "--keep-last", "--json")
    assert run(monkeypatch, "recommend", trained_bundle, *arguments) == 0
    assert not {a["item"] for a in json.loads(capsys.readouterr().out)} & set(LONG.split(","))


@pytest.mark.parametrize("command", ["recommend", "export", "bench", "train"])
def test_a_missing_folder_is_named(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if command == "bench":
        pytest.importorskip("sacrebleu", reason="the bench is not installed")
    rest = {
        "recommend": ("--user", "user-1"),
        "export": ("--out", tmp_path / "bundle"),
        "bench": ("--checkpoint", tmp_path / "c", "--data", tmp_path / "data", "--out", tmp_path / "out"),
        "train": ("--out", tmp_path / "checkpoint"),
    }
    assert run(monkeypatch, command, tmp_path / "missing", *rest[command]) == 2
    printed = capsys.readouterr()
    assert "missing" in printed.err
    assert "Traceback" not in printed.err
    assert list(tmp_path.iterdir()) == []


def test_help_lists_all_commands_without_importing_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(EntryPoint, "load", lambda self: pytest.fail(f"{self.name} was imported for the listing"))
    assert run(monkeypatch, "--help") == 0
    listing = capsys.readouterr().out
    assert all(name in listing for name in ("recommend", "rank", "explain", "data", "train", "export", "bench"))


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out.strip() == __version__


@pytest.mark.parametrize(("command", "extra"), [("train", "train"), ("data", "train"), ("export", "export")])
def test_a_missing_extra_is_named(
    command: str, extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(_: EntryPoint) -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(EntryPoint, "load", load)
    assert run(monkeypatch, command, "--help") == 2
    assert f"pip install 'podx[{extra}]'" in capsys.readouterr().err
