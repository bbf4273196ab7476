"""Money wired: budgets survive a restart, teams come from the directory first, and use is warned of and shown."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from controlplane.calls import Call, Decision, Effect, Principal, Receipt
from controlplane.clock import Clock
from controlplane.cost import CostSettings, MemoryBudgets
from controlplane.cost.budgets import BudgetsUnavailable
from controlplane.gateway.gateway import Admission
from controlplane.gateway.outcome import Outcome
from controlplane.policy import BundlePolicy, Catalogue, ModelEntry
from controlplane.policy.obligations import parse_obligation, strictest
from controlplane.spending import Spending, team_of
from controlplane.telemetry.metrics import Metrics
from inference.backend import Usage
from tests.unit.cost.ledgers import Written, ledger_settings, written
from tests.unit.policy.bundles import Folder

AGENT = Principal(subject="agent:a", tenant="acme")
ENTRY = {"task": "chat", "backend": "b", "sensitivity": 1, "side_effect": "read", "cost_tier": "low", "owner": "acme"}
TINY = ModelEntry.model_validate(ENTRY | {"name": "tiny", "price": {"per_call_usd": 0.4}})
CALL = Call(id="c", door="test", action="infer", resource="/model/tiny", operation="Predict")


class Priced(BundlePolicy):
    @property
    def catalogue(self) -> Catalogue:
        return Catalogue(models={"tiny": TINY})


def duty(max_usd: float = 1.0) -> Decision:
    obliged = strictest([parse_obligation("budget", {"key": "subject", "per": "month", "max_usd": max_usd})])
    return Decision(effect=Effect.ALLOW, reason="granted", revision="r", obligations=obliged)


def spending(folder: Path, metrics: Metrics | None = None, store: Any = None) -> Spending:
    policy = Priced.__new__(Priced)
    paths = {"ledger": ledger_settings(folder).path, "state": folder / "state"}
    return Spending(CostSettings(), policy, metrics or Metrics(), Clock(), **paths, store=store)


async def one_call(till: Spending, ledger: Written) -> Decision:
    """As the gateway does it: hold, record, price, record, settle."""
    decision = await till.keeper.hold(duty(), AGENT, CALL)
    if decision.permits:
        (held,) = decision.obligations
        intent = await ledger.begin(budget=held.parameters)
        admission = Admission(CALL, AGENT, decision, Receipt(intent, 0, ""), 0.0, 0.0)
        outcome = Outcome(started_s=0.0, status="ok", http_status=200, usage=Usage(), ended_s=0.1)
        outcome.cost = till.prices(admission, outcome)
        await ledger.end(intent, cost=dict(outcome.cost))
        till.keeper.observe(admission, outcome, recorded=True)
    return decision


async def test_what_was_spent_is_still_spent_after_a_restart(tmp_path: Path) -> None:
    async with written(tmp_path) as ledger:
        first = spending(tmp_path)
        await first.begin()
        assert [(await one_call(first, ledger)).permits for _ in range(3)] == [True, True, False]
        first.catch_up()
        first.save()
        for again in (spending(tmp_path), spending(tmp_path)):
            await again.begin()
            refused = await one_call(again, ledger)
            assert (refused.permits, refused.reason) == (False, "budget_exhausted")
            (tmp_path / "state" / "costs.json").unlink(missing_ok=True)  # the second time from the ledger alone


async def test_sums_and_budgets_are_shown_and_warned_of(tmp_path: Path) -> None:
    metrics = Metrics()
    async with written(tmp_path) as ledger:
        till = spending(tmp_path, metrics)
        await till.begin()
        for _ in range(2):
            await one_call(till, ledger)
        assert till.catch_up()
        till._report()
    (row,) = till.report(["agent"], ["acme"], "", "")
    assert (row.agent, row.calls, row.micro_usd) == ("agent:a", 2, 800_000)
    assert till.report(["agent"], ["globex"], "", "") == []
    (budget,) = till.budgets()
    assert (budget.who, budget.spent_micro_usd, budget.max_micro_usd) == ("agent:a", 800_000, 1_000_000)
    assert budget.since_s <= time.time() < budget.until_s
    labels = {"tenant": "acme", "budget": "subject/month"}
    assert metrics.registry.get_sample_value("controlplane_budget_used_ratio", labels) == 0.8
    assert metrics.registry.get_sample_value("controlplane_budget_warnings_total", labels) == 1


@pytest.mark.parametrize(
    ("subject", "claims", "team"),
    [
        ("agent:known", {}, "blue"),
        ("agent:known", {"team": "red"}, "blue"),  # what is reviewed beats what is only signed
        ("agent:stranger", {"team": "red"}, "red"),
        ("agent:stranger", {"team": 7}, ""),
        ("agent:stranger", {}, ""),
    ],
)
def test_the_team_is_the_directorys_or_a_verified_claim(
    tmp_path: Path, subject: str, claims: dict[str, Any], team: str
) -> None:
    folder = Folder(tmp_path)
    folder.write(
        "tenants/acme/more.yaml",
        "tenant: acme\nprincipals:\n  - {id: 'agent:known', attributes: {team: blue}}\n",
    )
    policy = folder.policy()
    assert policy.status().error == ""
    assert team_of(policy)(Principal(subject=subject, tenant="acme", claims=claims)) == team
    assert team_of(policy)(Principal(subject="agent:known", tenant="globex")) == ""


class Forgetful:
    """As Redis is to us: it may be away, and may come back without its memory. Not one of this process."""

    def __init__(self) -> None:
        self.inner, self.is_away = MemoryBudgets(10), False

    async def hold(self, *args: Any) -> Any:
        return await self.inner.hold(*args)

    def add(self, *args: Any) -> None:
        self.inner.add(*args)

    async def raise_to(self, spent: Any) -> None:
        if self.is_away:
            raise BudgetsUnavailable("budget_unknown")
        await self.inner.raise_to(spent)


async def test_a_shared_store_that_was_away_or_forgot_is_told_what_was_spent(tmp_path: Path) -> None:
    store = Forgetful()
    store.is_away = True
    async with written(tmp_path) as ledger:
        earlier = spending(tmp_path)
        await earlier.begin()
        await one_call(earlier, ledger)
        till = spending(tmp_path, store=store)
        await till.begin()
        store.is_away = False
        await till._heal()
        await one_call(till, ledger)
        assert not (await one_call(till, ledger)).permits, "the first call was another gateway process's"
        store.inner = MemoryBudgets(10)
        till.catch_up()
        await till._heal()
        assert not (await one_call(till, ledger)).permits
