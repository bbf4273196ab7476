"""Every page beside the overview in a real Chromium, light and dark, full and empty; and what a report may not do."""

from __future__ import annotations

import gzip
import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from controlplane import fleet
from controlplane.approvals import Approver
from controlplane.console.behaviour_views import BY_HAND, LeftAlone
from controlplane.console.drift_views import SentReport
from controlplane.console.playbook_views import PlaybookShown
from controlplane.console.ports import AdaptedShown, LearntView, ReplicaShown, RuleShown
from tests.matrix.drivers import DRIVERS
from tests.matrix.test_approved import ask, token_of, write_people
from tests.matrix.upstreams import Upstream
from tests.matrix.world import World as Place
from tests.matrix.world import running
from tests.real.test_console_browser import Browser, a_busy_morning, browser, pictures, served
from tests.unit.console.rooms import MINUTE_MS, Rooms, a_held_agent, a_month_of_costs, evidence_at
from tests.unit.console.test_playbooks_page import WAKE, ran
from tests.unit.console.world import OPERATOR, World, world

CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
pytestmark = [
    pytest.mark.real("chromium"),
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no browser at {CHROMIUM}"),
]
PAGES = {
    "models": "models",
    "model": "models/risk",
    "reviews": "reviews",
    "approvals": "approvals",
    "adaptation": "adaptation",
    "behaviour": "behaviour",
    "playbooks": "playbooks",
    "costs": "costs",
    "calls": "calls",
}
STEPS = 400
CURIOUS = b"""<!doctype html><html><body><h1>Report</h1><p id="said">nothing ran</p><script>
const said = [];
const attempt = (name, act) => { try { act(); said.push(name + ' done'); } catch { said.push(name + ' refused'); } };
attempt('cookie', () => document.cookie);
attempt('parent', () => parent.document.title);
attempt('storage', () => localStorage.length);
fetch('/api/calls').then(() => said.push('fetch done'), () => said.push('fetch refused'))
  .finally(() => { document.getElementById('said').textContent = said.join(', '); });
</script></body></html>"""


async def a_model_in_trouble(console: World) -> None:
    known, now_ms = console.models.known, round(time.time() * 1000)
    known["risk"] = replace(
        known["risk"],
        task="tabular-classification",
        canary_percent=10,
        shadow_version=2,
        shadow_percent=25,
        state="DEGRADED",
        state_reason="risk_left_band",
        state_version=1,
        state_since_ms=now_ms - 40 * MINUTE_MS,
    )
    moves = (
        ("LEARNING", "HEALTHY", "reference_learnt"),
        ("HEALTHY", "WARN", "suspected"),
        ("WARN", "HEALTHY", "quiet"),
        ("HEALTHY", "DEGRADED", "risk_left_band"),
    )
    evidence = {"detector": "inputs_50", "streams": "age,income", "evidence_log10_milli": 5_020, "since_row": 11_992}
    for number, (source, target, reason) in enumerate(moves):
        drift = {"key": f"k{number}", "model": "risk", "version": 1, "from": source, "to": target, "reason": reason}
        await console.ledger.append(
            "drift.transition", {"drift": drift | {"by": "service:monitor", "evidence": evidence if number else {}}}
        )


async def playbooks_that_ran(console: World, rooms: Rooms) -> None:
    now_ms = round(time.time() * 1000)
    rooms.playbooks.known = [
        WAKE,
        PlaybookShown(
            id="canary.back", model="risk", when="canary_open", for_s=30.0, do="roll_back", dry_run=False, per_day=2,
            left=2, pause_s=900.0,
        ),
        PlaybookShown(
            id="tiny.fallback", model="tiny", when="breaker_open", for_s=300.0, do="switch", per_day=20, left=17,
            pause_s=3_600.0, lasting={"tiny": 1_260.0}, last_at_ms=now_ms - 900_000, last_subject="tiny",
            last_result="dry_run",
        ),
    ]  # fmt: skip
    await ran(console, "done")
    await ran(console, "command_timeout")
    await ran(console, None)
    await ran(
        console, None, id="tiny.fallback", model="tiny", subject="tiny", when="breaker_open", do="switch", dry_run=1
    )


