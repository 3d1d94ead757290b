"""The playgrounds as a person meets them: headless Chromium types a question and reads the answer."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Served
from playwright.sync_api import Page, expect, sync_playwright

CHROMIUM = shutil.which("chromium") or ""
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]
ARTEFACTS = Path(__file__).parent.parent / "artefacts"

pytestmark = [
    pytest.mark.models,
    pytest.mark.browser,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # Playwright's own pipes
]


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    if not CHROMIUM and not os.environ.get("CI"):
        pytest.skip("chromium is not installed (apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser.new_page(viewport={"width": 1100, "height": 820})
        browser.close()


def test_chat_playground_answers(page: Page, default_server: Served) -> None:
    """A question typed into the chat playground is answered there with its sources."""
    page.goto(default_server.url + "/")
    box = page.get_by_role("textbox").last
    box.fill("How often must an amateur station identify itself?")
    box.press("Enter")
    expect(page.get_by_text("47 CFR 97.119").first).to_be_visible(timeout=180_000)
    expect(page.get_by_text("10 minutes").first).to_be_visible()
    ARTEFACTS.mkdir(exist_ok=True)
    page.screenshot(path=ARTEFACTS / "chat-playground.png")
    assert (ARTEFACTS / "chat-playground.png").stat().st_size > 10_000


def test_default_playground_answers(page: Page, server: Served) -> None:
    """The default playground of /api/retrieve shows its form and runs it."""
    page.goto(server.url + "/api/retrieve/playground/")
    page.get_by_role("textbox").first.fill("amateur station identification")
    page.get_by_role("button", name="Start").click()
    expect(page.get_by_text("97.119").first).to_be_visible(timeout=60_000)


def test_documentation_needs_no_other_host(page: Page, server: Served) -> None:
    """/docs shows the operations with nothing fetched from elsewhere."""
    page.goto(server.url + "/docs")
    expect(page.get_by_text("/api/summarize", exact=True).first).to_be_visible(timeout=60_000)
