"""Questions to people, through the API and its pages: who may answer, what they are shown, and what counts as said."""

from __future__ import annotations

import html
import re
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx2
import pytest

from controlplane.approvals import Approver, Question, State
from tests.unit.console.rooms import Rooms
from tests.unit.console.test_more_pages import FORM, csrf_in, signed_in
from tests.unit.console.world import World, intent_body, world

YES = {"answer": "approve", "reason": "the customer asked for it in writing"}
NO = {"answer": "refuse", "reason": "nobody knows this account"}
TWO = (Approver("boss", 2),)


@pytest.fixture
def rooms(tmp_path: Path) -> Rooms:
    return Rooms(tmp_path)


@pytest.fixture
async def console(tmp_path: Path, rooms: Rooms) -> AsyncGenerator[World]:
    async with world(tmp_path, rooms) as console:
        yield console


def states(rooms: Rooms) -> dict[str, State]:
    return {each.id: each.state for each in rooms.approvals.book.standing(rooms.approvals.wall())}


def records(console: World) -> list[str]:
    return [record.kind for record in console.ledger.read(kinds=["approval.given", "approval.refused"])]


async def answered(console: World, token: str, question: str, said: dict[str, str]) -> httpx2.Response:
    return await console.client(token).post(f"/api/approvals/{question}", json=said)


async def page_of(console: World, token: str = "boss-token") -> str:
    page = await (await signed_in(console, token)).get("/console/approvals")
    assert page.status_code == 200
    return page.text


def text_of(page: str) -> str:
    """What a person reads."""
    return html.unescape(re.sub(r"<[^>]*>", "", page))


async def test_what_waits_comes_first_and_no_more_than_is_asked_for(rooms: Rooms, console: World) -> None:
    for number in (1, 2, 3):
        rooms.approvals.ask(number)
    assert (await answered(console, "boss-token", "q1", YES)).status_code == 200
    client = console.client("boss-token")
    found = (await client.get("/api/approvals", params={"limit": 2})).json()
    assert ([each["id"] for each in found["questions"]], found["more"]) == (["q2", "q3"], 1)
    whole = (await client.get("/api/approvals")).json()
    assert ([each["id"] for each in whole["questions"]], whole["more"]) == (["q2", "q3", "q1"], 0)
    assert (await client.get("/api/approvals", params={"limit": 0})).status_code == 422


async def test_an_approver_sees_what_waits_and_agrees_to_it_on_record(rooms: Rooms, console: World) -> None:
    rooms.approvals.ask()
    (waiting,) = (await console.client("boss-token").get("/api/approvals")).json()["questions"]
    assert (waiting["id"], waiting["state"], waiting["missing"]) == ("q1", "waiting", {"boss": 1})
    assert (waiting["subject"], waiting["chain"], waiting["rules"]) == (
        "agent:support",
        ["agent:helper"],
        [["support.refund.large", "roles/support.yaml:20"]],
    )
    assert '"amount": 4800' in waiting["shown"]
    done = await answered(console, "boss-token", "q1", YES)
    assert done.status_code == 200
    (word,) = (await console.client("boss-token").get("/api/approvals")).json()["questions"][0]["words"]
    assert (word["by"], word["roles"], word["approves"], word["ledger_index"]) == (
        "user:boss",
        ["boss"],
        True,
        done.json()["ledger_index"],
    )
    (record,) = console.ledger.read(kinds=["approval.given"])
    said = record.body["approval"]
    assert (said["by"], said["reason"], said["statement"]) == ("user:boss", YES["reason"], "statement-1")
    assert states(rooms) == {"q1": State.APPROVED}


@pytest.mark.parametrize(
    ("token", "status", "reason"),
    [
        ("", 401, "no_credential"),
        ("reader-token", 403, "no_matching_rule"),
        ("monitor-token", 403, "no_matching_rule"),
        ("nobody-token", 403, "rule_denied"),
        ("operator-token", 403, "delegated"),
        ("globex-token", 404, "unknown_question"),
    ],
)
async def test_nobody_else_says_anything(rooms: Rooms, console: World, token: str, status: int, reason: str) -> None:
    rooms.approvals.ask()
    rooms.approvals.roles |= {"user:operator": ("boss",), "user:reader": ("boss",)}
    for said in (YES, NO):
        answer = await answered(console, token, "q1", said)
        assert (answer.status_code, answer.json()["reason"]) == (status, reason)
    assert (rooms.approvals.said(), records(console)) == ([], [])