async def agents_in_trouble(console: World, rooms: Rooms) -> None:
    now_s = time.time()
    rooms.behaviour.now = [
        a_held_agent(agent="agent:night-batch", rule=BY_HAND, source="ledger:41", sort="operator", scope="", times=0,
                     call_id="", facts={}, by="user:operator", reason="Its key was on a public page.",
                     since_s=now_s - 4_000, until_s=now_s + 82_000),
        a_held_agent(rule="payments.after-secrets", description="What was read from the most sensitive places does not"
                     " leave by a payment in the same session.", since_s=now_s - 900, until_s=now_s + 900,
                     facts={"began_s": round(now_s) - 1_700}),
        a_held_agent(agent="agent:support", answer="step_up", rule="context.unlike", source="behaviour.yaml:58",
                     sort="context", scope="agent", times=1, since_s=now_s - 60, until_s=now_s + 840,
                     description="A call that changes the world, and is unlike what this agent asks for.",
                     facts={"likeness_ppm": 312_000, "threshold_ppm": 550_000}),
        a_held_agent(agent="agent:support", answer="throttle", rule="rate.habit", source="behaviour.yaml:12",
                     sort="rate", scope="", times=1_204, since_s=now_s - 30, until_s=now_s + 180,
                     description="More calls in a minute than this agent makes at this hour of the day.",
                     facts={"window_s": 60, "calls": 1_246, "limit": 42}),
    ]  # fmt: skip
    rooms.behaviour.alone = [
        LeftAlone(tenant="acme", agent="agent:night-batch", rule="costly.repeated", since_s=now_s - 600,
                  until_s=now_s + 28_200, by="user:operator", reason="The quarter is being closed.")
    ]  # fmt: skip
    rooms.behaviour.unknown = 1
    rooms.behaviour.rules = {held.rule for held in rooms.behaviour.now}
    for held in rooms.behaviour.now[1:]:
        said = {"rule": held.rule, "source": held.source, "sort": held.sort, "answer": held.answer, "tenant": "acme"}
        said |= {"mode": "dry_run" if held.sort == "context" else "enforce", "change": "begins", "agent": held.agent}
        body = said | {"call": "c1", "policy_revision": "r", "facts": dict(held.facts)}
        await console.ledger.append(
            "behaviour.verdict", {"behaviour": body | ({"scope": held.scope} if held.scope else {})}
        )


async def calls_that_wait(console: World, rooms: Rooms) -> None:
    """``user:boss`` may answer three of five; one is long, and one of an agent that would not be read."""
    two, now_s = (Approver("boss", 2),), time.time()
    rooms.approvals.roles["user:chief"] = ("boss",)
    rooms.approvals.ask(1)
    rooms.approvals.ask(
        2,
        approvers=two,
        subject="agent:treasury",
        chain=(),
        resource="/mcp/bank/transfer",
        operation="tools/call",
        asked_s=now_s - 3_000,
        ttl_s=7_200,
        shown=TRANSFER,
    )
    rooms.approvals.ask(3, subject="user:boss", resource="/model/risk", action="infer", operation="Predict")
    rooms.approvals.ask(
        4,
        subject=f"agent:{'very-' * 30}long",
        resource=f"/tool/\u202e{'x' * 180}",
        asked_s=now_s - 60,
        shown="\n".join(["{", *(f'  "{n:03}": "{"value " * 40}",' for n in range(60)), "}"]),
    )
    rooms.approvals.ask(5, subject="agent:night-batch", resource="/tool/files.delete", asked_s=now_s - 600, ttl_s=3_600)
    rooms.approvals.ask(6, subject="agent:night-batch", resource="/tool/files.export", asked_s=now_s - 500, ttl_s=3_600)
    for question, token, answer, reason in (
        ("q2", "deputy-token", "approve", "The invoice is signed, and the account is the one we have always paid."),
        ("q5", "deputy-token", "approve", "These are last year's temporary files."),
        ("q6", "deputy-token", "refuse", "Nothing is exported at the end of a quarter."),
    ):
        said = {"answer": answer, "reason": reason}
        heard = await console.client(token).post(f"/api/approvals/{question}", json=said)
        assert heard.status_code == 200, heard.text


