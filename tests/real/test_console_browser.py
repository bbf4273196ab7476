"""A real Chromium signs in, sees calls appear, and has nothing to complain about; also without scripts."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import uvicorn

from controlplane.console import ModelView
from tests.unit.console.world import Breaker, World, world

playwright_api = pytest.importorskip("playwright.async_api", reason="playwright is not installed")
CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
pytestmark = [
    pytest.mark.real("chromium"),
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no browser at {CHROMIUM}"),
]
ARGUMENTS = ["--no-sandbox", "--disable-dev-shm-usage"]
PATIENCE_MS = 60_000


@asynccontextmanager
async def served(console: World) -> AsyncGenerator[str]:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(console.app, log_level="warning", lifespan="off", ws="none"))
    running = asyncio.create_task(server.serve([listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await running


class Browser:
    """One Chromium page, and everything it complained about."""

    def __init__(self, page: playwright_api.Page) -> None:
        self.page, self.complaints = page, list[str]()
        page.set_default_timeout(PATIENCE_MS)
        page.on(
            "console", lambda said: self.complaints.append(said.text) if said.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("requestfailed", self._failed)

    def _failed(self, request: playwright_api.Request) -> None:
        if request.failure != "net::ERR_ABORTED":  # leaving a page ends what it was asking for
            self.complaints.append(f"{request.url}: {request.failure}")

    async def sign_in(self, url: str, token: str = "operator-token") -> None:
        await self.page.goto(f"{url}/console")
        await self.page.get_by_label("Access token").fill(token)
        await self.page.get_by_role("button", name="Sign in").click()


@asynccontextmanager
async def browser(**options: object) -> AsyncGenerator[Browser]:
    async with playwright_api.async_playwright() as play:
        chromium = await play.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS, headless=True)
        try:
            context = await chromium.new_context(viewport={"width": 1440, "height": 900}, **options)
            yield Browser(await context.new_page())
        finally:
            await chromium.close()


async def a_busy_morning(console: World) -> None:
    """Enough to see what the page looks like in earnest."""
    console.breakers.known |= {
        "risk/1": Breaker("risk/1", "held", "drift", ("drift",), 240, 3, 11),
        "risk/2": Breaker("risk/2", calls=86, failed=0),
        "tiny": Breaker("tiny", "half_open", "cooled_down", (), 31, 17, 2),
    }
    known = console.models.known
    known["risk"] = replace(
        known["risk"], state="RETRAINING", state_reason="retrain", state_version=1, state_since_ms=1_763_733_600_000
    )
    known["risk-baseline"] = ModelView(name="risk-baseline", backend="tfs", versions=(1,), labels={"stable": 1})
    known["tiny"] = ModelView(name="tiny", backend="vllm", state="HEALTHY", state_reason="reference_learnt")
    for number in range(12):
        await console.call(
            denied=number % 4 == 1,
            subject=("agent:analyst", "agent:support", "service:night-batch")[number % 3],
            name=("/model/risk", "/tool/refund", "/mcp/time/get_current_time", "/model/tiny")[number % 4],
            kind=("infer", "call", "call", "infer")[number % 4],
            operation=("Predict", "call", "tools/call", "chat")[number % 4],
        )
    await console.call(finished=False)


def pictures(tmp_path: Path) -> Path:
    folder = Path(os.environ.get("CONSOLE_PICTURES", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


async def test_operator_signs_in_and_sees_a_call_appear(tmp_path: Path) -> None:
    async with world(tmp_path, refresh_ms=250) as console, served(console) as url, browser() as chromium:
        await a_busy_morning(console)
        page = chromium.page
        await chromium.sign_in(url)
        await page.get_by_role("heading", name="Calls").wait_for()
        await console.call(denied=True, name="/tool/seen-as-it-happens")
        row = page.get_by_role("row").filter(has_text="/tool/seen-as-it-happens")
        await row.wait_for()
        assert "deny" in await row.inner_text()
        assert "roles/support.yaml:20" in await row.inner_text()
        assert await page.evaluate("document.cookie") == ""
        for scheme in ("light", "dark"):
            await page.emulate_media(color_scheme=scheme)
            await page.screenshot(path=pictures(tmp_path) / f"overview-{scheme}.png", full_page=True)
        await row.get_by_role("link").click()
        await page.get_by_role("heading", name="/tool/seen-as-it-happens").wait_for()
        await page.screenshot(path=pictures(tmp_path) / "call.png", full_page=True)
        assert chromium.complaints == []


async def test_operator_holds_a_breaker_without_any_script(tmp_path: Path) -> None:
    async with world(tmp_path) as console, served(console) as url, browser(java_script_enabled=False) as chromium:
        console.breakers.known["risk/2"] = Breaker("risk/2")
        page = chromium.page
        await chromium.sign_in(url)
        await page.get_by_text("Hold", exact=True).first.click()
        await page.get_by_label("Reason for risk/2").fill("answers look wrong since noon")
        await page.get_by_role("button", name="Hold").click()
        await page.get_by_text("by operator").wait_for()
        assert console.breakers.known["risk/2"].holds == ("operator",)
        assert console.changes()[0]["change"]["reason"] == "answers look wrong since noon"
        assert chromium.complaints == []


async def test_page_in_use_is_not_pulled_away(tmp_path: Path) -> None:
    async with world(tmp_path, refresh_ms=250) as console, served(console) as url, browser() as chromium:
        console.breakers.known["risk/2"] = Breaker("risk/2")
        page = chromium.page
        await chromium.sign_in(url)
        await page.get_by_text("Hold", exact=True).first.click()
        await page.get_by_label("Reason for risk/2").fill("half a rea")
        await console.call(name="/model/later")
        asked = len(console.asked)
        paused = page.get_by_text("Not refreshed while you work in it.")
        await paused.wait_for()
        await page.get_by_text("Hold", exact=True).first.click()  # closing the form lets the page go on
        await page.get_by_role("heading", name="Breakers").click()
        await page.evaluate("document.activeElement.blur()")
        await page.get_by_text("/model/later").wait_for()
        assert len(console.asked) > asked
        await paused.wait_for(state="hidden")


async def test_a_page_that_is_not_refreshed_any_more_says_so_where_it_is_seen(tmp_path: Path) -> None:
    async with browser() as chromium:
        page = chromium.page
        async with world(tmp_path, refresh_ms=250) as console, served(console) as url:
            await a_busy_morning(console)
            await chromium.sign_in(url)
            await page.get_by_role("heading", name="Calls").wait_for()
            await page.set_viewport_size({"width": 1280, "height": 600})
        stale = page.get_by_text("The page is no longer being refreshed.")
        await stale.wait_for()
        box = await stale.bounding_box()
        assert box is not None
        assert 0 <= box["y"] <= 600 - box["height"]


async def test_hostile_words_run_nowhere(tmp_path: Path) -> None:
    hostile = "<img src=x onerror=alert(1)><script>alert(1)</script>"
    async with world(tmp_path, refresh_ms=250) as console, served(console) as url, browser() as chromium:
        page = chromium.page
        dialogs: list[str] = []
        page.on("dialog", lambda dialog: dialogs.append(dialog.message))
        await chromium.sign_in(url)
        await page.get_by_role("heading", name="Calls").wait_for()
        await console.call(subject=hostile, name="/model/tiny")
        await page.get_by_text("onerror=alert").first.wait_for()
        assert dialogs == []
        assert chromium.complaints == []


async def test_sign_in_and_api_pages_load_clean(tmp_path: Path) -> None:
    async with world(tmp_path) as console, served(console) as url, browser(color_scheme="dark") as chromium:
        page = chromium.page
        await page.goto(f"{url}/console/login")
        await page.screenshot(path=pictures(tmp_path) / "login.png")
        await page.goto(f"{url}/api/docs")
        await page.get_by_role("heading", name="operator API").wait_for()
        await page.screenshot(path=pictures(tmp_path) / "docs.png")
        assert chromium.complaints == []
