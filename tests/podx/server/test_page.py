"""The page, in a real Chromium. Needs ``apt-get install chromium`` and the Python package playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from podx.recommender import Recommender
from tests.podx.bundles import ITEM_IDS, USER_IDS, write_bundle
from tests.podx.server.client import Client
from tests.podx.server.conftest import Start

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is of the dev extra")
CHROMIUM = os.environ.get("PODX_CHROMIUM") or shutil.which("chromium") or ""
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="there is no chromium: apt-get install chromium")

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
PHONE, DESK = {"width": 360, "height": 740}, {"width": 1280, "height": 900}
NAME = {ord(letter): None for letter in "rgba() "}
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Open]:
    """Opens the page of a server; at the end nothing went elsewhere and the page's script has not failed."""
    contexts, requested, failures = list[Any](), set[str](), list[str]()

    def of(client: Client, viewport: Any = PHONE, scheme: str = "light") -> Any:
        context = browser.new_context(viewport=viewport, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("request", lambda request: requested.add(request.url.removeprefix(client.url)))
        page.on("pageerror", lambda error: failures.append(str(error)))
        page.goto(client.url)
        return page

    yield of
    for context in contexts:
        context.close()
    assert failures == []
    assert requested <= {"/", "/v1/bundle", "/v1/recommend", "/v1/explain", "data:,"}


def ask(page: Any, **fields: str) -> None:
    """Fill the form and send it."""
    for name, text in fields.items():
        page.fill(f"#{name}", text)
    page.click("text=Recommend")


def listed(page: Any) -> list[str]:
    """The items that are shown, when there are any."""
    page.locator("#items li").first.wait_for()
    return page.locator("#items .item").all_text_contents()


@pytest.mark.parametrize("viewport", [PHONE, DESK], ids=["phone", "desk"])
def test_a_user_gets_items_and_a_reason(client: Client, rec: Recommender, open_page: Open, viewport: Any) -> None:
    page = open_page(client, viewport)
    ask(page, user=USER_IDS[1], k="5")
    expected = rec.recommend(USER_IDS[1], k=5)
    assert listed(page) == [item.item for item in expected]
    assert page.locator("#items .score").all_text_contents() == [f"{item.score:.3f}" for item in expected]
    facts = page.text_content("#facts").split(" · ")
    assert facts[:3] == ["5 items", "not examined for exactness", "known user"]
    assert float(facts[3].removesuffix(" ms")) > 0 and facts[4] == f"bundle {rec.version}"
    page.click(f'[aria-label="Why {expected[1].item}?"]')
    page.locator("#items .why", has_text=" ms)").wait_for()
    assert rec.explain(USER_IDS[1], expected[1].item).text in page.text_content("#items .why")
    assert page.evaluate("document.documentElement.scrollWidth") == viewport["width"], "nothing sticks out"
    page.locator("#items button").last.scroll_into_view_if_needed()
    assert page.locator("form > button").bounding_box()["height"] >= 44, "large enough for a thumb"


def test_a_history_and_limits_are_read(client: Client, rec: Recommender, open_page: Open) -> None:
    page = open_page(client)
    best = rec.recommend(USER_IDS[2], ITEM_IDS[:3], 1)[0].item
    ask(page, user=USER_IDS[2], history=f"{ITEM_IDS[0]}, {ITEM_IDS[1]}\n{ITEM_IDS[2]},", k="2", exclude=best)
    assert listed(page) == [item.item for item in rec.recommend(USER_IDS[2], ITEM_IDS[:3], 2, [best])]
    assert best not in listed(page)


def test_what_is_wrong_is_shown_and_goes_away(client: Client, open_page: Open) -> None:
    page = open_page(client)
    ask(page, user="<b>nobody</b>")
    page.locator("#problem", has_text="UnknownUserError").wait_for()
    assert "<b>nobody</b>" in page.text_content("#problem") and page.locator("#problem b").count() == 0
    ask(page, user=USER_IDS[1])
    assert len(listed(page)) == 10 and page.text_content("#problem") == ""


def test_a_key_is_asked_for_where_one_is_needed(start: Start, open_page: Open, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("a-key")
    page = open_page(start(api_key_file=tmp_path / "keys"))
    page.locator("#key").wait_for()
    assert "AccessError" in page.text_content("#problem")
    ask(page, user=USER_IDS[1], key="a-key")
    assert len(listed(page)) == 10
    assert "60 items" in page.text_content("#bundle")


def test_without_the_task_no_reason_is_offered(
    start: Start, open_page: Open, tmp_path: Path, tokenizer_path: Path
) -> None:
    page = open_page(start(write_bundle(tmp_path / "bundle", tokenizer_path, tasks=["sequential"])))
    assert page.locator("#key").is_hidden()
    ask(page, user=USER_IDS[1])
    assert len(listed(page)) == 10 and page.locator("#items button").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_by_day_and_by_night(client: Client, open_page: Open, scheme: str) -> None:
    page = open_page(client, scheme=scheme)
    ask(page, user=USER_IDS[1])
    listed(page)
    text, soft, back = (luminance(color(page, where, what)) for where, what in (
        ("body", "color"), ("#facts", "color"), ("body", "backgroundColor")))  # fmt: skip
    assert (back > 0.5) == (scheme == "light")
    assert contrast(text, back) >= 7 and contrast(soft, back) >= 4.5, "WCAG 2: AAA for the text, AA for what is soft"
    button = [luminance(color(page, "form > button", what)) for what in ("color", "backgroundColor")]
    assert contrast(*button) >= 4.5


def color(page: Any, where: str, what: str) -> list[float]:
    """Red, green and blue, 0 to 1, of an element."""
    value = page.locator(where).evaluate(f"element => getComputedStyle(element).{what}")
    return [float(part) / 255 for part in value.translate(NAME).split(",")[:3]]


def luminance(rgb: list[float]) -> float:
    """Relative luminance (WCAG 2)."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in rgb]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: float, other: float) -> float:
    """Contrast ratio (WCAG 2), 1 to 21."""
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)