TRANSFER = json.dumps(
    {"name": "transfer", "arguments": {"to": "DE02120300000000202051", "amount": "48,000.00", "currency": "EUR",
     "purpose": "Invoice 2026-1187, second half", "urgent": False}}, indent=2,
)  # fmt: skip


async def filled(console: World, rooms: Rooms, html: bytes) -> None:
    await a_busy_morning(console)
    await a_model_in_trouble(console)
    rooms.servers = [
        ReplicaShown(backend="tfs", name="10.0.0.4:8500", models=("risk", "risk-baseline"), state="ready", in_flight=3),
        ReplicaShown(
            backend="vllm", name="10.0.0.7:8000", models=("tiny",), state="ready", in_flight=11, waiting=2,
            kv_ratio=0.42,
        ),
        ReplicaShown(
            backend="vllm", name="10.0.0.8:8000", models=("tiny",), state="ejected", reason="stalled", in_flight=0,
            waiting=9, kv_ratio=0.97,
        ),
    ]  # fmt: skip
    rooms.selection.known = [
        LearntView(
            task="chat", model="tiny", accuracy_ppm=612_000, reference_ppm=870_000, answers=140, latency_ms=80.0,
            under_review=True,
        )
    ]  # fmt: skip
    rooms.adaptation.known = [
        RuleShown(id="cpu.throttle", for_each="gateway", description="This machine is busy.", then="throttle", steps=2),
        RuleShown(id="kv.throttle", for_each="replica", description="The KV cache is full.", then="throttle", steps=3),
        RuleShown(id="rss.isolate", for_each="replica", description="It grows.", then="isolate", steps=1),
    ]
    rooms.adaptation.now = [
        AdaptedShown(rule="kv.throttle", subject="model:tiny", action="throttle", level=2, steps=3, ends_on=""),
        AdaptedShown(
            rule="rss.isolate", subject="replica:10.0.0.8:8000", action="isolate", level=1, steps=1, ends_on="inspected"
        ),
    ]
    await agents_in_trouble(console, rooms)
    await playbooks_that_ran(console, rooms)
    await calls_that_wait(console, rooms)
    assert rooms.desk is not None
    now_ms = round(time.time() * 1000)
    for step in range(STEPS):
        at_ms, detectors = evidence_at(step, STEPS, now_ms)
        rooms.desk.take_points("risk", 1, at_ms, detectors)
    for cause in ("nightly", "alarm"):
        report = SentReport(
            version=1, cause=cause, columns=50, of_columns=120, drifted=2,
            scores={"age": 812, "income": 344, "hours": 90}, html_gzip=gzip.compress(html),
        )  # fmt: skip
        await rooms.desk.take_report("risk", report, OPERATOR)


def report_html() -> bytes:
    """CONSOLE_REPORT may name a real report, to look at."""
    given = os.environ.get("CONSOLE_REPORT")
    return gzip.decompress(Path(given).read_bytes()) if given else CURIOUS


async def looked_at(chromium: Browser, name: str, folder: Path) -> None:
    page = chromium.page
    for scheme in ("light", "dark"):
        await page.emulate_media(color_scheme=scheme)
        await page.screenshot(path=folder / f"{name}-{scheme}.png", full_page=True)
    wide = await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0, f"{name} is wider than its window"


