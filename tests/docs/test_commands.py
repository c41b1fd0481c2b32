"""Every command block of the documents is run on a small synthetic world, or says why not.

A block is not run when the HTML comment ``<!-- not run: reason -->`` stands just before it. Commands are run as they
are written but for :data:`LIMITS`, which make them small. A ``text`` block that follows a block shows what that prints,
and is compared.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from podx.cli import app
from tests.bench.world import engines_here
from tests.docs.documents import PAGES, Block, blocks

START = "docs/start.md"
LANGUAGES = {"sh", "python", "text", "json"}

FEW_USERS = "--users 8 --topn-users 4 --explanation-records 2 --unconstrained-users 2"
LIMITS: tuple[tuple[str, str, str], ...] = (
    # what a command begins with, what is left out of it, what is appended; of an option given twice, the last counts
    ("podx train", "--preset mini", "--epochs 1 --updates 6 --validation-users 8"),
    ("podx distill", "", "--epochs 1 --updates 4 --validation-users 8"),
    ("podx export", "", "--parity-users 2"),
    ("podx bench accuracy", "", f"{FEW_USERS} --timed-users 2 --rounds 1"),
    ("podx bench exactness", "", "--users 8 --beams 10,20"),
    ("podx bench serving", "", "--campaigns library --cases 100"),
    ("podx bench scale", "", "--items 1e3 --rounds 1 --calls 1"),
    ("podx bench ", "", "--engines podx --users 8 --speed-users 4 --batch-sizes 2 --rounds 1"),
)
SHARED = ("interactions.csv", "data", "checkpoint", "bundle")
"""What docs/start.md makes; the other pages go on from it."""


def has_commands(page: str) -> bool:
    """Whether anything on the page is run."""
    return any(block.reason is None and block.language in ("sh", "python") for block in blocks(page))


def limited(command: str) -> str:
    """The command with small limits."""
    for start, left_out, appended in LIMITS:
        if command.startswith(start):
            smaller = "--preset tiny" if left_out and left_out in command else ""
            return f"{command.replace(left_out, smaller)} {appended}"
    return command


class Service:
    """``podx serve`` as a process of its own, on any free port instead of the one that documents name."""

    shown = "localhost:8000/"
    process: subprocess.Popen[str] | None = None
    address = ""

    def start(self, command: str) -> str:
        """Begin, and return what it prints when it is ready."""
        self.end()
        run = [sys.executable, "-c", "from podx.cli import main; main()", *shlex.split(command)[1:], "--port", "0"]
        self.process = subprocess.Popen(run, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        printed = self.process.stdout.readline()
        self.address = re.search(r"http://(\S+)", printed)[1]  # type: ignore[index]
        return printed

    def end(self) -> None:
        """Let it end as users do."""
        if self.process is not None:
            self.process.terminate()
            assert self.process.wait(20) == 0


def run_shell(block: Block, service: Service) -> str:
    """Run the commands of a block one after the other; podx within this process, which has loaded torch already."""
    printed = []
    for line in re.sub(r"\\\n\s*", " ", block.text).splitlines():
        command = " ".join(shlex.split(line, comments=True)) and re.sub(r"\s+#.*$", "", line).strip()
        if not command:
            continue
        if command.startswith("podx serve "):
            printed.append(service.start(command))
        elif command.startswith("podx "):
            result = CliRunner().invoke(app, shlex.split(limited(command))[1:])
            assert result.exit_code == 0, f"{block.page}:{block.line}: {command}\n{result.output}\n{result.exception!r}"
            printed.append(result.output)
        else:
            command = command.replace(service.shown, service.address or service.shown)
            done = subprocess.run(["sh", "-euc", command], capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, f"{block.page}:{block.line}: {command}\n{done.stdout}{done.stderr}"
            assert not done.stdout.startswith('{"error"'), f"{block.page}:{block.line}: {command}\n{done.stdout}"
            printed.append(done.stdout)
    return "".join(printed)


def run_python(block: Block, names: dict[str, object]) -> str:
    """Run a block in the names of the blocks before it."""
    printed = io.StringIO()
    code = compile("\n" * (block.line - 1) + block.text, block.page, "exec")
    with contextlib.redirect_stdout(printed):
        exec(code, names)
    return printed.getvalue()


def masked(output: str) -> list[str]:
    """Lines without what differs from training to training: item ids, numbers, truth values, sentences."""
    for pattern, mark in ((r"\bi\d+\b", "ITEM"), (r"-?\d+\.\d+", "NUMBER"), (r"\b(True|False)\b", "TRUTH")):
        output = re.sub(pattern, mark, output)
    return [re.sub(r"^[a-z][a-z ,.'!]*$", "SENTENCE", line).rstrip() for line in output.strip().splitlines()]


def compare(block: Block, printed: str) -> None:
    """Check what a block printed against what the document shows."""
    shown = block.output
    if shown is None:
        assert block.language != "python" or not printed, f"{block.page}:{block.line} prints, and no output is shown"
    elif shown.varies:
        assert masked(printed) == masked(shown.text), f"{shown.page}:{shown.line}"
    else:
        assert printed.strip() == shown.text.strip(), f"{shown.page}:{shown.line}"


def run_page(page: str) -> None:
    """Run the blocks of a page in order."""
    names: dict[str, object] = {}
    service = Service()
    try:
        for block in blocks(page):
            if block.reason is None and block.language in ("sh", "python"):
                compare(block, run_shell(block, service) if block.language == "sh" else run_python(block, names))
    finally:
        service.end()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the commands of docs/start.md were run."""
    folder = tmp_path_factory.mktemp("world")
    with contextlib.chdir(folder):
        run_page(START)
    return folder


@pytest.mark.parametrize("page", PAGES)
def test_blocks_are_run_or_say_why(page: str) -> None:
    for block in blocks(page):
        where = f"{block.page}:{block.line}"
        assert block.language in LANGUAGES, f"{where}: a fence needs one of {sorted(LANGUAGES)}"
        assert block.reason != "", f"{where}: say why this is not run"


def test_start(world: Path) -> None:
    assert all((world / name).exists() for name in SHARED)


@pytest.mark.parametrize("page", [page for page in PAGES if page != START and has_commands(page)])
def test_commands(page: str, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if any("pyarrow" in block.text for block in blocks(page)):
        pytest.importorskip("pyarrow", reason="pyarrow (podx[score]) is not installed")
    (tmp_path / "interactions.csv").symlink_to(world / "interactions.csv")
    (tmp_path / "demo").symlink_to(world)  # make demo leaves the same folders there
    if page != "README.md":  # it makes its own
        for name in SHARED[1:]:
            (tmp_path / name).symlink_to(world / name)
    (tmp_path / "requests.jsonl").write_text('{"user": "u1", "history": ["i1", "i2"]}\n')
    monkeypatch.chdir(tmp_path)
    with engines_here():  # those of docs/start.md have processes
        run_page(page)
