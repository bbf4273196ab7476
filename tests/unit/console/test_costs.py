"""Costs over HTTP: nobody without the right, and nobody another tenant's."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass, field

import httpx2
import pytest
from fastapi import FastAPI

from controlplane.calls import Principal
from controlplane.console import ConsoleSettings, NotAllowed
from controlplane.console.cost_views import BudgetView, CostView
from controlplane.console.costs import CostsApi
from controlplane.console.guard import Guard
from controlplane.console.ports import ConsoleError
from controlplane.console.problems import problem_response
from controlplane.console.sessions import Sessions

RUN = "c" * 32
ALL = [CostView(tenant="acme", model="tiny", calls=2, micro_usd=30), CostView(tenant="globex", model="tiny", calls=1)]


@dataclass
class Costs:
    asked: list[tuple[list[str], list[str], str, str]] = field(default_factory=list)
    complete: bool = True

    def catch_up(self) -> bool:
        return self.complete

    def tenants(self) -> Iterable[str]:
        return ["acme", "globex"]

    def report(self, by: Iterable[str], tenants: Iterable[str], since: str, until: str) -> Sequence[CostView]:
        self.asked.append((list(by), list(tenants), since, until))
        return [view for view in ALL if view.tenant in self.asked[-1][1]]

    def run(self, tenant: str, run: str) -> CostView | None:
        return ALL[0] if (tenant, run) == ("acme", RUN) else None

    def budgets(self) -> Sequence[BudgetView]:
        common = {"key": "tenant", "who": "", "per": "day", "name": "", "since_s": 0, "until_s": 86400}
        return [
            BudgetView(tenant=tenant, spent_micro_usd=5, max_micro_usd=10, **common)  # type: ignore[arg-type]  # as listed
            for tenant in ("acme", "globex")
        ]


async def authorize(credential: str, action: str, resource: str) -> Principal:
    assert (action, resource) == ("read", "/api/costs")
    if credential not in ("acme", "globex"):
        raise NotAllowed("no_matching_rule")
    return Principal(subject="user:operator", tenant=credential, kind="user")


@pytest.fixture
def costs() -> Costs:
    return Costs()


@pytest.fixture
async def client(costs: Costs) -> AsyncGenerator[httpx2.AsyncClient]:
    app = FastAPI()
    app.state.guard = Guard(authorize, Sessions(ConsoleSettings(), lambda: 0.0))
    app.include_router(CostsApi(costs, lambda principal, tenant: principal.tenant == tenant).router())

    async def answer(_: object, error: Exception) -> object:
        return problem_response(error)

    app.add_exception_handler(ConsoleError, answer)  # type: ignore[arg-type]  # a response, whatever its class
    headers = {"authorization": "Bearer acme"}
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app), base_url="http://console.test", headers=headers
    ) as found:
        yield found


@pytest.mark.parametrize("path", ["/api/costs", "/api/costs/budgets", f"/api/costs/runs/{RUN}"])
async def test_costs_are_for_those_who_may_read_them(client: httpx2.AsyncClient, path: str) -> None:
    assert (await client.get(path)).status_code == 200
    assert (await client.get(path, headers={"authorization": "Bearer other"})).status_code == 403


async def test_sums_are_of_the_readers_own_tenant(client: httpx2.AsyncClient, costs: Costs) -> None:
    told = (await client.get("/api/costs", params={"by": ["tenant", "model"], "since": "2026-11-01"})).json()
    assert [(row["tenant"], row["micro_usd"]) for row in told["costs"]] == [("acme", 30)]
    assert (told["complete"], told["truncated"]) == (True, False)
    assert costs.asked == [(["tenant", "model"], ["acme"], "2026-11-01", "")]


async def test_a_ledger_that_is_still_being_read_is_said_to_be(client: httpx2.AsyncClient, costs: Costs) -> None:
    costs.complete = False
    assert (await client.get("/api/costs")).json()["complete"] is False


@pytest.mark.parametrize("query", ["by=colour", "since=yesterday", "until=2026-11-1"])
async def test_what_is_not_understood_is_refused(client: httpx2.AsyncClient, query: str) -> None:
    assert (await client.get(f"/api/costs?{query}")).status_code == 422


async def test_a_run_of_another_tenant_does_not_exist(client: httpx2.AsyncClient) -> None:
    assert (await client.get(f"/api/costs/runs/{RUN}")).json()["calls"] == 2
    answer = await client.get(f"/api/costs/runs/{RUN}", headers={"authorization": "Bearer globex"})
    assert (answer.status_code, answer.json()["reason"]) == (404, "unknown_run")


async def test_budgets_are_of_the_readers_own_tenant(client: httpx2.AsyncClient) -> None:
    told = (await client.get("/api/costs/budgets")).json()["budgets"]
    assert [(one["tenant"], one["spent_micro_usd"], one["max_micro_usd"]) for one in told] == [("acme", 5, 10)]
