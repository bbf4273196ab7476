"""What calls cost, for those who may know: sums by day, tenant, agent and model, a run's sum, and how budgets stand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from anyio import to_thread
from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel

from controlplane.calls import Principal
from controlplane.console.cost_views import BudgetView, CostsView, CostView
from controlplane.console.guard import GuardedRoute, permission
from controlplane.console.ports import NotFound
from controlplane.console.problems import DESCRIBED

RESOURCE = "/api/costs"
ROWS_AT_MOST = 5_000
Day = Annotated[str, Query(pattern=r"^(\d{4}-\d\d-\d\d)?$", description="UTC, as 2026-11-21; included.")]
Part = Literal["day", "tenant", "agent", "model"]


class CostList(BaseModel):
    """``complete`` is false while older records are still being read; ``truncated`` when there were more rows."""

    costs: Sequence[CostView]
    complete: bool
    truncated: bool


class BudgetList(BaseModel):
    budgets: Sequence[BudgetView]


class CostsApi:
    """``sees`` says whose costs a principal may look at: by default those of its own tenant, as for calls."""

    def __init__(self, costs: CostsView, sees: Callable[[Principal, str], bool]) -> None:
        self.costs, self.sees = costs, sees

    def router(self) -> APIRouter:
        router = APIRouter(route_class=GuardedRoute, responses=DESCRIBED, tags=["costs"])
        routes: list[tuple[str, Callable[..., Any]]] = [
            (RESOURCE, self.list_costs),
            (f"{RESOURCE}/budgets", self.list_budgets),
            (f"{RESOURCE}/runs/{{run}}", self.read_run),
        ]
        for path, operation in routes:
            router.add_api_route(
                path, operation, methods=["GET"], openapi_extra=permission("read", RESOURCE), name=operation.__name__
            )
        return router

    async def list_costs(
        self,
        request: Request,
        by: Annotated[list[Part], Query(description="May be repeated.")] = ["day", "model"],  # noqa: B006  never changed
        since: Day = "",
        until: Day = "",
    ) -> CostList:
        """Sums of what calls to models cost, from the ledger, of the tenants you may see."""
        principal: Principal = request.state.principal

        def look() -> CostList:
            complete = self.costs.catch_up()
            tenants = [tenant for tenant in self.costs.tenants() if self.sees(principal, tenant)]
            rows = self.costs.report(by, tenants, since, until)
            return CostList(costs=rows[-ROWS_AT_MOST:], complete=complete, truncated=len(rows) > ROWS_AT_MOST)

        return await to_thread.run_sync(look)

    async def list_budgets(self, request: Request) -> BudgetList:
        """Budgets that calls through this gateway met, in windows that have not ended."""
        principal: Principal = request.state.principal
        seen = [view for view in self.costs.budgets() if self.sees(principal, view.tenant)]
        return BudgetList(budgets=seen[:ROWS_AT_MOST])

    async def read_run(self, request: Request, run: Annotated[str, Path(pattern=r"^[0-9a-f]{32}$")]) -> CostView:
        """What the calls of one run cost together; a run is a W3C trace id, of your own tenant."""
        principal: Principal = request.state.principal

        def look() -> CostView | None:
            self.costs.catch_up()
            return self.costs.run(principal.tenant, run)

        found = await to_thread.run_sync(look)
        if found is None:
            raise NotFound("unknown_run", "no calls of yours belong to this run, or not among the latest")
        return found