@pytest.mark.parametrize("width", [1440, 480])
async def test_every_page_fits_its_window_and_has_nothing_to_complain_about(tmp_path: Path, width: int) -> None:
    rooms = Rooms(tmp_path, costs=a_month_of_costs())
    async with world(tmp_path, rooms) as console, served(console) as url, browser() as chromium:
        await filled(console, rooms, report_html())
        await chromium.sign_in(url, "boss-token")
        await chromium.page.get_by_role("heading", name="Calls").wait_for()
        await chromium.page.set_viewport_size({"width": width, "height": 900})
        for name, path in PAGES.items():
            await chromium.page.goto(f"{url}/console/{path}")
            await looked_at(chromium, f"{name}-{width}", pictures(tmp_path))
        assert chromium.complaints == []


async def test_pages_with_nothing_to_show_say_so(tmp_path: Path) -> None:
    rooms = Rooms(tmp_path)
    async with world(tmp_path, rooms) as console, served(console) as url, browser() as chromium:
        await chromium.sign_in(url)
        await chromium.page.get_by_role("heading", name="Calls").wait_for()
        for name, path in PAGES.items():
            await chromium.page.goto(f"{url}/console/{path}")
            await looked_at(chromium, f"{name}-empty", pictures(tmp_path))
            assert name == "models" or await chromium.page.locator(".empty").count() >= 1, name
        assert chromium.complaints == []


async def test_a_report_runs_its_own_scripts_and_reaches_nothing_of_ours(tmp_path: Path) -> None:
    rooms = Rooms(tmp_path)
    async with world(tmp_path, rooms) as console, served(console) as url, browser() as chromium:
        await filled(console, rooms, CURIOUS)
        await chromium.sign_in(url)
        await chromium.page.goto(f"{url}/console/models/risk")
        await chromium.page.locator("section", has_text="Drift reports").get_by_role("link").first.click()
        await chromium.page.screenshot(path=pictures(tmp_path) / "report.png", full_page=True)
        said = chromium.page.frame_locator("iframe").locator("#said")
        await said.filter(has_text="fetch").wait_for()
        told = await said.inner_text()
        assert "done" not in told, told
        assert told.count("refused") == 4
        await chromium.page.goto(await chromium.page.locator("iframe").evaluate("frame => frame.src"))
        alone = chromium.page.locator("#said").filter(has_text="fetch")
        await alone.wait_for()  # opened by itself it has an origin of its own all the same
        assert "cookie refused" in await alone.inner_text()
        assert "fetch refused" in await alone.inner_text()


async def test_a_person_answers_what_waits(tmp_path: Path) -> None:
    rooms = Rooms(tmp_path)
    async with (
        world(tmp_path, rooms) as console,
        served(console) as url,
        browser(java_script_enabled=False) as chromium,
    ):
        await filled(console, rooms, CURIOUS)
        page = chromium.page
        await chromium.sign_in(url)
        await page.goto(f"{url}/console/reviews")
        await page.get_by_label("Let the fallback answer").check()
        await page.get_by_label("Reason for risk").fill("labels of the branch office are late")
        await page.get_by_role("button", name="Answer").click()
        await page.get_by_text("labels of the branch office are late").wait_for()
        assert rooms.reviews.said["risk"].answer == "fallback"
        await page.get_by_label("Reason for tiny").fill("a wrong rubric was used")
        await page.get_by_role("button", name="Let it back").click()
        await page.get_by_text("Waiting for an answer").wait_for()
        assert rooms.selection.cleared == [("chat", "tiny", "user:operator", "a wrong rubric was used")]
        await page.get_by_label("Reason for replica:10.0.0.8:8000").fill("memory is fine again")
        await page.get_by_role("button", name="Inspected").click()
        await page.get_by_text("Waiting for an answer").wait_for()
        assert rooms.adaptation.told == [("rss.isolate", "replica:10.0.0.8:8000", "inspected", "user:operator")]
        assert console.changes()[-1]["change"]["reason"] == "memory is fine again"


