"""Money wired: prices and budgets for the gateway, sums for the console, and how they begin and are kept."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import anyio
import anyio.to_thread
import msgspec

from audit import AuditUnavailable, LedgerReader, Record
from controlplane.calls import Principal
from controlplane.clock import Clock
from controlplane.console.cost_views import BudgetView, CostView
from controlplane.cost import Account, Budgets, BudgetUse, CostSettings, MemoryBudgets
from controlplane.cost.book import CostBook
from controlplane.cost.budgets import BudgetStore, BudgetsUnavailable
from controlplane.gateway.budget import KeepBudgets
from controlplane.gateway.pricing import PriceList
from controlplane.policy import BundlePolicy
from controlplane.policy.attributes import subject_attributes
from controlplane.telemetry.metrics import Metrics

Listen = Callable[[Callable[[Record], None]], None]
"""``audit.SqliteLedger.listen``."""

READ_S = 5.0
SAVE_S = 60.0
TEAM = "team"
log = logging.getLogger(__name__)


class Spending:
    """One gateway's. ``store`` keeps budgets; None: this process does. ``listen`` tells of every record of the ledger;
    without it the ledger is read on and on.

    ``prices`` is ``Gateway.price``; ``keeper`` is ``Gateway.budget`` and one of the observers; this is the console's
    ``CostsView``. ``begin`` before the first call, ``keep`` until the end.
    """

    def __init__(
        self,
        settings: CostSettings,
        policy: BundlePolicy,
        metrics: Metrics,
        clock: Clock,
        *,
        ledger: Path,
        state: Path,
        store: BudgetStore | None = None,
        listen: Listen | None = None,
    ) -> None:
        self._settings, self._metrics, self._clock, self._ledger, self._state = settings, metrics, clock, ledger, state
        self._listen = listen
        self._store = store or MemoryBudgets(settings.max_accounts)
        self._budgets = Budgets(self._store, settings.warn_ratio, self._warned, settings.max_accounts)
        self._book: CostBook | None = None
        self._restored = False
        self.prices = PriceList(lambda: policy.catalogue, settings)
        self.keeper = KeepBudgets(self._budgets, team_of(policy), self.prices.bound, clock.wall)

    async def begin(self) -> None:
        """Budgets as the ledger knows them, which is open by now. Raises ``AuditUnavailable``.

        A shared store that cannot be told now is told as soon as it can be; it refuses calls with a budget until then.
        """
        book = await anyio.to_thread.run_sync(self._open)
        if self._listen is not None:
            self._listen(book.learn)
        await anyio.to_thread.run_sync(book.catch_up)
        self._book = book
        await self._restore(self._opened.spent(self._clock.wall()))

    async def keep(self) -> None:
        """Until cancelled: read on, report, and now and then write the snapshot."""
        saved_at_s = self._clock.monotonic()
        while True:
            await anyio.sleep(READ_S)
            try:
                await anyio.to_thread.run_sync(self.catch_up)
                await self._heal()
                self._report()
                if self._clock.monotonic() - saved_at_s >= SAVE_S:
                    saved_at_s = self._clock.monotonic()
                    await anyio.to_thread.run_sync(self._opened.save)
            except AuditUnavailable as error:
                log.warning("costs cannot be read on", extra={"cause": error.reason})
            except Exception:
                log.exception("keeping the sums of costs broke; trying again")

    def save(self) -> None:
        """Write the snapshot, as at the end. Blocking."""
        self._opened.save()

    def catch_up(self) -> bool:
        return self._opened.catch_up(self._settings.scan_limit)

    def tenants(self) -> Iterable[str]:
        return self._opened.tenants()

    def report(self, by: Iterable[str], tenants: Iterable[str], since: str, until: str) -> Sequence[CostView]:
        rows = self._opened.report(by, tenants, since, until)
        return [CostView(**msgspec.structs.asdict(row.key), **msgspec.structs.asdict(row.sums)) for row in rows]

    def run(self, tenant: str, run: str) -> CostView | None:
        sums = self._opened.run(tenant, run)
        return None if sums is None else CostView(tenant=tenant, **msgspec.structs.asdict(sums))

    def budgets(self) -> Sequence[BudgetView]:
        return [budget_view(use) for use in self._budgets.uses(self._clock.wall())]

    @property
    def _opened(self) -> CostBook:
        if self._book is None:
            raise AuditUnavailable("closed")
        return self._book

    def _open(self) -> CostBook:
        settings, file = self._settings, self._state / "costs.json"
        return CostBook(
            LedgerReader(self._ledger),
            file=file,
            max_rows=settings.max_rows,
            max_runs=settings.max_runs,
            hears=self._listen is not None,
        )

    async def _heal(self) -> None:
        """A shared store that lost its memory gets it back. Calls under way are left out: they may end meanwhile."""
        if isinstance(self._store, MemoryBudgets):
            return
        spent = self._opened.spent(self._clock.wall(), with_open=not self._restored)
        met = {use.limit.account for use in self._budgets.uses(self._clock.wall())}
        await self._restore({account: each for account, each in spent.items() if account in met or not self._restored})

    async def _restore(self, spent: Mapping[Account, int]) -> None:
        try:
            await self._store.raise_to(spent)
            self._restored = True
        except BudgetsUnavailable as error:
            log.warning("budgets cannot be restored yet", extra={"cause": error.reason})

    def _report(self) -> None:
        for (tenant, budget), ratio in self._budgets.fullest(self._clock.wall()).items():
            self._metrics.observe_budget_use(tenant=tenant, budget=budget, ratio=ratio)

    def _warned(self, use: BudgetUse) -> None:
        account = use.limit.account
        kind = f"{account.key}/{account.per}"
        self._metrics.observe_budget_warning(tenant=account.tenant, budget=kind)
        facts = {"tenant": account.tenant, "budget": kind, "who": account.who, "part": account.name}
        log.warning("a budget is nearly used up", extra=facts | {"used_ratio": round(use.ratio, 3)})


def team_of(policy: BundlePolicy) -> Callable[[Principal], str]:
    """The ``team`` of the directory, or else of a verified claim; "" when neither says a word."""

    def team(principal: Principal) -> str:
        bundle = policy.bundle
        found = subject_attributes(bundle, principal, principal.subject).get(TEAM) if bundle is not None else None
        return found if isinstance(found, str) else ""

    return team


def budget_view(use: BudgetUse) -> BudgetView:
    account = use.limit.account
    return BudgetView(
        **msgspec.structs.asdict(account),
        until_s=account.until_s,
        spent_micro_usd=use.spent_micro_usd,
        max_micro_usd=use.limit.max_micro_usd,
    )
