"""What policy decides, and which policy is in force."""

from __future__ import annotations

from controlplane.telemetry.buckets import DECISION_BUCKETS_S
from controlplane.telemetry.inventory import Inventory, fails_open


class PolicyMetrics(Inventory):
    def _declare_policy(self) -> None:
        self._decisions = self._counter("policy_decisions_total", "Decisions by effect and reason.", "effect", "reason")
        self._decision_duration = self._histogram(
            "policy_decision_duration_seconds", "Time to decide one call.", buckets=DECISION_BUCKETS_S
        ).child()
        self._policy_info = self._gauge("policy_info", "Always 1; the revision in force.", "revision")
        self._policy_loaded = self._gauge("policy_loaded", "1 when a policy is in force, else every call is refused.")
        self._policy_stale = self._gauge(
            "policy_stale", "1 when the files on disk are broken and the last good revision is in force."
        )
        self._policy_loaded_at = self._gauge(
            "policy_loaded_timestamp_seconds", "When the revision in force was loaded (Unix time)."
        )
        self._policy_reload_failures = self._counter(
            "policy_reload_failures_total", "Reloads refused because the files were broken."
        )
        self._rate_limited = self._counter(
            "rate_limited_total", "Calls refused by a limit or budget.", "tenant", "limit"
        )
        self._approvals = self._counter(
            "approvals_total", "Approvals by what happened: asked, given, refused, used, crowded.", "event"
        )
        self._approvals_waiting = self._gauge("approvals_waiting", "Calls that wait for people to approve them.")
        self._approvals_oldest = self._gauge(
            "approvals_oldest_wait_seconds", "How long the oldest of these has waited; 0 without any."
        )

    def observe_decision(self, *, effect: str, reason: str, duration_s: float) -> None:
        try:
            self._decisions[effect, reason].inc()
            self._decision_duration.observe(duration_s)
        except Exception as error:  # noqa: BLE001  see fails_open
            self.broke("metrics", error)

    @fails_open
    def observe_rate_limited(self, *, tenant: str, limit: str) -> None:
        self._rate_limited.child(tenant, limit).inc()

    @fails_open
    def observe_approval(self, event: str) -> None:
        self._approvals.child(event).inc()

    @fails_open
    def observe_approvals_waiting(self, waiting: int, oldest_wait_s: float) -> None:
        self._approvals_waiting.child().set(waiting)
        self._approvals_oldest.child().set(oldest_wait_s)

    @fails_open
    def observe_policy_loaded(self, *, revision: str, now_s: float) -> None:
        """``revision`` is in force from now on; ``now_s`` is Unix time."""
        self._policy_info.metric.clear()
        self._policy_info.metric.labels(revision[:12] or "none").set(1)
        self._policy_loaded.child().set(1)
        self._policy_stale.child().set(0)
        self._policy_loaded_at.child().set(now_s)

    @fails_open
    def observe_policy_reload_failed(self) -> None:
        """The files are broken. What was in force stays so; if nothing was, ``policy_loaded`` stays 0."""
        self._policy_reload_failures.child().inc()
        self._policy_stale.child().set(1)

    @fails_open
    def observe_policy_sound(self) -> None:
        """The files on disk are those in force again, as after a broken change was taken back."""
        self._policy_stale.child().set(0)