async def test_who_holds_no_role_of_the_rule_is_told_which_one_it_takes(rooms: Rooms, console: World) -> None:
    rooms.approvals.ask(approvers=(Approver("boss", 1), Approver("auditor", 2)))
    rooms.approvals.roles = {}
    refused = await answered(console, "boss-token", "q1", YES)
    assert (refused.status_code, refused.json()["reason"]) == (403, "not_an_approver")
    assert "boss or auditor" in refused.json()["detail"]


@pytest.mark.parametrize("own", [{"subject": "user:boss"}, {"chain": ("user:boss",)}])
async def test_nobody_approves_what_is_done_in_their_own_name(
    rooms: Rooms, console: World, own: dict[str, object]
) -> None:
    rooms.approvals.ask(**own)
    refused = await answered(console, "boss-token", "q1", YES)
    assert (refused.status_code, refused.json()["reason"]) == (403, "own_call")


@pytest.mark.parametrize(
    "broken",
    [{"answer": "maybe"}, {"reason": ""}, {"reason": "no"}, {"reason": "   "}, {"reason": "x" * 501}, {"more": "1"}],
)
async def test_what_is_no_answer_is_refused_and_not_said(rooms: Rooms, console: World, broken: dict[str, str]) -> None:
    rooms.approvals.ask()
    assert (await answered(console, "boss-token", "q1", YES | broken)).status_code == 422
    assert (rooms.approvals.said(), records(console)) == ([], [])


async def test_a_question_that_does_not_stand_cannot_be_answered(rooms: Rooms, console: World) -> None:
    rooms.approvals.ask()
    for unknown in ("q2", "%2e%2e", "q1%00"):
        answer = await answered(console, "boss-token", unknown, YES)
        assert answer.status_code == 404, unknown
    rooms.approvals.later_s = 901
    late = await answered(console, "boss-token", "q1", YES)
    assert (late.status_code, late.json()["reason"]) == (404, "unknown_question")
    assert records(console) == []


async def test_questions_of_another_tenant_are_nobodys_business(rooms: Rooms, console: World) -> None:
    rooms.approvals.ask(1, resource="/tool/ours")
    rooms.approvals.ask(2, tenant="globex", resource="/tool/theirs")
    (ours,) = (await console.client("boss-token").get("/api/approvals")).json()["questions"]
    assert ours["resource"] == "/tool/ours"
    assert "/tool/theirs" not in await page_of(console)
    client = await signed_in(console, "boss-token")
    form = {"csrf": csrf_in((await client.get("/console/approvals")).text), "question": "q2", **YES}
    answer = await client.post("/console/approvals", content=urlencode(form), headers=FORM)
    assert (answer.status_code, "unknown_question" in answer.text) == (404, True)
    assert (rooms.approvals.said(), records(console)) == ([], [])


async def test_a_word_that_comes_when_the_approval_was_used_is_told_to_be_too_late(
    rooms: Rooms, console: World
) -> None:
    question = rooms.approvals.ask()
    assert (await answered(console, "boss-token", "q1", YES)).status_code == 200
    rooms.approvals.meanwhile = lambda: rooms.approvals.book.take(question.statement, rooms.approvals.wall())
    late = await answered(console, "deputy-token", "q1", NO)
    assert (late.status_code, late.json()["reason"]) == (502, "question_over")
    assert states(rooms) == {}
    assert records(console) == ["approval.given", "approval.refused"]


async def test_without_a_ledger_nothing_is_heard(rooms: Rooms, console: World) -> None:
    rooms.approvals.ask()
    console.is_ledger_down = True
    for said in (YES, NO):
        answer = await answered(console, "boss-token", "q1", said)
        assert (answer.status_code, answer.json()["reason"]) == (503, "disk_full")
    client = await signed_in(console, "boss-token")
    form = {"csrf": csrf_in((await client.get("/console/approvals")).text), "question": "q1", **YES}
    page = await client.post("/console/approvals", content=urlencode(form), headers=FORM)
    assert (page.status_code, "not recorded, therefore not done" in page.text) == (503, True)
    assert (rooms.approvals.said(), states(rooms)) == ([], {"q1": State.WAITING})


async def test_after_one_no_there_is_no_yes(rooms: Rooms, console: World) -> None:
    rooms.approvals.ask()
    assert (await answered(console, "boss-token", "q1", NO)).status_code == 200
    for token in ("boss-token", "deputy-token"):
        answer = await answered(console, token, "q1", YES)
        assert (answer.status_code, answer.json()["reason"]) == (409, "already_refused")
    assert states(rooms) == {"q1": State.REFUSED}


