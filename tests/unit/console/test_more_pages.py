"""Pages beside the overview: each behind the permission of what it shows, and every stranger's word escaped."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest

from controlplane.console.playbook_views import PlaybookShown
from controlplane.console.ports import LearntView, ReplicaShown
from tests.unit.console.rooms import Rooms, a_held_agent, a_month_of_costs
from tests.unit.console.world import World, world

PAGES = {
    "/console/models": "/api/models",
    "/console/models/risk": "/api/models",
    "/console/models/risk/reports/e1": "/api/models",
    "/console/reviews": "/api/selection",
    "/console/approvals": "/api/approvals",
    "/console/adaptation": "/api/console",
    "/console/behaviour": "/api/behaviour",
    "/console/playbooks": "/api/playbooks",
    "/console/costs": "/api/costs",
    "/console/calls": "/api/calls",
}
HOSTILE = "<script>alert(1)</script>"


async def signed_in(console: World, token: str = "operator-token") -> httpx2.AsyncClient:
    client = console.client()
    await client.post("/console/login", content=f"token={token}", headers=FORM)
    return client


FORM = {"content-type": "application/x-www-form-urlencoded"}


def csrf_in(page: str) -> str:
    return page.split('name="csrf" value="')[1].split('"', maxsplit=1)[0]


@pytest.mark.parametrize("path", PAGES)
async def test_without_a_session_one_is_sent_to_sign_in(tmp_path: Path, path: str) -> None:
    async with world(tmp_path, Rooms(tmp_path)) as console:
        answer = await console.client().get(path)
        assert (answer.status_code, answer.headers["location"]) == (303, "/console/login")


@pytest.mark.parametrize(("path", "resource"), PAGES.items())
async def test_a_page_asks_for_the_permission_of_what_it_shows(tmp_path: Path, path: str, resource: str) -> None:
    async with world(tmp_path, Rooms(tmp_path)) as console:
        client = await signed_in(console)
        console.asked.clear()
        await client.get(path)
        assert {(action, what) for _, action, what in console.asked} == {("read", "/api/console"), ("read", resource)}


@pytest.mark.parametrize(("path", "resource"), PAGES.items())
async def test_who_lacks_that_permission_sees_nothing_of_it(tmp_path: Path, path: str, resource: str) -> None:
    async with world(tmp_path, Rooms(tmp_path, costs=a_month_of_costs())) as console:
        client = await signed_in(console)
        console.denied.add(("read", resource))
        answer = await client.get(path)
        assert (answer.status_code, "Not done" in answer.text) == (403, True)


async def test_costs_of_another_tenant_are_not_added(tmp_path: Path) -> None:
    async with world(tmp_path, Rooms(tmp_path, costs=a_month_of_costs())) as console:
        client = await signed_in(console, "globex-token")
        page = (await client.get("/console/costs")).text
        assert "gpt-large" not in page
        assert "agent:analyst" not in page


async def test_strangers_words_are_escaped_everywhere(tmp_path: Path) -> None:
    rooms = Rooms(tmp_path)
    async with world(tmp_path, rooms) as console:
        await console.call(subject=HOSTILE, name=HOSTILE, operation=HOSTILE)
        rooms.behaviour.now = [a_held_agent(agent=HOSTILE, description=HOSTILE, facts={HOSTILE: HOSTILE})]
        rooms.playbooks.known = [
            PlaybookShown(
                id=HOSTILE, model=HOSTILE, when=HOSTILE, for_s=1.0, do=HOSTILE, program=HOSTILE, lasting={HOSTILE: 1.0}
            )
        ]
        rooms.approvals.ask(subject=HOSTILE, chain=(HOSTILE,), resource=HOSTILE, operation=HOSTILE, shown=HOSTILE)
        rooms.servers = [ReplicaShown(backend="tfs", name=HOSTILE, models=("risk",), state="ready", reason=HOSTILE)]
        rooms.selection.known = [
            LearntView(
                task=HOSTILE, model=HOSTILE, accuracy_ppm=1, reference_ppm=2, answers=3, latency_ms=None,
                under_review=True,
            )
        ]  # fmt: skip
        assert rooms.desk is not None
        rooms.desk.take_points(
            "risk", 1, 1_000, [{"detector": HOSTILE, "evidence": 1.0, "threshold": 9.0, "arl_rows": 1.0,
                                "tolerated": 0.1, "crossings": 0}],
        )  # fmt: skip
        client = await signed_in(console)
        for path in ("models", "models/risk", "reviews", "approvals", "behaviour", "playbooks", f"calls?q={HOSTILE}"):
            page = (await client.get(f"/console/{path}")).text
            assert HOSTILE not in page, path
            assert "&lt;script&gt;" in page, path


@pytest.mark.parametrize(
    "path", ["/console/reviews/selection", "/console/reviews/drift", "/console/reviews/adaptation"]
)
async def test_an_answer_needs_its_form_its_reason_and_its_permission(tmp_path: Path, path: str) -> None:
    rooms = Rooms(tmp_path)
    async with world(tmp_path, rooms) as console:
        client = await signed_in(console)
        csrf = csrf_in((await client.get("/console/reviews")).text)
        fields = "model=risk&answer=healthy&task=chat&rule=r&subject=gateway&word=reviewed"
        for form, status in (
            (f"csrf=wrong&reason=because+it+is&{fields}", 403),
            (f"csrf={csrf}&reason=x&{fields}", 403),
        ):
            assert (await client.post(path, content=form, headers=FORM)).status_code == status
        reader = await signed_in(console, "reader-token")
        theirs = csrf_in((await reader.get("/console/reviews")).text)
        refused = await reader.post(path, content=f"csrf={theirs}&reason=because+it+is&{fields}", headers=FORM)
        assert refused.status_code == 403
        assert (rooms.reviews.said, rooms.selection.cleared, rooms.adaptation.told) == ({}, [], [])


async def test_an_unknown_model_report_or_answer_is_a_page_that_says_so(tmp_path: Path) -> None:
    async with world(tmp_path, Rooms(tmp_path)) as console:
        client = await signed_in(console)
        for path in ("models/nobody", "models/risk/reports/none"):
            answer = await client.get(f"/console/{path}")
            assert (answer.status_code, "Not done" in answer.text) == (404, True)
        csrf = csrf_in((await client.get("/console/reviews")).text)
        form = f"csrf={csrf}&reason=because&model=risk&answer=explode"
        assert (await client.post("/console/reviews/drift", content=form, headers=FORM)).status_code == 404


async def test_a_search_is_by_words_decision_and_day_within_the_own_tenant(tmp_path: Path) -> None:
    async with world(tmp_path, Rooms(tmp_path)) as console:
        await console.call(subject="agent:alpha", name="/model/risk")
        await console.call(subject="agent:beta", name="/tool/refund", denied=True)
        await console.call(subject="agent:gamma", name="/tool/refund", tenant="globex")
        client = await signed_in(console)

        async def found(query: str) -> set[str]:
            page = (await client.get(f"/console/calls?{query}")).text
            return {name for name in ("alpha", "beta", "gamma") if f"agent:{name}" in page.split("<tbody>")[1]}

        assert await found("") == {"alpha", "beta"}
        assert await found("q=REFUND+beta") == {"beta"}
        assert await found("q=/tool/refund+alpha") == set()
        assert await found("effect=allow") == {"alpha"}
        assert await found("until=2020-01-01") == set()
        assert await found("since=2020-01-01&until=2999-01-01") == {"alpha", "beta"}
        assert await found("since=nonsense&effect=maybe&before=-7") == {"alpha", "beta"}
        assert await found("before=1") == set()


async def test_a_search_goes_on_where_its_page_ended(tmp_path: Path) -> None:
    async with world(tmp_path, Rooms(tmp_path)) as console:
        for number in range(60):
            await console.call(subject=f"agent:{number:02}", denied=True)
        client = await signed_in(console)
        first = (await client.get("/console/calls?q=agent")).text
        onward = first.split('href="')[-1].split('"')[0].replace("&amp;", "&")
        assert onward.startswith("/console/calls?q=agent")
        second = (await client.get(onward)).text
        rows = [page.split("<tbody>")[1].count("<tr") for page in (first, second)]
        assert rows == [50, 10]
        assert "That is all there is." in second
