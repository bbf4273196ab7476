"""What the ledger can tell at length: calls that somebody searches for, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from controlplane.calls import Principal
from controlplane.console.calls import CallHistory
from controlplane.console.cost_views import CostsView, CostView
from controlplane.console.frame import Frame, now_utc
from controlplane.console.plots import WIDTH, day_bars
from controlplane.console.ports import ConsolePorts, NotFound
from controlplane.console.search import EFFECTS, CallSearch, wanted_from

CALLS, COSTS = "/api/calls", "/api/costs"
FOUND_SHOWN = 50
DAYS = {"7": 7, "30": 30, "90": 90}
BAR_HEIGHT = 180.0


class LedgerPages:
    def __init__(self, ports: ConsolePorts, frame: Frame) -> None:
        self._ports, self._frame = ports, frame
        self._search = CallSearch(CallHistory(ports.ledger))

    def routes(self) -> list[BaseRoute]:
        readable = self._frame.readable
        return [Route("/console/calls", readable(self.calls)), Route("/console/costs", readable(self.costs))]

    async def calls(self, request: Request) -> Response:
        """Newest first; ``before`` goes on where the last page ended."""
        visitor = await self._frame.visitor(request, CALLS)
        query = dict(request.query_params)
        before = int(query["before"]) if query.get("before", "").isdecimal() and len(query["before"]) < 16 else None  # noqa: PLR2004  an index
        wanted = wanted_from(query)
        found = await to_thread.run_sync(
            lambda: self._search.find(wanted, lambda tenant: self._sees(visitor.principal, tenant), FOUND_SHOWN, before)
        )
        asked = {name: query.get(name, "") for name in ("q", "effect", "since", "until")}
        return self._frame.page(request, "calls.html", visitor, found=found, asked=asked, effects=EFFECTS)

    async def costs(self, request: Request) -> Response:
        visitor = await self._frame.visitor(request, COSTS)
        costs = self._ports.costs
        if costs is None:
            raise NotFound("no_costs", "nobody adds up costs here")
        days = request.query_params.get("days", "30")
        days = days if days in DAYS else "30"
        since = (now_utc().date() - timedelta(days=DAYS[days] - 1)).isoformat()
        facts = await to_thread.run_sync(lambda: self._summed(costs, visitor.principal, since))
        return self._frame.page(
            request, "costs.html", visitor, days=days, choices=list(DAYS), width=WIDTH, height=BAR_HEIGHT, **facts
        )

    def _sees(self, principal: Principal, tenant: str) -> bool:
        return self._ports.sees(principal, tenant)

    def _summed(self, costs: CostsView, principal: Principal, since: str) -> dict[str, Any]:
        complete = costs.catch_up()
        tenants = [tenant for tenant in costs.tenants() if self._sees(principal, tenant)]
        by_day = costs.report(["day", "model"], tenants, since, "")
        budgets = [each for each in costs.budgets() if self._sees(principal, each.tenant)]
        return {
            "complete": complete,
            "plot": day_bars(_by_day(by_day, since, now_utc().date()), BAR_HEIGHT),
            "total": _total(by_day),
            "models": dearest(costs.report(["model"], tenants, since, "")),
            "agents": dearest(costs.report(["agent"], tenants, since, "")),
            "budgets": sorted(budgets, key=lambda each: -each.spent_micro_usd / max(1, each.max_micro_usd)),
        }


def _by_day(rows: Sequence[CostView], since: str, today: date) -> Mapping[str, Mapping[str, int]]:
    """Every day from ``since`` to today, also those on which nothing was spent."""
    first = date.fromisoformat(since)
    days: dict[str, dict[str, int]] = {
        (first + timedelta(days=n)).isoformat(): {} for n in range((today - first).days + 1)
    }
    for row in rows:
        if row.day in days and row.micro_usd:
            days[row.day][row.model] = days[row.day].get(row.model, 0) + row.micro_usd
    return days


def _total(rows: Sequence[CostView]) -> Mapping[str, int]:
    names = ("calls", "micro_usd", "saved_micro_usd", "input_tokens", "output_tokens")
    return {name: sum(getattr(row, name) for row in rows) for name in names}


def dearest(rows: Sequence[CostView], limit: int = 20) -> Sequence[CostView]:
    return sorted(rows, key=lambda row: (-row.micro_usd, -row.calls, row.model, row.agent))[:limit]
