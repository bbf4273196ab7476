"""Agents that are held back, through the API and its pages: who may see it, who may end it, and what is recorded."""

from __future__ import annotations

from pathlib import Path

import pytest

from controlplane.console.behaviour_views import BY_HAND, LeftAlone
from tests.unit.console.rooms import Rooms, a_held_agent
from tests.unit.console.test_more_pages import FORM, csrf_in, signed_in
from tests.unit.console.world import world

LIFT = {"agent": "agent:analyst", "rule": "secret.egress", "reason": "the report was for the bank"}
BLOCK = {"agent": "agent:analyst", "reason": "its key was on a public page"}
NOW_S = 1_763_733_600
ALONE = LeftAlone(
    tenant="acme",
    agent="agent:analyst",
    rule="rate.habit",
    since_s=NOW_S - 60,
    until_s=NOW_S + 60,
    by="user:o",
    reason="a batch",
)


async def test_an_operator_sees_who_is_held_back_why_and_until_when(tmp_path: Path) -> None:
    rooms = Rooms(tmp_path)
    rooms.behaviour.now = [a_held_agent(), a_held_agent(tenant="globex")]
    rooms.behaviour.alone, rooms.behaviour.unknown = [ALONE], 2
    async with world(tmp_path, rooms) as console:
        said = (await console.client("reader-token").get("/api/behaviour")).json()
        (held,) = said["held"]
        assert (held["rule"], held["source"], held["facts"]) == (
            "secret.egress",
            "behaviour.yaml:36",
            {"began_s": 1_763_732_000},
        )
        assert (held["since_s"], held["until_s"]) == (1_763_733_000.0, 1_763_735_000.0)
        assert ([one["rule"] for one in said["left_alone"]], said["unknown_rules"]) == (["rate.habit"], 2)


async def test_a_lift_is_on_record_with_its_reason_before_it_is_done(tmp_path: Path) -> None:
    rooms = Rooms(tmp_path)
    rooms.behaviour.now = [a_held_agent()]
    async with world(tmp_path, rooms) as console:
        answer = await console.client("operator-token").post("/api/behaviour/lift", json=LIFT | {"for_s": 60})
        assert answer.status_code == 200
        ((what, word, index),) = rooms.behaviour.words
        assert (what, word.agent, word.until_s, index) == (
            "lift",
            "agent:analyst",
            NOW_S + 60,
            answer.json()["ledger_index"],
        )
        assert [{"change": one["change"]} for one in console.changes()] == [
            {
                "change": {
                    "what": "agent.lift",
                    "agent": "agent:analyst",
                    "agent_tenant": "acme",
                    "rule": "secret.egress",
                    "until_ms": (NOW_S + 60) * 1000,
                    "reason": LIFT["reason"],
                    "by": "user:operator",
                    "tenant": "acme",
                    "delegation": ["agent:helper"],
                }
            }
        ]


async def test_without_a_ledger_nothing_is_lifted_and_nobody_is_blocked(tmp_path: Path) -> None:
    rooms = Rooms(tmp_path)
    rooms.behaviour.now = [a_held_agent()]
    async with world(tmp_path, rooms) as console:
        console.is_ledger_down = True
        for path, body in (("lift", LIFT), ("block", BLOCK)):
            answer = await console.client("operator-token").post(f"/api/behaviour/{path}", json=body)
            assert (answer.status_code, answer.json()["reason"]) == (503, "disk_full")
        assert rooms.behaviour.words == []


@pytest.mark.parametrize("token", ["reader-token", "monitor-token", "nobody-token", ""])
@pytest.mark.parametrize(("path", "body"), [("lift", LIFT), ("block", BLOCK)])
async def test_who_may_not_change_it_changes_nothing(
    tmp_path: Path, token: str, path: str, body: dict[str, object]
) -> None:
    rooms = Rooms(tmp_path)
    rooms.behaviour.now = [a_held_agent()]
    async with world(tmp_path, rooms) as console:
        answer = await console.client(token).post(f"/api/behaviour/{path}", json=body)
        assert answer.status_code == (403 if token else 401)
        assert (rooms.behaviour.words, console.changes()) == ([], [])


@pytest.mark.parametrize(
    ("path", "body", "reason"),
    [
        ("lift", LIFT | {"agent": "agent:other"}, "nothing_stands"),
        ("lift", LIFT | {"rule": "rule.gone"}, "unknown_rule"),
        ("lift", LIFT | {"rule": BY_HAND, "for_s": 60}, "nothing_stands"),
        ("lift", LIFT | {"tenant": "globex"}, "unknown_agent"),
        ("block", BLOCK | {"tenant": "globex"}, "unknown_agent"),
    ],
)
async def test_what_cannot_be_lifted_is_refused_and_not_recorded(
    tmp_path: Path, path: str, body: dict[str, object], reason: str
) -> None:
    rooms = Rooms(tmp_path)
    rooms.behaviour.now = [a_held_agent(), a_held_agent(tenant="globex")]
    async with world(tmp_path, rooms) as console:
        answer = await console.client("operator-token").post(f"/api/behaviour/{path}", json=body)
        assert (answer.status_code, answer.json()["reason"]) == (404, reason)
        assert (rooms.behaviour.words, console.changes()) == ([], [])