@pytest.mark.parametrize(("said", "state"), [(YES, State.APPROVED), (NO, State.REFUSED)])
async def test_by_the_page_a_person_agrees_or_refuses(
    rooms: Rooms, console: World, said: dict[str, str], state: State
) -> None:
    rooms.approvals.ask(1)
    rooms.approvals.ask(2)
    client = await signed_in(console, "boss-token")
    form = {"csrf": csrf_in((await client.get("/console/approvals")).text), "question": "q2", **said}
    done = await client.post("/console/approvals", content=urlencode(form), headers=FORM)
    assert (done.status_code, done.headers["location"]) == (303, "/console/approvals")
    assert states(rooms) == {"q1": State.WAITING, "q2": state}
    assert rooms.approvals.said() == [("user:boss", said is YES, said["reason"])]
    assert said["reason"] in (await client.get("/console/approvals")).text


@pytest.mark.parametrize(
    ("broken", "status"),
    [
        ({"csrf": "guess"}, 403),
        ({"csrf": ""}, 403),
        ({"reason": "  x "}, 403),
        ({"answer": "maybe"}, 404),
        ({"answer": ""}, 404),
        ({"question": "q9"}, 404),
        ({"question": ""}, 404),
    ],
)
async def test_a_form_that_is_not_ours_or_not_whole_says_nothing(
    rooms: Rooms, console: World, broken: dict[str, str], status: int
) -> None:
    rooms.approvals.ask()
    client = await signed_in(console, "boss-token")
    whole = {"csrf": csrf_in((await client.get("/console/approvals")).text), "question": "q1", **YES}
    answer = await client.post("/console/approvals", content=urlencode(whole | broken), headers=FORM)
    assert (answer.status_code, "Not done" in answer.text) == (status, True)
    foreign = FORM | {"origin": "https://evil.example"}
    assert (await client.post("/console/approvals", content=urlencode(whole), headers=foreign)).status_code == 403
    assert (rooms.approvals.said(), records(console)) == ([], [])


async def test_the_page_says_who_wants_what_by_which_rule_until_when_and_who_must_agree(
    rooms: Rooms, console: World
) -> None:
    rooms.approvals.ask(approvers=TWO, action="infer", operation="Predict")
    assert (await answered(console, "deputy-token", "q1", YES)).status_code == 200
    page = await page_of(console)
    assert 'href="/console/calls/q1"' in page
    for said in (
        "agent:support through agent:helper of tenant acme",
        "infer, Predict",
        "support.refund.large roles/support.yaml:20",
        "1 more person with role boss",
        '"account": "DE02120300000000202051",',
        "15 min left",
        f"user:deputy for boss: {YES['reason']}",
    ):
        assert said in " ".join(text_of(page).split()), said


async def test_who_has_agreed_is_asked_no_more_and_may_take_it_back(rooms: Rooms, console: World) -> None:
    rooms.approvals.ask(approvers=TWO)
    await answered(console, "boss-token", "q1", YES)
    mine, theirs = await page_of(console), await page_of(console, "deputy-token")
    assert ('value="approve"' in mine, 'value="refuse"' in mine) == (False, True)
    assert "You have agreed." in mine
    assert ('value="approve"' in theirs, 'value="refuse"' in theirs) == (True, True)


async def test_an_approval_that_is_not_used_yet_can_be_taken_back_and_a_refusal_cannot(
    rooms: Rooms, console: World
) -> None:
    rooms.approvals.ask()
    await answered(console, "boss-token", "q1", YES)
    page = await page_of(console, "deputy-token")
    assert "approved, not used yet" in page
    assert ('value="approve"' in page, "Take it back" in page) == (False, True)
    await answered(console, "deputy-token", "q1", NO)
    page = await page_of(console)
    assert "<form" not in page.split("<main>")[1]
    assert (YES["reason"] in page, NO["reason"] in page) == (True, True)


@pytest.mark.parametrize(
    ("token", "asked", "why"),
    [
        ("boss-token", {"subject": "user:boss"}, "nobody approves a call of their own"),
        ("boss-token", {"approvers": (Approver("auditor", 1),)}, "this takes somebody who holds auditor"),
        ("operator-token", {}, "a token that acts for somebody gives none"),
        ("reader-token", {}, "policy does not let you answer questions"),
    ],
)
async def test_who_cannot_answer_has_no_form_and_is_told_why(
    rooms: Rooms, console: World, token: str, asked: dict[str, object], why: str
) -> None:
    rooms.approvals.roles |= {"user:reader": ("boss",)}
    rooms.approvals.ask(**asked)
    page = (await page_of(console, token)).split("<main>")[1]
    assert "You cannot answer this" in page
    assert why in page
    assert "<form" not in page