async def test_a_search_finds_a_call_by_its_words(tmp_path: Path) -> None:
    async with world(tmp_path, Rooms(tmp_path)) as console, served(console) as url, browser() as chromium:
        await a_busy_morning(console)
        await console.call(denied=True, subject="agent:curious", name="/tool/open-the-vault")
        await chromium.sign_in(url)
        page = chromium.page
        await page.goto(f"{url}/console/calls")
        await page.get_by_label("Words").fill("curious VAULT")
        await page.get_by_label("Decision").select_option("deny")
        await page.get_by_role("button", name="Search").click()
        await page.get_by_text("That is all there is.").wait_for()
        assert await page.get_by_role("row").count() == 2
        assert "/tool/open-the-vault" in await page.get_by_role("row").nth(1).inner_text()
        assert chromium.complaints == []


async def test_a_person_lifts_a_block_and_blocks_an_agent(tmp_path: Path) -> None:
    rooms = Rooms(tmp_path)
    async with (
        world(tmp_path, rooms) as console,
        served(console) as url,
        browser(java_script_enabled=False) as chromium,
    ):
        await agents_in_trouble(console, rooms)
        page = chromium.page
        await chromium.sign_in(url)
        await page.goto(f"{url}/console/behaviour")
        row = page.get_by_role("row").filter(has_text="payments.after-secrets").first
        await row.get_by_text("Lift", exact=True).first.click()
        await page.get_by_label("How long payments.after-secrets leaves agent:analyst alone").select_option("3600")
        await page.get_by_label("Reason to lift payments.after-secrets of agent:analyst").fill("the bank asked for it")
        await looked_at(chromium, "behaviour-lift", pictures(tmp_path))
        await row.get_by_role("button", name="Lift").click()
        await page.get_by_label("Agent", exact=True).fill("agent:thief")
        await page.get_by_label("Reason", exact=True).fill("its key was on a public page")
        await page.get_by_role("button", name="Block").click()
        await page.get_by_text("Behaviour of agents").wait_for()
        assert [(what, word.agent, word.rule) for what, word, _ in rooms.behaviour.words] == [
            ("lift", "agent:analyst", "payments.after-secrets"),
            ("block", "agent:thief", BY_HAND),
        ]
        assert [said["change"]["reason"] for said in console.changes()] == [
            "the bank asked for it",
            "its key was on a public page",
        ]
        assert chromium.complaints == []


class OverHttp(Place):
    def document(self) -> dict[str, Any]:
        return super().document() | {"console": {"secure_cookie": False}}


async def test_a_person_approves_by_clicking_and_the_call_goes_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "DEPLOYMENT_CHECK_S", 3600)  # what reaches the upstream then is the agent's doing
    tool = next(driver for driver in DRIVERS if driver.name == "tools")
    async with Upstream() as upstream:
        place = OverHttp(tmp_path, upstream)
        place.build()
        write_people(place)
        async with running(place, obligations=None) as gate, browser(java_script_enabled=False) as chromium:
            page = chromium.page
            assert (await ask(tool, gate)).reason == "approval_required"
            await chromium.sign_in(gate.url, token_of(place, "user:ada"))
            await page.get_by_text("1 call waits for your approval.").wait_for()
            await page.get_by_role("link", name="Look at it").click()
            assert json.loads(await page.locator("pre").inner_text()) == {"amount": 5}
            await page.get_by_label("Reason to approve /tool/refund of agent:good").fill(
                "the customer was charged twice"
            )
            await looked_at(chromium, "approvals-answer", pictures(tmp_path))
            await page.get_by_role("button", name="Approve once").click()
            await page.get_by_text("approved, not used yet").wait_for()
            assert upstream.calls == []
            done = await ask(tool, gate)
            assert (done.status, len(upstream.calls)) == (200, 1)
            await page.get_by_role("link", name="Look again").click()
            await page.get_by_text("No call waits for an approval.").wait_for()
            await page.goto(f"{gate.url}/console/calls/{done.receipt}")
            await page.get_by_text("user:ada for boss: the customer was charged twice").wait_for()
            await looked_at(chromium, "approved-call", pictures(tmp_path))
            assert chromium.complaints == []
            await gate.records(3)