@pytest.mark.parametrize(
    ("path", "broken"),
    [
        ("lift", {"for_s": -1}),
        ("lift", {"for_s": 24 * 3600 + 1}),
        ("lift", {"reason": "no"}),
        ("lift", {"agent": ""}),
        ("block", {"for_s": 5}),
        ("block", {"for_s": 31 * 24 * 3600}),
        ("block", {"forever": True}),
    ],
)
async def test_a_word_that_is_no_word_is_refused(tmp_path: Path, path: str, broken: dict[str, object]) -> None:
    rooms = Rooms(tmp_path)
    rooms.behaviour.now = [a_held_agent()]
    async with world(tmp_path, rooms) as console:
        body = (LIFT if path == "lift" else BLOCK) | broken
        answer = await console.client("operator-token").post(f"/api/behaviour/{path}", json=body)
        assert (answer.status_code, rooms.behaviour.words) == (422, [])


async def test_a_rule_may_be_told_in_advance_to_leave_an_agent_alone(tmp_path: Path) -> None:
    rooms = Rooms(tmp_path)
    async with world(tmp_path, rooms) as console:
        body = LIFT | {"rule": "rate.habit", "for_s": 3600}
        assert (await console.client("operator-token").post("/api/behaviour/lift", json=body)).status_code == 200
        assert rooms.behaviour.words[0][1].until_s == NOW_S + 3600


async def test_by_its_page_an_operator_lifts_and_blocks(tmp_path: Path) -> None:
    rooms = Rooms(tmp_path)
    rooms.behaviour.now, rooms.behaviour.alone = [a_held_agent()], [ALONE]
    async with world(tmp_path, rooms) as console:
        client = await signed_in(console)
        page = (await client.get("/console/behaviour")).text
        assert all(said in page for said in ("behaviour.yaml:36", "secret.egress", "/console/calls/c1", "a batch"))
        csrf = csrf_in(page)
        lift = f"csrf={csrf}&agent=agent:analyst&tenant=acme&rule=secret.egress&for_s=0&reason=for+the+bank"
        block = f"csrf={csrf}&agent=+agent:thief+&for_s=3600&reason=key+is+public"
        for path, form in (("lift", lift), ("block", block)):
            answer = await client.post(f"/console/behaviour/{path}", content=form, headers=FORM)
            assert (answer.status_code, answer.headers["location"]) == (303, "/console/behaviour")
        assert [(what, word.agent, word.rule) for what, word, _ in rooms.behaviour.words] == [
            ("lift", "agent:analyst", "secret.egress"),
            ("block", "agent:thief", BY_HAND),
        ]
        assert [said["change"]["reason"] for said in console.changes()] == ["for the bank", "key is public"]


@pytest.mark.parametrize(
    "form",
    [
        "csrf=wrong&agent=agent:analyst&rule=secret.egress&for_s=0&reason=because",
        "csrf={csrf}&agent=agent:analyst&rule=secret.egress&for_s=0&reason=x",
        "csrf={csrf}&agent=agent:analyst&rule=secret.egress&for_s=999999999&reason=because",
        "csrf={csrf}&agent=&rule=secret.egress&for_s=0&reason=because",
    ],
)
@pytest.mark.parametrize("path", ["lift", "block"])
async def test_a_form_that_is_not_ours_or_not_whole_changes_nothing(tmp_path: Path, form: str, path: str) -> None:
    rooms = Rooms(tmp_path)
    rooms.behaviour.now = [a_held_agent()]
    async with world(tmp_path, rooms) as console:
        client = await signed_in(console)
        csrf = csrf_in((await client.get("/console/behaviour")).text)
        answer = await client.post(f"/console/behaviour/{path}", content=form.format(csrf=csrf), headers=FORM)
        assert answer.status_code in (403, 404)
        assert (rooms.behaviour.words, console.changes()) == ([], [])


async def test_a_reader_is_shown_it_and_refused_the_change(tmp_path: Path) -> None:
    rooms = Rooms(tmp_path)
    rooms.behaviour.now = [a_held_agent()]
    async with world(tmp_path, rooms) as console:
        client = await signed_in(console, "reader-token")
        page = await client.get("/console/behaviour")
        assert page.status_code == 200
        form = f"csrf={csrf_in(page.text)}&agent=agent:analyst&rule=secret.egress&for_s=0&reason=because"
        answer = await client.post("/console/behaviour/lift", content=form, headers=FORM)
        assert (answer.status_code, rooms.behaviour.words) == (403, [])


async def test_findings_of_the_own_tenant_are_listed_from_the_ledger(tmp_path: Path) -> None:
    async with world(tmp_path, Rooms(tmp_path)) as console:
        for tenant, rule in (("acme", "rule.ours"), ("globex", "rule.theirs")):
            said = {"rule": rule, "source": "behaviour.yaml:9", "sort": "rate", "answer": "throttle", "mode": "dry_run"}
            said |= {"change": "begins", "tenant": tenant, "agent": "agent:a", "call": "c1", "policy_revision": "r"}
            await console.ledger.append("behaviour.verdict", {"behaviour": said | {"facts": {"calls": 61}}})
        page = (await (await signed_in(console)).get("/console/behaviour")).text
        assert "rule.ours" in page
        assert "dry run" in page
        assert "rule.theirs" not in page
