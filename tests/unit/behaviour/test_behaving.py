"""Around the policy and the recorder: only an allow can become a deny, and a verdict is durable before its call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from audit import AuditUnavailable
from controlplane.behaviour import Behaving, Remembering
from controlplane.calls import Call, Decision, Principal, Receipt
from tests.unit.behaviour.rig import ALLOW, REFUSED, Rig, agent, bundle
from tests.unit.behaviour.test_sequences import LEAK


class Ledger:
    """Remembers in order; refuses to when told."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.failing: set[str] = set()

    async def append(self, kind: str, body: Mapping[str, Any]) -> None:
        if kind in self.failing:
            raise AuditUnavailable("disk_full")
        self.written.append(f"{kind} {body['behaviour']['change']}")

    async def record_intent(self, call: Call, principal: Principal, decision: Decision) -> Receipt:
        if "intent" in self.failing:
            raise AuditUnavailable("disk_full")
        self.written.append(f"{'intent' if decision.permits else 'deny'} {call.resource} {decision.reason}")
        return Receipt(call.id, len(self.written), "")

    async def record_outcome(self, admission: str, outcome: str) -> Receipt:
        self.written.append(f"outcome {admission} {outcome}")
        return Receipt("o", len(self.written), "")


class Policy:
    def __init__(self, decision: Decision = ALLOW) -> None:
        self.decision = decision

    def decide(self, principal: Principal, call: Call, now_s: float) -> Decision:
        return self.decision


class World:
    def __init__(self, **rules: Any) -> None:
        self.rig = Rig(bundle(**rules or {"sequences": [LEAK]}))
        self.ledger, self.policy = Ledger(), Policy()
        self.point = Behaving(self.policy, self.rig.watch)
        self.recorder = Remembering[str, str](self.ledger, self.rig.watch, self.ledger.append, lambda: self.rig.now_s)

    async def ask(self, name: str) -> str:
        """As ``Gateway.admit_call`` does it."""
        call = self.rig.call(name)
        decision = self.point.decide(agent(), call, self.rig.now_s)
        await self.recorder.record_intent(call, agent(), decision)
        return decision.reason


async def test_the_verdict_is_durable_before_the_denial_and_both_before_the_answer() -> None:
    world = World()
    await world.ask("vault")
    assert await world.ask("mail") == "behaviour_blocked"
    assert world.ledger.written == [
        "intent /tool/vault granted",
        "behaviour.verdict begins",
        "deny /tool/mail behaviour_blocked",
    ]


async def test_an_alert_is_durable_before_the_call_goes_out() -> None:
    world = World(sequences=[LEAK | {"answer": "alert"}])
    await world.ask("vault")
    await world.ask("mail")
    assert world.ledger.written[1:] == ["behaviour.verdict begins", "intent /tool/mail granted"]


async def test_a_verdict_that_cannot_be_recorded_keeps_its_call_from_going_out_and_stays_owed() -> None:
    world = World(sequences=[LEAK | {"answer": "alert"}])
    await world.ask("vault")
    world.ledger.failing = {"behaviour.verdict"}
    with pytest.raises(AuditUnavailable):
        await world.ask("mail")
    with pytest.raises(AuditUnavailable):
        await world.ask("look")
    assert world.ledger.written == ["intent /tool/vault granted"]
    world.ledger.failing = set()
    await world.ask("look")
    assert world.ledger.written[1:] == ["behaviour.verdict begins", "intent /tool/look granted"]


async def test_an_intent_that_cannot_be_recorded_never_happened() -> None:
    world = World()
    world.ledger.failing = {"intent"}
    with pytest.raises(AuditUnavailable):
        await world.ask("vault")
    world.ledger.failing = set()
    assert await world.ask("mail") == "granted"


async def test_a_call_that_a_later_duty_refuses_never_happened() -> None:
    world = World()
    call = world.rig.call("vault")
    assert world.point.decide(agent(), call, world.rig.now_s).permits
    await world.recorder.record_intent(call, agent(), REFUSED)
    assert await world.ask("mail") == "granted"


async def test_behaviour_never_allows_what_policy_denies() -> None:
    world = World()
    world.policy.decision = REFUSED
    assert await world.ask("vault") == "no_matching_rule"
    assert world.ledger.written == ["deny /tool/vault no_matching_rule"]


async def test_a_defect_denies(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    world = World()

    def broken(*_: object) -> Decision:
        raise KeyError("card 4111")

    monkeypatch.setattr(type(world.rig.watch), "judge", broken)
    assert await world.ask("look") == "behaviour_defect"
    assert "KeyError" in caplog.text
    assert "4111" not in caplog.text
    world.policy.decision = REFUSED
    assert await world.ask("look") == "no_matching_rule"


async def test_outcomes_pass_through() -> None:
    world = World()
    await world.recorder.record_outcome("a", "ok")
    assert world.ledger.written == ["outcome a ok"]


async def test_verdicts_of_calls_that_were_given_up_are_told_with_later_ones() -> None:
    """An agent may hang up while its call waits for a budget: then nobody records that call."""
    world = World(sequences=[LEAK | {"answer": "alert", "quiet_s": 0}])
    await world.ask("vault")
    for _ in range(1001):
        world.point.decide(agent(), world.rig.call("mail"), world.rig.now_s)
    await world.ask("look")
    assert world.ledger.written.count("behaviour.verdict begins") == 1000
