"""What the documents promise about themselves: their length, their links, their chart, and the license."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.documents import PAGES, REPOSITORY
from tests.podx.test_layers import ROOMS

LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)")


def test_the_readme_is_read_in_three_minutes() -> None:
    lines = (REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    assert [(number, len(line)) for number, line in enumerate(lines, 1) if len(line) > 120] == []


@pytest.mark.parametrize("page", [*PAGES, "CHANGELOG.md"])
def test_links_lead_to_files(page: str) -> None:
    path = REPOSITORY / page
    targets = [link for link in LINK.findall(path.read_text(encoding="utf-8")) if "://" not in link]
    assert [target for target in targets if not (path.parent / target).exists()] == []


def test_every_page_is_in_the_list() -> None:
    assert {str(page.relative_to(REPOSITORY)) for page in (REPOSITORY / "docs").glob("*.md")} <= set(PAGES)


def test_paths_in_code_exist() -> None:
    """A path of the repository in backticks is there; upper case names stand for the reader's own."""
    pattern = re.compile(r"`((?:podx|train|export|bench|examples|tests|docs)/[\w./-]+)`")
    missing = {
        (page, path)
        for page in PAGES
        for path in pattern.findall((REPOSITORY / page).read_text(encoding="utf-8"))
        if not (REPOSITORY / path).exists()
    }
    assert missing == set()


def test_the_chart_is_that_of_the_committed_results() -> None:
    subprocess.run([sys.executable, str(REPOSITORY / "docs" / "speed_chart.py"), "--check"], check=True)


def test_the_license_is_there() -> None:
    text = Path(REPOSITORY / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


@pytest.mark.parametrize("package", ROOMS)
@pytest.mark.parametrize("page", ["DESIGN.md", "docs/architecture.md"])
def test_the_order_of_rooms_is_that_of_the_layer_test(page: str, package: str) -> None:
    order = " → ".join(room for room in ROOMS[package].split() if room != package)
    assert f"| `{package}` | {order} |" in (REPOSITORY / page).read_text(encoding="utf-8")
