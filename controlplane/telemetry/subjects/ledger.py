"""What happens to the ledger."""

from __future__ import annotations

from controlplane.telemetry.buckets import STEP_BUCKETS_S
from controlplane.telemetry.inventory import Inventory, fails_open


class LedgerMetrics(Inventory):
    def _declare_ledger(self) -> None:
        self._tree_size: int | None = None
        self._ledger_appends = self._counter("ledger_appends_total", "Entries made durable.", "kind")
        self._ledger_append_duration = self._histogram(
            "ledger_append_duration_seconds", "From asking for an entry until it is durable.", buckets=STEP_BUCKETS_S
        ).child()
        self._ledger_queue = self._gauge("ledger_queue_entries", "Entries waiting to be made durable.")
        self._ledger_failures = self._counter(
            "ledger_write_failures_total", "Entries that could not be made durable.", "reason"
        )
        self._ledger_lost = self._counter(
            "ledger_outcomes_lost_total", "Calls whose intent is in the ledger and whose outcome is not."
        )
        self._ledger_orphans = self._counter(
            "ledger_orphan_intents_total", "Intents found open at start and closed as unknown."
        )
        self._ledger_size = self._gauge("ledger_tree_size_entries", "Leaves under the newest checkpoint.")
        self._ledger_checkpoint_at = self._gauge(
            "ledger_checkpoint_timestamp_seconds", "When the newest checkpoint was signed (Unix time)."
        )

    def observe_append(self, *, kind: str, duration_s: float) -> None:
        try:
            self._ledger_appends[kind].inc()
            self._ledger_append_duration.observe(duration_s)
        except Exception as error:  # noqa: BLE001  see fails_open
            self.broke("metrics", error)

    @fails_open
    def observe_append_failed(self, reason: str) -> None:
        self._ledger_failures.child(reason).inc()

    @fails_open
    def observe_ledger_queue(self, entries: int) -> None:
        self._ledger_queue.child().set(entries)

    @fails_open
    def observe_outcome_lost(self) -> None:
        self._ledger_lost.child().inc()

    @fails_open
    def observe_orphan_intents(self, count: int) -> None:
        self._ledger_orphans.child().inc(count)

    @fails_open
    def observe_checkpoint(self, *, tree_size: int, now_s: float) -> None:
        """The newest checkpoint. Telling the same size again moves no time: there is no newer checkpoint then."""
        if tree_size != self._tree_size:
            self._tree_size = tree_size
            self._ledger_size.child().set(tree_size)
            self._ledger_checkpoint_at.child().set(now_s)
