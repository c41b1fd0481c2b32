"""The fenced blocks of the documents, and what stands around them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
_DOCS = (
    "index",
    "start",
    "recipes",
    "serving",
    "layouts",
    "performance",
    "accuracy",
    "formats",
    "architecture",
    "decisions",
)
PAGES = ("README.md", "CONTRIBUTING.md", "DESIGN.md", "examples/README.md", *(f"docs/{name}.md" for name in _DOCS))

_FENCE = re.compile(r"^\s*```(\w*)\s*$")
_COMMENT = re.compile(r"^\s*<!-- (.*) -->\s*$")
NOT_RUN = "not run: "
TRAINED = "output of a trained model"
"""A comment that begins so stands before an output whose ids, scores and sentences another training does not repeat."""


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: path in the repository. line: number of its first line of text.
        language: what the fence says. text: its lines.
        comment: the HTML comment just before it, or "".
        output: the block of ``text`` that follows it with nothing between, which shows what it prints; None: none.
    """

    page: str
    line: int
    language: str
    text: str
    comment: str
    output: Block | None = None

    @property
    def reason(self) -> str | None:
        """Why it is not run; None: it is."""
        return self.comment.removeprefix(NOT_RUN) if self.comment.startswith(NOT_RUN) else None

    @property
    def varies(self) -> bool:
        """Whether this output is that of a trained model, whose weights differ from run to run."""
        return self.comment.startswith(TRAINED)


def blocks(page: str) -> list[Block]:
    """All fenced blocks of a page in order, each output at the block that prints it."""
    found: list[tuple[Block, int]] = []  # a block and the number of its last line
    lines = (REPOSITORY / page).read_text(encoding="utf-8").splitlines()
    place = 0
    while place < len(lines):
        fence = _FENCE.match(lines[place])
        if fence is None:
            place += 1
            continue
        end = next(number for number in range(place + 1, len(lines)) if lines[number].strip() == "```")
        text = "\n".join(lines[place + 1 : end])
        found.append((Block(page, place + 2, fence[1], text, _comment_before(lines, place)), end))
        place = end + 1
    return _with_outputs(found, lines)


def _comment_before(lines: list[str], place: int) -> str:
    match = _COMMENT.match(lines[place - 1]) if place else None
    return match[1] if match else ""


def _with_outputs(found: list[tuple[Block, int]], lines: list[str]) -> list[Block]:
    result: list[Block] = []
    last_end = -1
    for block, end in found:
        between = [line for line in lines[last_end + 1 : block.line - 2] if line.strip() and not _COMMENT.match(line)]
        if block.language == "text" and result and result[-1].output is None and not between:
            printed = result[-1]
            result[-1] = Block(printed.page, printed.line, printed.language, printed.text, printed.comment, block)
        else:
            result.append(block)
        last_end = end
    return result