async def test_what_a_hostile_agent_writes_is_shown_harmlessly_and_readably(rooms: Rooms, console: World) -> None:
    hostile = "</pre><script>alert(1)</script>\u202egpj.exe\x1b[2J\x00\r\u2066\u00a0\ufeff ÆØ"
    rooms.approvals.ask(subject=hostile, resource=f"/tool/{hostile}", operation=hostile, shown=f"{{\n  {hostile}\n}}")
    page = (await page_of(console)).split("<main>")[1]
    assert not re.search("[\u202e\u2066\u00a0\ufeff\x00\x1b\r]", page)
    assert "<script" not in page
    shown = text_of(page)
    assert shown.count("</pre><script>alert(1)</script>\\u202egpj.exe\\u001b[2J\\u0000\\r\\u2066\\u00a0\\ufeff ÆØ") >= 4
    assert page.count("</pre>") == page.count("<pre")


async def test_a_long_call_is_shown_whole_and_its_length_is_told(rooms: Rooms, console: World) -> None:
    entries = [f'  "{number:04}": "{"x" * 8}",' for number in range(800)]
    rooms.approvals.ask(shown="\n".join(["{", *entries, "}"]))
    page = text_of(await page_of(console))
    assert all(entry in page for entry in entries)
    assert "802 lines" in page
    page = text_of(await shown_as(rooms, console, "x" * 16_000))
    assert "x" * 16_000 in page
    assert "1 line, 16,000 characters" in page


async def shown_as(rooms: Rooms, console: World, shown: str) -> str:
    rooms.approvals.ask(2, shown=shown)
    return await page_of(console)


async def test_nothing_is_pushed_out_of_sight_by_empty_lines(rooms: Rooms, console: World) -> None:
    page = text_of(await shown_as(rooms, console, "harmless" + "\n \n\t" * 4_000 + "\nthe point\n\n\nend"))
    assert "harmless\n… 8,000 empty lines\nthe point\n\n\nend" in page


async def test_a_call_without_a_body_is_said_to_have_none(rooms: Rooms, console: World) -> None:
    assert "A call without a body." in await shown_as(rooms, console, "")


@pytest.mark.parametrize(
    ("token", "said"),
    [
        ("boss-token", "2 calls wait for your approval."),
        ("deputy-token", "1 call waits for your approval."),
        ("operator-token", ""),
        ("reader-token", ""),
        ("globex-token", ""),
    ],
)
async def test_the_overview_tells_those_who_can_answer_that_something_waits(
    rooms: Rooms, console: World, token: str, said: str
) -> None:
    rooms.approvals.roles |= {"user:reader": ("boss",)}
    rooms.approvals.ask(1)
    rooms.approvals.ask(2, approvers=TWO)
    rooms.approvals.ask(3)
    await answered(console, "boss-token", "q3", YES)
    await answered(console, "deputy-token", "q2", YES)
    client = await signed_in(console, token)
    for path in ("/console", "/console/panels"):
        page = (await client.get(path)).text
        assert ("for your approval" in page) is bool(said)
        assert said in page
        assert (' href="/console/approvals">Look at' in page) is bool(said)


async def test_the_overview_asks_policy_before_it_tells(rooms: Rooms, console: World) -> None:
    rooms.approvals.ask()
    client = await signed_in(console, "boss-token")
    console.denied.add(("read", "/api/approvals"))
    assert "for your approval" not in (await client.get("/console")).text


def duty_of(question: Question, **changes: Any) -> dict[str, Any]:
    """As the gateway tells it in a call's decision."""
    given = [{"by": word.by, "at_ms": int(word.at_s * 1000), "index": word.index} for word in question.words]
    told = {"approvers": [{"by": each.role, "people": each.people} for each in question.approvers], "words": given}
    told |= {"id": question.id, "ttl_s": 900, "until_ms": int(question.until_s * 1000), "state": question.state.value}
    return {"name": "require_approval", "parameters": told | changes}


async def call_with(console: World, duty: dict[str, Any], *, denied: bool) -> str:
    body = intent_body(denied)
    body["decision"]["reason"] = "approval_required" if denied else "granted"
    body["decision"]["obligations"] = [duty]
    receipt = await console.ledger.append("deny" if denied else "intent", body, opens=not denied)
    return receipt.event_id


async def call_page(console: World, call_id: str) -> str:
    page = await (await signed_in(console, "boss-token")).get(f"/console/calls/{call_id}")
    assert page.status_code == 200, page.text
    return page.text


