"""Every metric of the product, in one file. Plain values come in; no room's types are known here.

Names start with ``controlplane_``, units are base units, labels are bounded (see ``labels.py``) and never carry a call,
a session or a subject. A refusal is not a failure: it has its own outcome. Fails open: no method raises; what broke is
counted and logged once.
"""

# long: every metric of the product stands here, and nowhere else
from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import wraps
from typing import Concatenate, ParamSpec

import anyio.to_thread
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder

from controlplane.telemetry.labels import Family, LabelBounds, States
from controlplane.telemetry.series import Count, Counter, Gauge, Histogram, Labelled, Level, S, Spread
from controlplane.telemetry.settings import LabelCaps

log = logging.getLogger(__name__)

PREFIX = "controlplane_"
CLOSED = "closed"  # the state in which a breaker begins
MICRO = 1_000_000
JOULES_PER_MICRO_WATT_HOUR = 0.0036

# Calls: the MCP convention's bounds, with 5 ms below them. The others: around their SLO bounds (10 ms, 100 ms).
CALL_BUCKETS_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)
DECISION_BUCKETS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1)
STEP_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2)

P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class MetricInfo:
    """What one metric is; ``name`` is the exposed name, with ``_total`` for a counter."""

    name: str
    type: str
    labels: tuple[str, ...]
    help: str

    def samples(self) -> dict[str, frozenset[str]]:
        """The names of the series it exposes, each with its labels."""
        labels = frozenset(self.labels)
        if self.type != "histogram":
            return {self.name: labels}
        return {f"{self.name}_bucket": labels | {"le"}, f"{self.name}_sum": labels, f"{self.name}_count": labels}


