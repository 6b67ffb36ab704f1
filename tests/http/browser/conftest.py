"""A real browser over the server of the HTTP tests. It is closed when these tests end: its event loop is in the way of
others'."""

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, expect, sync_playwright

from serve.engine.engine import EngineStats
from tests.http.browser.playground import KEEP_WHAT_IS_SENT, PATIENCE_MS, Playground
from tests.http.conftest import Server

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
"""Without its sandbox it runs as root as well, and it loads pages of these tests alone."""


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        expect.set_options(timeout=PATIENCE_MS)
        browser = playwright.chromium.launch(executable_path=_chromium(), args=FLAGS, headless=True)
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    context.set_default_timeout(PATIENCE_MS)
    yield context
    context.close()


@pytest.fixture(scope="package")
def engine_stats(engine_stats: Callable[[str], EngineStats]) -> Iterator[Callable[[str], EngineStats]]:
    """From another thread: Ray refuses to wait where Playwright's event loop runs."""
    with ThreadPoolExecutor(1) as beside:
        yield lambda model: beside.submit(engine_stats, model).result()


@pytest.fixture
def refusals() -> list[int]:
    """Statuses of 400 and above that a test brings about: the browser's console tells of each."""
    return []


@pytest.fixture
def page(server: Server, context: BrowserContext, refusals: list[int]) -> Iterator[Page]:
    """The playground, once it knows the models. Nothing it does may leave the server, or be told by the console."""
    page = context.new_page()
    page.add_init_script(KEEP_WHAT_IS_SENT)
    requests: list[Request] = []
    said: list[ConsoleMessage] = []
    broken: list[object] = []
    # Lambdas, since Playwright cannot hold on to methods of lists.
    page.on("request", lambda request: requests.append(request))  # noqa: PLW0108
    page.on("console", lambda message: said.append(message))  # noqa: PLW0108
    page.on("pageerror", lambda error: broken.append(error))  # noqa: PLW0108
    page.goto(server.url)
    page.wait_for_selector("#num_inference_steps")
    yield page
    assert [
        request.url for request in requests if not request.url.startswith((f"{server.url}/", "blob:", "data:"))
    ] == []
    expected = [f"the server responded with a status of {status}" for status in refusals]
    assert [message.text for message in said if not any(told in message.text for told in expected)] == []
    assert broken == []


@pytest.fixture
def playground(page: Page, tmp_path: Path) -> Playground:
    return Playground(page, tmp_path)


def _chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found:
        return found
    if os.environ.get("CI") == "true":
        raise AssertionError("CI needs Chromium; Debian has it in the package chromium")
    pytest.skip("there is no Chromium here; Debian has it in the package chromium")
