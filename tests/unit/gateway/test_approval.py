"""An approval in the path of a call: asked for, used once, and bound to exactly what goes out."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from msgspec import structs
from pydantic import ValidationError

from audit import AuditUnavailable
from audit.entry import canonical
from controlplane.approvals import ApprovalSettings, Book, Word
from controlplane.approvals.book import LONGEST_S
from controlplane.calls import Call, Decision, Effect, Obligation, Principal, RuleRef
from controlplane.gateway.approval import KeepApprovals, shown, statement_of, wanted
from controlplane.gateway.discharges import met_later
from controlplane.gateway.gateway import NO_APPROVALS, Denied, Gateway
from controlplane.gateway.obligations import Obligations
from controlplane.gateway.problems import problem_for
from controlplane.policy.obligations import parse_obligation, strictest
from tests.unit.gateway.conftest import AGENT, ALLOW, Rig, a_call

NOW = 1_800_000_000.0
DUTY = parse_obligation("require_approval", {"by": "boss"})
RULE = RuleRef("support.refund.large", "roles/support.yaml:19")


@dataclass
class Office:
    """A gateway with an inbox. ``broken`` refuses every record of a use."""

    rig: Rig
    broken: Exception | None = None
    used: list[Mapping[str, Any]] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    roles: dict[str, tuple[str, ...]] = field(default_factory=lambda: {"ada": ("boss",), "bob": ("boss",)})
    settings: ApprovalSettings = field(default_factory=ApprovalSettings)

    def __post_init__(self) -> None:
        self.rig.policy.decision = structs.replace(ALLOW, rules=(RULE,), obligations=strictest([DUTY]))
        self.rig.obligations = Obligations({"require_approval": met_later, "budget": met_later})
        self.book = Book(self.settings)
        self.keeper = KeepApprovals(
            book=self.book,
            commit=lambda data: data.hex(),
            append=self.append,
            roles_of=lambda _tenant, person: self.roles.get(person, ()),
            max_bytes=4096,
            wall=lambda: NOW,
            told=self.told.append,
        )

    async def append(self, kind: str, body: Mapping[str, Any]) -> object:
        await asyncio.sleep(0)
        if self.broken:
            raise self.broken
        assert kind == "approval.used"
        canonical(body)
        self.used.append(body["approval"])
        return None

    @property
    def gateway(self) -> Gateway:
        return replace(self.rig.gateway, approvals=self.keeper)

    async def admit(self, **fields: Any) -> Any:
        return await self.gateway.admit_call(AGENT, a_call(**fields))

    async def refused(self, **fields: Any) -> Denied:
        with pytest.raises(Denied) as denied:
            await self.admit(**fields)
        return denied.value

    def approve(self, question: str) -> None:
        word = Word(by="ada", roles=("boss",), approves=True, at_s=NOW, reason="fine", index=3)
        assert self.book.hear(question, word)

    def refuse(self, question: str) -> None:
        word = Word(by="ada", roles=("boss",), approves=False, at_s=NOW, reason="not fine", index=3)
        assert self.book.hear(question, word)


@pytest.fixture
def office(rig: Rig) -> Office:
    return Office(rig)


async def test_the_refusal_says_whom_to_ask_and_what_to_do(office: Office) -> None:
    problem = problem_for(await office.refused(id="q1"))
    assert (problem.status, problem.kind, problem.reason, problem.retry_after_s) == (
        403,
        "denied",
        "approval_required",
        15.0,
    )
    assert problem.detail.endswith(
        "People must approve this call (1 with role boss); repeat it unchanged when they have. Question q1"
    )
    duty = problem.facts()["require_approval"]
    assert (duty["id"], duty["state"], duty["approvers"]) == ("q1", "waiting", [{"by": "boss", "people": 1}])
    assert office.rig.ledger.entries == [("deny", "approval_required")]
    assert office.told == ["asked"]


async def test_a_refusal_by_people_says_until_when(office: Office) -> None:
    await office.refused(id="q1")
    office.refuse("q1")
    problem = problem_for(await office.refused(id="q2"))
    assert (problem.reason, problem.retry_after_s) == ("approval_refused", 900.0)
    assert "repeat" not in problem.detail


async def test_the_same_call_is_not_asked_twice(office: Office) -> None:
    await office.refused(id="q1")
    again = await office.refused(id="q2")
    (duty,) = again.decision.obligations
    assert (duty.parameters["id"], duty.parameters["until_ms"]) == ("q1", int((NOW + 900) * 1000))
    assert len(office.book.standing(NOW)) == 1


async def test_the_approval_is_on_record_as_used_before_the_intent_is(office: Office) -> None:
    await office.refused(id="q1")
    office.approve("q1")
    office.rig.ledger.on_write = lambda: office.told.append("written")
    admission = await office.admit(id="c2")
    assert office.told == ["asked", "used", "written"]
    assert [(each["id"], each["call"]) for each in office.used] == [("q1", "c2")]
    (duty,) = admission.decision.obligations
    assert duty.parameters["words"] == [{"by": "ada", "approves": True, "at_ms": int(NOW * 1000), "index": 3}]
    canonical({"parameters": dict(duty.parameters)})


async def test_who_holds_the_role_no_longer_has_approved_nothing(office: Office) -> None:
    await office.refused(id="q1")
    office.approve("q1")
    office.roles["ada"] = ("desk",)
    refused = await office.refused(id="c2")
    (duty,) = refused.decision.obligations
    assert (refused.decision.reason, duty.parameters["id"], duty.parameters["words"]) == ("approval_required", "q1", [])
    office.approve("q1")
    office.roles["ada"] = ("boss",)
    await office.admit(id="c3")


async def test_who_refused_has_refused_whatever_becomes_of_them(office: Office) -> None:
    await office.refused(id="q1")
    office.refuse("q1")
    office.roles.clear()
    assert (await office.refused(id="c2")).decision.reason == "approval_refused"


async def test_of_two_at_once_one_goes_out(office: Office) -> None:
    await office.refused(id="q1")
    office.approve("q1")
    found = await asyncio.gather(*(office.admit(id=f"c{n}") for n in range(2, 5)), return_exceptions=True)
    assert sum(not isinstance(each, BaseException) for each in found) == 1
    assert sum(isinstance(each, Denied) for each in found) == 2


async def test_an_approval_whose_use_cannot_be_recorded_is_not_used(office: Office) -> None:
    await office.refused(id="q1")
    office.approve("q1")
    office.broken = AuditUnavailable("disk_full")
    with pytest.raises(AuditUnavailable):
        await office.admit(id="c2")
    assert [entry[0] for entry in office.rig.ledger.entries] == ["deny"]
    office.broken = None
    await office.admit(id="c3")


async def test_other_duties_stay_as_they_are(office: Office) -> None:
    other = Obligation("priority", {"level": 1})
    decision = structs.replace(ALLOW, obligations=(other, DUTY))
    found = await office.keeper.hold(decision, AGENT, a_call())
    assert (found.obligations[0], found.obligations[1].name) == (other, "require_approval")


async def test_the_intent_that_fails_has_cost_the_approval(office: Office) -> None:
    """The use is on record. Whoever wants to call again asks again: never may one approval serve two calls."""
    await office.refused(id="q1")
    office.approve("q1")
    office.rig.ledger.broken = AuditUnavailable("disk_full")
    with pytest.raises(AuditUnavailable):
        await office.admit(id="c2")
    office.rig.ledger.broken = None
    assert (await office.refused(id="c3")).decision.reason == "approval_required"


async def test_where_nobody_can_be_asked_nothing_goes_out(rig: Rig) -> None:
    office = Office(rig)
    plain = replace(office.gateway, approvals=NO_APPROVALS)
    with pytest.raises(Denied) as denied:
        await plain.admit_call(AGENT, a_call())
    assert denied.value.decision.reason == "unknown_obligation"


async def test_other_calls_are_not_touched(office: Office) -> None:
    other = structs.replace(ALLOW, obligations=(Obligation("priority", {"level": 1}),))
    assert await office.keeper.hold(other, AGENT, a_call()) is other
    denied = structs.replace(other, effect=Effect.DENY, obligations=(DUTY,))
    assert await office.keeper.hold(denied, AGENT, a_call()) is denied


@pytest.mark.parametrize(
    "parameters", [{}, {"approvers": [], "ttl_s": 60}, {"approvers": [{"by": "boss"}], "ttl_s": 60}]
)
async def test_a_duty_that_cannot_be_read_is_not_met(office: Office, parameters: dict[str, Any]) -> None:
    decision = structs.replace(ALLOW, obligations=(Obligation("require_approval", parameters),))
    found = await office.keeper.hold(decision, AGENT, a_call())
    assert (found.permits, found.reason) == (False, "obligation_failed")


async def test_too_many_questions_are_refused_and_told(rig: Rig) -> None:
    office = Office(rig, settings=ApprovalSettings(max_questions_per_agent=1))
    await office.refused(id="q1")
    refused = await office.refused(id="q2", body=b'{"another": 1}')
    assert (refused.decision.reason, office.told) == ("too_many_questions", ["asked", "crowded"])


async def test_money_that_was_held_is_given_back_when_nobody_has_approved(office: Office) -> None:
    held: list[str] = []

    class Till:
        async def hold(self, decision: Decision, principal: Principal, call: Call) -> Decision:
            held.append("held")
            return decision

        def give_back(self, decision: Decision, principal: Principal) -> None:
            held.append("given back")

    gateway = replace(office.gateway, budget=Till())
    with pytest.raises(Denied):
        await gateway.admit_call(AGENT, a_call(id="q1"))
    assert held == ["held", "given back"]
    office.approve("q1")
    await gateway.admit_call(AGENT, a_call(id="c2"))
    assert held == ["held", "given back", "held"]


OTHERS: dict[str, tuple[Principal, dict[str, Any]]] = {
    "body": (AGENT, {"body": b'{"amount": 2}'}),
    "resource": (AGENT, {"resource": "/model/other"}),
    "operation": (AGENT, {"operation": "completions"}),
    "version": (AGENT, {"version": 2}),
    "label": (AGENT, {"label": "canary"}),
    "door": (AGENT, {"door": "another"}),
    "mirrored header": (AGENT, {"headers": (("mcp-param-to", "x"),)}),
    "subject": (structs.replace(AGENT, subject="agent:eight"), {}),
    "tenant": (structs.replace(AGENT, tenant="globex"), {}),
    "actor": (structs.replace(AGENT, chain=("agent:helper",)), {}),
    "issuer": (structs.replace(AGENT, issuer="https://elsewhere"), {}),
}


@pytest.mark.parametrize("what", OTHERS)
def test_what_differs_in_anything_is_another_call(what: str) -> None:
    principal, fields = OTHERS[what]
    assert statement_of(principal, a_call(**fields), ()) != statement_of(AGENT, a_call(), ())


def test_what_belongs_to_one_request_alone_does_not_make_another_call() -> None:
    one = a_call(id="c1", traceparent="00-1", headers=(("traceparent", "00-1"),))
    two = a_call(id="c2", traceparent="00-2", headers=(("traceparent", "00-2"),))
    token = structs.replace(AGENT, token_id="another", expires_at_s=5)
    assert statement_of(AGENT, one, ()) == statement_of(token, two, ())


def mcp(body: bytes) -> Call:
    return a_call(door="mcp", resource="/mcp/bank/pay", body=body)


def test_policy_lets_no_answer_stand_longer_than_a_start_reads_back() -> None:
    parse_obligation("require_approval", {"by": "boss", "ttl_s": LONGEST_S})
    with pytest.raises(ValidationError):
        parse_obligation("require_approval", {"by": "boss", "ttl_s": LONGEST_S + 1})


def test_an_mcp_request_without_a_message_can_be_asked_for() -> None:
    assert wanted(mcp(b"")) == b""


def test_an_mcp_call_is_the_same_whatever_its_number_trace_and_order_of_names() -> None:
    one = mcp(b'{"id":1,"method":"tools/call","params":{"name":"pay","arguments":{"a":1,"b":2},"_meta":{"t":1}}}')
    two = mcp(b'{"params":{"arguments":{"b":2,"a":1},"_meta":{"t":2},"name":"pay"},"method":"tools/call","id":2}')
    other = mcp(b'{"id":1,"method":"tools/call","params":{"name":"pay","arguments":{"a":1,"b":3},"_meta":{"t":1}}}')
    task = mcp(b'{"id":1,"method":"tools/call","params":{"name":"pay","arguments":{"a":1,"b":2},"task":{}}}')
    assert statement_of(AGENT, one, ()) == statement_of(AGENT, two, ())
    assert len({statement_of(AGENT, each, ()) for each in (one, other, task)}) == 3


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"to":"x","amount":5}', '{\n  "to": "x",\n  "amount": 5\n}'),
        (b"", ""),
        (b"\xff\x00\n", "\\xff\x00\n"),
    ],
)
def test_people_are_shown_what_would_go_out(body: bytes, text: str) -> None:
    assert shown(a_call(body=body)) == text


def test_people_are_shown_what_is_asked_for_beside_the_body() -> None:
    call = a_call(version=2, label="canary", headers=(("mcp-param-to", "x"), ("traceparent", "00-1")))
    assert shown(call) == "version: 2\nlabel: canary\nmcp-param-to: x\n\n{}"


@pytest.mark.parametrize("depth", [400, 2000])
def test_little_that_is_nested_deeply_does_not_become_much(depth: int) -> None:
    body = b"[" * depth + b"]" * depth
    assert shown(a_call(body=body)) == body.decode()


async def test_nobody_is_asked_to_approve_what_is_too_long_to_be_read(office: Office) -> None:
    refused = await office.refused(id="q1", body=b'"' + b"a" * 4095 + b'"')
    assert (refused.decision.reason, office.book.standing(NOW)) == ("too_large_to_approve", [])
    assert (await office.refused(id="q2", body=b'"' + b"a" * 4094 + b'"')).decision.reason == "approval_required"


async def test_a_call_whose_name_no_record_takes_is_not_kept(office: Office) -> None:
    await office.refused(id="q1", resource="/mcp/bank/" + "a" * 1024)
    assert office.book.standing(NOW) == []