def fails_open(observe: Callable[Concatenate[Metrics, P], None]) -> Callable[Concatenate[Metrics, P], None]:
    @wraps(observe)
    def guarded(self: Metrics, /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            observe(self, *args, **kwargs)
        except Exception as error:  # noqa: BLE001  whatever breaks in here must not break a call
            self.broke("metrics", error)

    return guarded


class Metrics:
    """The product's metrics on a registry of their own."""

    def __init__(self, component: str = "gateway", version: str = "0", caps: LabelCaps | None = None) -> None:
        self.registry = CollectorRegistry()
        self._inventory: dict[str, MetricInfo] = {}
        self._complained: set[str] = set()
        self._tree_size: int | None = None
        self._bounds = LabelBounds((caps or LabelCaps()).of, self._overflowed)
        ProcessCollector(registry=self.registry)
        self._declare_telemetry()
        self._declare_calls()
        self._declare_policy()
        self._declare_resilience()
        self._declare_money()
        self._declare_overload()
        self._declare_ledger()
        self._declare_loop()
        self._build_info.child(component, version).set(1)

    def inventory(self) -> dict[str, MetricInfo]:
        """Every metric of the product by its exposed name."""
        return dict(self._inventory)

    async def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """Body and content type for a scrape, in the format that ``accept`` asks for; rendered in a thread."""
        encode, content_type = choose_encoder(accept)
        return await anyio.to_thread.run_sync(encode, self.registry), content_type

    # --- what is declared

    def _declare_telemetry(self) -> None:
        self._overflow = self._counter(
            "metric_label_overflow_total", "Observations whose label value was over its cap.", "label"
        )
        self._broken = self._counter(
            "telemetry_failures_total", "Observations lost because telemetry itself broke.", "part"
        )
        self._spans_dropped = self._counter(
            "trace_spans_dropped_total", "Spans that never reached the collector.", "reason"
        )
        self._build_info = self._gauge("build_info", "Always 1; which build this is.", "component", "version")

    def _declare_calls(self) -> None:
        self._calls = self._counter(
            "calls_total",
            "Calls decided: what was decided and what came of them.",
            *("tenant", "door", "resource_kind", "effect", "outcome"),
        )
        self._call_failures = self._counter(
            "call_failures_total", "Admitted calls that failed, by cause.", "resource_kind", "reason"
        )
        self._call_duration = self._histogram(
            "call_duration_seconds",
            "From the call's admission to the last byte of its reply.",
            *("door", "resource_kind"),
            buckets=CALL_BUCKETS_S,
        )
        self._overhead = self._histogram(
            "gateway_overhead_seconds",
            "Time the gateway adds before a call goes out: decision and durable intent.",
            "door",
            buckets=STEP_BUCKETS_S,
        )
        self._first_token = self._histogram(
            "first_token_seconds",
            "From admission to the first byte of a streamed model reply.",
            "model",
            buckets=CALL_BUCKETS_S,
        )
        self._inflight = self._gauge("calls_inflight", "Admitted calls that have not ended.", "door")
        self._tokens = self._counter(
            "tokens_total", "Tokens as the backend counted them.", "tenant", "model", "direction"
        )
        self._unauthenticated = self._counter(
            "unauthenticated_total", "Requests whose credential proved nobody.", "reason"
        )
        self._unadmitted = self._counter(
            "admission_failures_total",
            "Requests turned away because a part of ours was down, not because of policy.",
            *("door", "reason"),
        )

    def _declare_policy(self) -> None:
        self._decisions = self._counter("policy_decisions_total", "Decisions by effect and reason.", "effect", "reason")
        self._decision_duration = self._histogram(
            "policy_decision_duration_seconds", "Time to decide one call.", buckets=DECISION_BUCKETS_S
        )
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

    def _declare_resilience(self) -> None:
        states = self._gauge("breaker_state", "1 for the state a breaker is in.", "upstream", "state")
        self._breaker_state = States(states)
        self._breaker_transitions = self._counter(
            "breaker_transitions_total", "Changes of a breaker's state.", "upstream", "to"
        )
        self._breakers_shared = self._gauge(
            "breakers_shared", "1 while breakers are shared through a store, 0 while it cannot be reached.", "store"
        )
        self._declare_replicas()
        self._fallbacks = self._counter(
            "fallback_answers_total", "Answers that did not come from the first choice.", "model", "rung"
        )
        self._shadow_copies = self._counter(
            "shadow_copies_total", "Copies of predictions for a version on the side.", "model", "outcome"
        )
        self._shadow_rows = self._counter(
            "shadow_rows_total", "Rows of copies, by whether they say what the caller was told.", "model", "verdict"
        )

    def _declare_replicas(self) -> None:
        replica = ("backend", "replica")
        self._replica_ready = self._gauge("replica_ready", "1 while a replica is sent calls.", *replica)
        self._replica_in_flight = self._gauge("replica_in_flight_calls", "Calls that we have at a replica.", *replica)
        self._replica_waiting = self._gauge(
            "replica_waiting_calls", "Calls that wait inside a replica, as it says itself.", *replica
        )
        self._replica_kv = self._gauge(
            "replica_kv_cache_ratio", "How full a replica's KV cache is, as it says itself.", *replica
        )

    def _declare_overload(self) -> None:
        self._overload_limit = self._gauge(
            "overload_limit_calls", "Calls at once that a model server is given; less while it is throttled.", "gate"
        )
        self._overload_running = self._gauge("overload_running_calls", "Calls under way at a model server.", "gate")
        self._overload_waiting = self._gauge("overload_waiting_calls", "Calls in line for a model server.", "gate")
        self._overload_wait = self._histogram(
            "overload_wait_seconds",
            "Time in line of calls that had to wait and were let in.",
            "gate",
            buckets=CALL_BUCKETS_S,
        )
        self._overload_shed = self._counter(
            "overload_shed_total", "Calls sent away because too many came.", "gate", "cause"
        )
        self._adaptation_level = self._gauge(
            "adaptation_level", "How many steps an adaptation rule has gone; 0 is normal.", "rule", "target"
        )
        self._adaptation_transitions = self._counter(
            "adaptation_transitions_total", "Steps of adaptation rules, up and down.", "rule", "direction"
        )
        self._behaviour = self._counter(
            "behaviour_findings_total",
            "What rules of behaviour found: answered with, enforced or not, and what it changed.",
            *("rule", "answer", "mode", "change"),
        )
        self._behaviour_agents = self._gauge("behaviour_agents", "Agents whose behaviour is remembered.")
        self._behaviour_unknown = self._gauge(
            "behaviour_unknown_rules", "Rules that refuse because their past was not read from the ledger yet."
        )

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

    def _declare_ledger(self) -> None:
        self._ledger_appends = self._counter("ledger_appends_total", "Entries made durable.", "kind")
        self._ledger_append_duration = self._histogram(
            "ledger_append_duration_seconds", "From asking for an entry until it is durable.", buckets=STEP_BUCKETS_S
        )
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
        self._selections = self._counter(
            "selections_total", "Models chosen for a task: as the best, as the only one, or to try.", "model", "why"
        )
        self._feedback = self._counter("feedback_total", "Judged answers that the choice has learnt from.", "model")
        self._feedback_score = self._counter(
            "feedback_score_total", "Sum of their scores, each between 0 (wrong) and 1 (right).", "model"
        )
        self._selection_reviews = self._gauge(
            "selection_reviews", "Models that are not chosen until a person has looked at them."
        )

    # --- what happens to calls

    @fails_open
    def observe_unauthenticated(self, reason: str) -> None:
        self._unauthenticated.child(reason).inc()

    @fails_open
    def observe_unadmitted(self, *, door: str, reason: str) -> None:
        """A part of ours was down (ledger, identity); neither an allow nor a refusal by policy."""
        self._unadmitted.child(door, reason).inc()

    @fails_open
    def observe_decision(self, *, effect: str, reason: str, duration_s: float) -> None:
        self._decisions.child(effect, reason).inc()
        self._decision_duration.child().observe(duration_s)

    @fails_open
    def observe_refused(self, *, tenant: str, door: str, resource_kind: str) -> None:
        self._calls.child(tenant, door, resource_kind, "deny", "refused").inc()

    @fails_open
    def observe_admitted(self, *, door: str, overhead_s: float | None = None) -> None:
        """The intent is durable. MUST be followed by one ``observe_outcome`` for the same door."""
        self._inflight.child(door).inc()
        if overhead_s is not None:
            self._overhead.child(door).observe(overhead_s)

    @fails_open
    def observe_outcome(
        self,
        *,
        tenant: str,
        door: str,
        resource_kind: str,
        outcome: str,
        duration_s: float,
        reason: str = "",
        trace_id: str = "",
    ) -> None:
        """An admitted call ended as ``ok``, ``error``, ``timeout`` or ``cancelled``; ``reason`` only for failures.

        ``trace_id`` (32 hex digits) becomes an exemplar: give it only when the trace was kept.
        """
        self._inflight.child(door).dec()
        self._calls.child(tenant, door, resource_kind, "allow", outcome).inc()
        exemplar = {"trace_id": trace_id} if trace_id else None
        self._call_duration.child(door, resource_kind).observe(duration_s, exemplar)
        if reason:
            self._call_failures.child(resource_kind, reason).inc()

    @fails_open
    def observe_tokens(
        self, *, tenant: str, model: str, input_tokens: int | None = None, output_tokens: int | None = None
    ) -> None:
        if input_tokens:
            self._tokens.child(tenant, model, "input").inc(input_tokens)
        if output_tokens:
            self._tokens.child(tenant, model, "output").inc(output_tokens)

    @fails_open
    def observe_first_token(self, *, model: str, duration_s: float) -> None:
        self._first_token.child(model).observe(duration_s)

    @fails_open
    def observe_rate_limited(self, *, tenant: str, limit: str) -> None:
        self._rate_limited.child(tenant, limit).inc()

    @fails_open
    def observe_fallback(self, *, model: str, rung: str) -> None:
        self._fallbacks.child(model, rung).inc()

    # --- what happens to policy

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

    # --- what happens to backends

    @fails_open
    def observe_breaker(self, *, upstream: str, state: str) -> None:
        """The state a breaker is in (``closed``, ``open``, …); before anything is told it counts as closed."""
        if (self._breaker_state.enter(upstream, state) or CLOSED) != state:
            self._breaker_transitions.child(upstream, state).inc()

    @fails_open
    def observe_breakers_shared(self, is_reached: bool) -> None:
        """Whether what other gateways hold is known here. Never told by a gateway that is alone."""
        self._breakers_shared.child("redis").set(is_reached)

    @fails_open
    def observe_replica(
        self, *, backend: str, replica: str, is_ready: bool, in_flight: int, waiting: int | None, kv_ratio: float | None
    ) -> None:
        """``waiting`` and ``kv_ratio`` are None while the replica says nothing of itself; what it said before stays."""
        self._replica_ready.child(backend, replica).set(is_ready)
        self._replica_in_flight.child(backend, replica).set(in_flight)
        if waiting is not None:
            self._replica_waiting.child(backend, replica).set(waiting)
        if kv_ratio is not None:
            self._replica_kv.child(backend, replica).set(kv_ratio)

    # --- what happens when too much comes, and what adapts to it

    @fails_open
    def observe_gate(self, *, gate: str, limit: int, running: int, waiting: int) -> None:
        self._overload_limit.child(gate).set(limit)
        self._overload_running.child(gate).set(running)
        self._overload_waiting.child(gate).set(waiting)

    @fails_open
    def observe_waited(self, *, gate: str, duration_s: float) -> None:
        self._overload_wait.child(gate).observe(duration_s)

    @fails_open
    def observe_shed(self, *, gate: str, cause: str) -> None:
        self._overload_shed.child(gate, cause).inc()

    @fails_open
    def observe_adaptation(self, *, rule: str, target: str, level: int, direction: str) -> None:
        """A rule took a step ``up`` or ``down`` and is at ``level`` for ``target`` now, as ``model:risk``."""
        self._adaptation_level.child(rule, target).set(level)
        self._adaptation_transitions.child(rule, direction).inc()

    @fails_open
    def observe_behaviour(self, *, rule: str, answer: str, mode: str, change: str) -> None:
        self._behaviour.child(rule, answer, mode, change).inc()

    @fails_open
    def observe_behaviour_memory(self, *, agents: int, unknown_rules: int) -> None:
        self._behaviour_agents.child().set(agents)
        self._behaviour_unknown.child().set(unknown_rules)

    # --- what happens to money

    @fails_open
    def observe_response_cache(self, model: str, event: str) -> None:
        self._cache_events.child(model, event).inc()

    @fails_open
    def observe_response_cache_bytes(self, size_bytes: int) -> None:
        self._cache_bytes.child().set(size_bytes)

    @fails_open
    def observe_shared_cache_failed(self, reason: str) -> None:
        self._cache_shared_failures.child(reason).inc()

    @fails_open
    def observe_cost(
        self, *, tenant: str, model: str, micro_usd: int, saved_micro_usd: int = 0, energy_uwh: int = 0
    ) -> None:
        self._cost.child(tenant, model).inc(micro_usd / MICRO)
        if saved_micro_usd:
            self._cost_saved.child(tenant, model).inc(saved_micro_usd / MICRO)
        if energy_uwh:
            self._energy.child(model).inc(energy_uwh * JOULES_PER_MICRO_WATT_HOUR)

    @fails_open
    def observe_budget_use(self, *, tenant: str, budget: str, ratio: float) -> None:
        """The fullest budget of one kind, as ``subject/day``; 0 when none of them lasts."""
        self._budget_used.child(tenant, budget).set(ratio)

    @fails_open
    def observe_budget_warning(self, *, tenant: str, budget: str) -> None:
        self._budget_warnings.child(tenant, budget).inc()

    # --- what happens to the ledger

    @fails_open
    def observe_append(self, *, kind: str, duration_s: float) -> None:
        self._ledger_appends.child(kind).inc()
        self._ledger_append_duration.child().observe(duration_s)

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

    # --- what happens in the loop: monitor, verdict, retraining, promotion

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

    @fails_open
    def observe_shadow(self, model: str, outcome: str, rows: int, agreed: int) -> None:
        self._shadow_copies.child(model, outcome).inc()
        if rows:
            self._shadow_rows.child(model, "agreed").inc(agreed)
            self._shadow_rows.child(model, "differed").inc(rows - agreed)

    @fails_open
    def observe_selection(self, *, model: str, why: str) -> None:
        self._selections.child(model, why).inc()

    @fails_open
    def observe_feedback(self, *, model: str, score: float) -> None:
        self._feedback.child(model).inc()
        self._feedback_score.child(model).inc(score)

    @fails_open
    def observe_selection_reviews(self, count: int) -> None:
        self._selection_reviews.child().set(count)

    # --- what happens to telemetry itself

    @fails_open
    def observe_spans_dropped(self, count: int, *, reason: str) -> None:
        self._spans_dropped.child(reason).inc(count)

    def broke(self, part: str, error: Exception) -> None:
        """A part of telemetry broke: count it, say so once, and go on."""
        with suppress(Exception):  # then not even the counter works, and the log line is what is left
            self._broken.child(part).inc()
        if part not in self._complained:
            self._complained.add(part)
            log.error("telemetry broke; calls go on", extra={"part": part, "error": repr(error)})

    def _overflowed(self, label: str) -> None:
        self._overflow.child(label).inc()

    # --- how it is declared

    def _counter(self, name: str, text: str, *labels: str) -> Family[Count]:
        return self._declared("counter", Counter(PREFIX + name, text, labels))

    def _gauge(self, name: str, text: str, *labels: str) -> Family[Level]:
        return self._declared("gauge", Gauge(PREFIX + name, text, labels))

    def _histogram(self, name: str, text: str, *labels: str, buckets: tuple[float, ...]) -> Family[Spread]:
        return self._declared("histogram", Histogram(PREFIX + name, text, labels, buckets))

    def _declared(self, kind: str, metric: Labelled[S]) -> Family[S]:
        labels = tuple(metric.label_names)
        self._inventory[metric.name] = MetricInfo(metric.name, kind, labels, metric.text)
        self.registry.register(metric)
        return Family(metric, labels, self._bounds)