async def test_the_page_of_a_call_says_who_approved_it_and_why(rooms: Rooms, console: World) -> None:
    rooms.approvals.ask(approvers=TWO)
    for token in ("boss-token", "deputy-token"):
        await answered(console, token, "q1", YES)
    (question,) = rooms.approvals.book.standing(0)
    page = await call_page(console, await call_with(console, duty_of(question), denied=False))
    assert 'href="/console/calls/q1"' in page
    assert "require_approval" not in page
    assert "2 people with role boss" in text_of(page)
    for who, word in zip(("user:boss", "user:deputy"), question.words, strict=True):
        assert f"{who} for boss: {YES['reason']}" in text_of(page)
        assert f"#{word.index}" in page
    assert "/console/approvals" not in page.split("<main>")[1]


async def test_the_page_of_a_call_that_waits_leads_to_where_it_is_answered(rooms: Rooms, console: World) -> None:
    question = rooms.approvals.ask()
    page = (await call_page(console, await call_with(console, duty_of(question), denied=True))).split("<main>")[1]
    assert '<a href="/console/approvals">Waits for people</a>' in page
    past = duty_of(question, until_ms=1_763_733_000_000)
    page = (await call_page(console, await call_with(console, past, denied=True))).split("<main>")[1]
    assert ("/console/approvals" in page, "Waited for people until 2025-11-21" in page) == (False, True)


async def test_the_page_of_a_refused_call_says_who_refused_it(rooms: Rooms, console: World) -> None:
    rooms.approvals.ask(approvers=TWO)
    await answered(console, "boss-token", "q1", YES)
    await answered(console, "deputy-token", "q1", NO)
    (question,) = rooms.approvals.book.standing(0)
    page = await call_page(console, await call_with(console, duty_of(question), denied=True))
    assert re.search(r"refused\s*user:deputy for boss: nobody knows", text_of(page))
    assert re.search(r"agreed\s*user:boss for boss: the customer", text_of(page))
    assert "/console/approvals" not in page.split("<main>")[1]


async def test_the_page_of_a_call_that_came_to_no_question_shows_its_duty(console: World) -> None:
    duty = {"name": "require_approval", "parameters": {"approvers": [{"by": "boss", "people": 1}], "ttl_s": 900}}
    assert "require_approval" in await call_page(console, await call_with(console, duty, denied=True))


async def test_a_record_of_something_else_is_nobodys_word(rooms: Rooms, console: World) -> None:
    rooms.approvals.ask(1)
    await answered(console, "boss-token", "q1", YES)
    (question,) = rooms.approvals.book.standing(0)
    page = await call_page(console, await call_with(console, duty_of(question, id="q2"), denied=False))
    assert YES["reason"] not in page


async def test_lists_of_calls_say_that_it_was_an_approval_that_was_missing(rooms: Rooms, console: World) -> None:
    await console.call(denied=True, name="/tool/forbidden")
    client = await signed_in(console, "boss-token")
    for path in ("/console", "/console/calls"):
        assert "approval required" not in (await client.get(path)).text
    await call_with(console, duty_of(rooms.approvals.ask()), denied=True)
    for path in ("/console", "/console/calls"):
        assert (await client.get(path)).text.count("approval required") == 1


async def test_who_may_only_read_answers_by_no_form_either(rooms: Rooms, console: World) -> None:
    rooms.approvals.roles |= {"user:reader": ("boss",)}
    rooms.approvals.ask()
    client = await signed_in(console, "reader-token")
    form = {"csrf": csrf_in((await client.get("/console/approvals")).text), "question": "q1", **YES}
    answer = await client.post("/console/approvals", content=urlencode(form), headers=FORM)
    assert (answer.status_code, "no_matching_rule" in answer.text) == (403, True)
    assert (rooms.approvals.said(), records(console)) == ([], [])


async def test_many_questions_come_a_page_at_a_time_and_what_waits_first(rooms: Rooms, console: World) -> None:
    for number in range(1, 46):
        rooms.approvals.ask(number, subject=f"agent:{number % 5}", resource=f"/tool/number-{number:02}.")
    await answered(console, "boss-token", "q1", YES)
    client = await signed_in(console, "boss-token")

    async def shown(query: str) -> list[int]:
        page = (await client.get(f"/console/approvals{query}")).text
        return [int(each) for each in re.findall(r"<h2><code>/tool/number-(\d+)\.</code>", page)]

    first = (await client.get("/console/approvals")).text
    assert "1 to 20 of 45" in first
    assert 'href="/console/approvals?from=20"' in first
    assert await shown("") == list(range(2, 22))
    assert await shown("?from=20") == list(range(22, 42))
    assert await shown("?from=40") == [42, 43, 44, 45, 1]
    for nonsense in ("45", "-1", "x", "9" * 5_000, "\u0663"):
        assert (await shown(f"?from={nonsense}"))[:1] in ([2], [5])
