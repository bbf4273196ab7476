"""A budget in the path of a call: held before, settled after, and nothing burnt by a call that never went out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec import structs

from audit import AuditUnavailable
from audit.entry import canonical
from controlplane.calls import Call, Decision, Effect, Obligation, Principal
from controlplane.cost import Budgets, MemoryBudgets
from controlplane.gateway.budget import KeepBudgets, held_for
from controlplane.gateway.gateway import Denied, Gateway
from controlplane.gateway.obligations import Obligations, ObligationUnmet
from controlplane.gateway.problems import problem_for
from controlplane.policy.obligations import parse_obligation, strictest
from inference.errors import BackendUnavailable
from tests.unit.gateway.conftest import AGENT, ALLOW, Rig, a_call

NOW = datetime(2026, 11, 21, 23, 0, tzinfo=UTC).timestamp()


def budget(max_usd: float = 1.0, key: str = "subject", per: str = "day") -> Obligation:
    return parse_obligation("budget", {"key": key, "per": per, "max_usd": max_usd})


def unheard_of(**limit: str) -> Obligation:
    """As another release of the policy room might oblige."""
    return Obligation("budget", {"limits": [{"name": "", "max_micro_usd": 1} | limit]})


class Till:
    """A gateway with a budget; ``bound`` and ``cost`` are what a call is held and found to cost, in micro dollars."""

    def __init__(self, rig: Rig, *duties: Obligation, bound: int = 400_000, cost: int = 100_000) -> None:
        self.rig, self.bound, self.cost, self.teams = rig, bound, cost, {"agent:seven": "blue"}
        rig.policy.decision = structs.replace(ALLOW, obligations=strictest(duties or (budget(),)))
        rig.obligations = Obligations({"budget": lambda principal, call, obligation: call})
        self.budgets = Budgets(MemoryBudgets(100), 0.8)
        self.keeper = KeepBudgets(
            self.budgets, lambda principal: self.teams.get(principal.subject, ""), lambda call: self.bound, lambda: NOW
        )

    @property
    def gateway(self) -> Gateway:
        plain = self.rig.gateway
        price: Callable[..., dict[str, int]] = lambda admission, outcome: {"micro_usd": self.cost}  # noqa: E731  one line
        return replace(plain, observer=self.keeper, budget=self.keeper, price=price)

    async def admit(self, principal: Principal = AGENT, call: Call | None = None) -> Any:
        return await self.gateway.admit_call(principal, call or a_call())

    async def call(self) -> None:
        async with self.gateway.relay(await self.admit()) as reply:
            assert [chunk async for chunk in reply.chunks]

    def spent(self) -> int:
        return sum(use.spent_micro_usd for use in self.budgets.uses(NOW))


async def test_calls_go_out_until_the_money_is_spent(rig: Rig) -> None:
    till = Till(rig, cost=350_000)
    await till.call()
    await till.call()
    with pytest.raises(Denied) as refused:
        await till.call()
    assert refused.value.decision.reason == "budget_exhausted"
    assert len(rig.backend.calls) == 2
    assert till.spent() == 700_000
    assert [entry[0] for entry in rig.ledger.entries] == ["intent", "outcome", "intent", "outcome", "deny"]


async def test_refusal_says_when_and_what_and_is_a_429(rig: Rig) -> None:
    till = Till(rig, budget(0.5))
    await till.call()
    till.bound = 450_000
    with pytest.raises(Denied) as refused:
        await till.call()
    problem = problem_for(refused.value)
    assert (problem.status, problem.retry_after_s) == (429, 3600.0)
    facts = problem.facts()["budget"]
    assert facts["limits"][0]["spent_micro_usd"] == 100_000
    assert (facts["limits"][0]["max_micro_usd"], facts["wanted_micro_usd"]) == (500_000, 450_000)


async def test_the_decision_says_what_was_held_on_whose_account_and_fits_the_ledger(rig: Rig) -> None:
    till = Till(rig, budget(), budget(9, "team", "month"), budget(100, "tenant", "hour"))
    admission = await till.admit()
    (duty,) = admission.decision.obligations
    assert duty.parameters["held_micro_usd"] == 400_000
    assert [(each["key"], each["who"]) for each in duty.parameters["limits"]] == [
        ("subject", "agent:seven"),
        ("team", "blue"),
        ("tenant", ""),
    ]
    canonical({"decision": {"obligations": [{"name": "budget", "parameters": dict(duty.parameters)}]}})
    held = held_for(admission.decision, "acme")
    assert held is not None
    assert {account.tenant for account in held.accounts} == {"acme"}


async def test_every_budget_must_have_room(rig: Rig) -> None:
    till = Till(rig, budget(100), budget(0.3, "tenant", "month"))
    with pytest.raises(Denied):
        await till.call()
    assert till.spent() == 0


@pytest.mark.parametrize("also", [ObligationUnmet("rate_limited"), ValueError()])
async def test_a_call_denied_for_another_reason_burns_nothing(rig: Rig, also: Exception) -> None:
    till = Till(rig)

    def unmet(principal: Principal, call: Call, obligation: Obligation) -> Call:
        raise also

    rig.obligations = Obligations({"budget": unmet})
    with pytest.raises(Denied):
        await till.call()
    assert till.spent() == 0


async def test_denied_by_policy_burns_nothing(rig: Rig) -> None:
    till = Till(rig)
    rig.policy.decision = structs.replace(rig.policy.decision, effect=Effect.DENY)
    with pytest.raises(Denied):
        await till.call()
    assert till.spent() == 0


async def test_a_call_that_cannot_be_recorded_burns_nothing(rig: Rig) -> None:
    till = Till(rig)
    rig.ledger.broken = AuditUnavailable("stalled")
    for _ in range(5):
        with pytest.raises(AuditUnavailable):
            await till.call()
    assert till.spent() == 0


async def test_a_call_that_never_reached_a_model_burns_nothing(rig: Rig) -> None:
    till = Till(rig, cost=0)
    rig.backend.refuses = BackendUnavailable("connect_failed")
    with pytest.raises(BackendUnavailable):
        await till.call()
    assert till.spent() == 0


async def test_what_nobody_can_price_stays_as_it_was_held(rig: Rig) -> None:
    till = Till(rig)
    gateway = replace(till.gateway, price=lambda admission, outcome: {})
    async with gateway.relay(await gateway.admit_call(AGENT, a_call())) as reply:
        assert [chunk async for chunk in reply.chunks]
    assert till.spent() == 400_000


@pytest.mark.parametrize(
    ("duty", "reason"),
    [
        (budget(key="team"), "budget_without_team"),
        (unheard_of(key="colour", per="day"), "unknown_budget_key"),
        (unheard_of(key="subject", per="week"), "obligation_failed"),
        (Obligation("budget", {}), "obligation_failed"),
    ],
)
async def test_a_budget_that_cannot_be_kept_denies(rig: Rig, duty: Obligation, reason: str) -> None:
    till = Till(rig)
    till.teams.clear()
    rig.policy.decision = Decision(effect=Effect.ALLOW, reason="granted", revision="r", obligations=(duty,))
    with pytest.raises(Denied) as refused:
        await till.call()
    assert refused.value.decision.reason == reason


async def test_a_gateway_that_keeps_no_budgets_allows_nothing_that_has_one(rig: Rig) -> None:
    Till(rig)
    with pytest.raises(Denied) as refused:
        await rig.admit()
    assert refused.value.decision.reason == "unknown_obligation"
    assert rig.backend.calls == []


async def test_a_call_without_the_duty_is_none_of_the_tills_business(rig: Rig) -> None:
    till = Till(rig)
    rig.policy.decision = ALLOW
    await till.call()
    assert till.budgets.uses(NOW) == []
