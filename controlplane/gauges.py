"""What nobody's call moves and operators still want to see: policy, breakers, ledger, observations. Fails open."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import anyio

from audit import SqliteLedger
from controlplane.adapting import Adapting
from controlplane.approvals import Book
from controlplane.approvals import State as Waiting
from controlplane.fleet import Fleet
from controlplane.observations import Observations
from controlplane.policy import BundlePolicy
from controlplane.response_cache import MemoryStore
from controlplane.telemetry.metrics import Metrics
from inference.routing import State

REPORT_S = 2.0
log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Gauges:
    metrics: Metrics
    policy: BundlePolicy
    ledger: SqliteLedger
    fleet: Fleet
    adapting: Adapting
    observations: Observations
    answers: MemoryStore
    approvals: Book
    wall_clock: Callable[[], float]
    _revision: str = ""
    _error: str = ""
    _dropped: dict[str, int] = field(default_factory=dict)
    _guarded: dict[str, tuple[int, int]] = field(default_factory=dict)

    async def keep_reporting(self) -> None:
        """Until cancelled. A look that breaks is logged and taken again: gauges never stop the gateway."""
        while True:
            try:
                await self.report()
            except Exception:
                log.exception("gauges could not be read; trying again")
            await anyio.sleep(REPORT_S)

    async def report(self) -> None:
        self._report_policy()
        for breaker in self.fleet.breakers.snapshot():
            self.metrics.observe_breaker(upstream=breaker.name, state=breaker.state.value)
        self._report_replicas()
        self.adapting.report()
        self._report_watching()
        self.metrics.observe_response_cache_bytes(self.answers.size_bytes)
        self._report_approvals()
        self.metrics.observe_ledger_queue(self.ledger.waiting)
        await self.ledger.probe()
        self.metrics.observe_checkpoint(tree_size=self.ledger.head.size, now_s=self.wall_clock())

    def _report_replicas(self) -> None:
        for one in self.fleet.replicas():
            status = one.status
            self.metrics.observe_replica(
                backend=one.backend,
                replica=status.name,
                is_ready=status.state is State.READY,
                in_flight=status.in_flight,
                waiting=status.waiting,
                kv_ratio=status.kv_ratio,
            )

    def _report_approvals(self) -> None:
        now_s = self.wall_clock()
        waiting = [each for each in self.approvals.standing(now_s) if each.state is Waiting.WAITING]
        self.metrics.observe_approvals_waiting(len(waiting), now_s - waiting[0].asked_s if waiting else 0.0)

    def _report_watching(self) -> None:
        self.metrics.observe_observations_unread(self.observations.unread_s)
        for reason, dropped in self.observations.dropped_by_reason.items():
            self.metrics.observe_observation_dropped(dropped - self._dropped.get(reason, 0), reason=reason)
            self._dropped[reason] = dropped
        for version, counts in self.fleet.guards.counts().items():
            rows, violating = self._guarded.get(version, (0, 0))
            fresh, bad = counts["rows"] - rows, counts["violating"] - violating
            self.metrics.observe_guarded_rows(model=version.partition("/")[0], sound=fresh - bad, violating=bad)
            self._guarded[version] = counts["rows"], counts["violating"]

    def _report_policy(self) -> None:
        status = self.policy.status()
        if status.revision != self._revision:
            self._revision = status.revision
            self.metrics.observe_policy_loaded(revision=status.revision, now_s=self.wall_clock())
        if status.error and status.error != self._error:
            self.metrics.observe_policy_reload_failed()
        if self._error and not status.error:
            self.metrics.observe_policy_sound()
        self._error = status.error
