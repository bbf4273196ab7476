"""What happens to money, and what saved answers spare."""

from __future__ import annotations

from controlplane.telemetry.inventory import Inventory, fails_open

MICRO = 1_000_000
JOULES_PER_MICRO_WATT_HOUR = 0.0036


class MoneyMetrics(Inventory):
    def _declare_money(self) -> None:
        self._cache_events = self._counter(
            "response_cache_events_total",
            "What the response cache did: hit, shared_hit, joined, miss, store, evict.",
            *("model", "event"),
        )
        self._cache_bytes = self._gauge("response_cache_bytes", "Bytes of saved answers in this process.")
        self._cache_shared_failures = self._counter(
            "response_cache_shared_failures_total", "Times that the shared store was no use, by cause.", "reason"
        )
        self._cost = self._counter("cost_usd_total", "What answered calls cost by their price.", "tenant", "model")
        self._cost_saved = self._counter(
            "cost_saved_usd_total", "What saved answers would have cost.", "tenant", "model"
        )
        self._energy = self._counter("energy_joules_total", "Energy of calls, estimated by the catalogue.", "model")
        self._budget_used = self._gauge(
            "budget_used_ratio", "Share of the fullest budget of its kind that is spent or held.", "tenant", "budget"
        )
        self._budget_warnings = self._counter(
            "budget_warnings_total", "Budgets whose use passed the share to warn of.", "tenant", "budget"
        )

    @fails_open
    def observe_response_cache(self, model: str, event: str) -> None:
        self._cache_events.child(model, event).inc()

    @fails_open
    def observe_response_cache_bytes(self, size_bytes: int) -> None:
        self._cache_bytes.child().set(size_bytes)

    @fails_open
    def observe_shared_cache_failed(self, reason: str) -> None:
        self._cache_shared_failures.child(reason).inc()

    def observe_cost(
        self, *, tenant: str, model: str, micro_usd: int, saved_micro_usd: int = 0, energy_uwh: int = 0
    ) -> None:
        try:
            self._cost[tenant, model].inc(micro_usd / MICRO)
            if saved_micro_usd:
                self._cost_saved.child(tenant, model).inc(saved_micro_usd / MICRO)
            if energy_uwh:
                self._energy.child(model).inc(energy_uwh * JOULES_PER_MICRO_WATT_HOUR)
        except Exception as error:  # noqa: BLE001  see fails_open
            self.broke("metrics", error)

    @fails_open
    def observe_budget_use(self, *, tenant: str, budget: str, ratio: float) -> None:
        """The fullest budget of one kind, as ``subject/day``; 0 when none of them lasts."""
        self._budget_used.child(tenant, budget).set(ratio)

    @fails_open
    def observe_budget_warning(self, *, tenant: str, budget: str) -> None:
        self._budget_warnings.child(tenant, budget).inc()
