"""What happens in the loop: monitor, verdict, retraining, promotion."""

from __future__ import annotations

from controlplane.telemetry.inventory import Inventory, fails_open
from controlplane.telemetry.labels import States


class LoopMetrics(Inventory):
    def _declare_loop(self) -> None:
        self._drift_state = States(
            self._gauge("drift_state", "1 for the state a model version is in.", "model", "state")
        )
        self._drift_verdicts = self._counter("drift_verdicts_total", "Verdicts on models.", "model", "verdict")
        self._observations_dropped = self._counter(
            "drift_observations_dropped_total", "Observations that did not reach the monitor.", "reason"
        )
        self._observations_gap = self._gauge(
            "observations_gap_seconds", "How long nobody has asked for observations: the monitor is away."
        )
        self._guarded_rows = self._counter(
            "guarded_rows_total", "Rows held against the reference of their model's version.", "model", "verdict"
        )
        self._rows_skipped = self._counter(
            "monitor_rows_skipped_total", "Rows that the monitor read and did not count.", "model", "reason"
        )
        self._drift_evidence = self._gauge(
            "drift_evidence_ratio",
            "How far a detector is on its way to a verdict, 1 at the verdict.",
            "model",
            "detector",
        )
        self._drift_reports = self._counter(
            "drift_reports_total", "Reports beside verdicts, by what came of them.", "model", "outcome"
        )
        self._monitor_seen = self._counter("monitor_observations_total", "Observations the monitor has read.")
        self._monitor_gaps = self._counter(
            "monitor_gaps_total", "Stretches of calls that the monitor knows it never saw."
        )
        self._monitor_heartbeat = self._gauge(
            "monitor_heartbeat_timestamp_seconds", "When the monitor last finished a pass (Unix time)."
        )
        self._retraining_jobs = self._counter(
            "retraining_jobs_total", "Retraining jobs that ended, by outcome.", "model", "outcome"
        )
        self._retraining_running = self._gauge("retraining_jobs_running", "Retraining jobs at work.")
        self._promotions = self._counter(
            "promotions_total", "Challengers judged against their champion.", "model", "outcome"
        )

    @fails_open
    def observe_observation_dropped(self, count: int = 1, *, reason: str) -> None:
        self._observations_dropped.child(reason).inc(count)

    @fails_open
    def observe_observations_unread(self, seconds: float) -> None:
        self._observations_gap.child().set(seconds)

    @fails_open
    def observe_guarded_rows(self, *, model: str, sound: int, violating: int) -> None:
        self._guarded_rows.child(model, "sound").inc(sound)
        self._guarded_rows.child(model, "violating").inc(violating)

    @fails_open
    def observe_rows_skipped(self, *, model: str, reason: str, count: int) -> None:
        self._rows_skipped.child(model, reason).inc(count)

    @fails_open
    def observe_monitor_pass(self, *, observations: int, now_s: float) -> None:
        self._monitor_seen.child().inc(observations)
        self._monitor_heartbeat.child().set(now_s)

    @fails_open
    def observe_monitor_gap(self) -> None:
        self._monitor_gaps.child().inc()

    @fails_open
    def observe_drift_state(self, *, model: str, state: str) -> None:
        self._drift_state.enter(model, state)

    @fails_open
    def observe_verdict(self, *, model: str, verdict: str) -> None:
        self._drift_verdicts.child(model, verdict).inc()

    @fails_open
    def observe_drift_evidence(self, *, model: str, detector: str, ratio: float) -> None:
        """Evidence multiplies, so its way is that of its logarithm."""
        self._drift_evidence.child(model, detector).set(ratio)

    @fails_open
    def observe_drift_report(self, *, model: str, outcome: str) -> None:
        """``made``, ``failed``, ``timeout`` or ``no_rows``."""
        self._drift_reports.child(model, outcome).inc()

    @fails_open
    def observe_retraining_started(self) -> None:
        self._retraining_running.child().inc()

    @fails_open
    def observe_retraining_ended(self, *, model: str, outcome: str) -> None:
        self._retraining_running.child().dec()
        self._retraining_jobs.child(model, outcome).inc()

    @fails_open
    def observe_promotion(self, *, model: str, outcome: str) -> None:
        self._promotions.child(model, outcome).inc()
