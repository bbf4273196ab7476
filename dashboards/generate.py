# ruff: noqa: INP001  a script beside its output, not a package
# long: a table of panels
"""Writes overview.json, the Grafana board. Run it after a change: ``python dashboards/generate.py``.

Plain Python and a table of panels. A test compares the committed file with what this writes; other tests parse every
query, hold it against the product's metric inventory and run it in a real Prometheus. Grafana itself has not seen it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BOARD = Path(__file__).with_name("overview.json")
SCHEMA_VERSION = 39  # Grafana 11
COLUMNS = 24
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
RATE = "[$__rate_interval]"


@dataclass(frozen=True, slots=True)
class Panel:
    title: str
    description: str
    unit: str
    queries: tuple[tuple[str, str], ...]  # (PromQL, legend)
    kind: str = "timeseries"
    width: int = 8


def rate(metric: str, *by: str, where: str = "") -> str:
    return f"sum by ({', '.join(by)}) (rate({metric}{{{where}}}{RATE}))"


def quantiles(histogram: str, *by: str, where: str = "") -> tuple[tuple[str, str], ...]:
    legend = " ".join(f"{{{{{label}}}}}" for label in by)
    buckets = rate(f"{histogram}_bucket", "le", *by, where=where)
    return tuple(
        (f"histogram_quantile({q}, {buckets})", f"p{round(q * 100)} {legend}".strip()) for q in (0.5, 0.95, 0.99)
    )


TENANT = 'tenant=~"$tenant"'
ALLOWED = f'effect="allow", {TENANT}'
FAILED_SHARE = (
    f'sum(rate(controlplane_calls_total{{{ALLOWED}, outcome=~"error|timeout"}}{RATE}))'
    f' / sum(rate(controlplane_calls_total{{{ALLOWED}, outcome!="cancelled"}}{RATE}))'
)
SPARED = 'event=~"hit|shared_hit|joined"'
ASKED = 'event=~"hit|shared_hit|joined|miss"'
IS_GATEWAY = 'on (job, instance) controlplane_build_info{component="gateway"}'
WITHOUT_POLICY = f"count(controlplane_policy_loaded == 0 and {IS_GATEWAY}) or vector(0)"

ROWS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    (
        "Is it all right?",
        (
            Panel(
                "Failed calls",
                "Share of admitted calls that ended in error or timeout. The objective is 0.1 %.",
                "percentunit",
                (
                    (
                        FAILED_SHARE,
                        "",
                    ),
                ),
                "stat",
                4,
            ),
            Panel(
                "Turned away by our own faults",
                "Requests a second that no policy refused: a part of ours was down.",
                "reqps",
                ((f"sum(rate(controlplane_admission_failures_total{RATE}))", ""),),
                "stat",
                4,
            ),
            Panel(
                "Gateways without policy",
                "Each refuses every call.",
                "short",
                (
                    (
                        WITHOUT_POLICY,
                        "",
                    ),
                ),
                "stat",
                4,
            ),
            Panel(
                "Breakers not closed",
                "Backends whose calls go to a fallback.",
                "short",
                (('sum(max by (upstream) (controlplane_breaker_state{state=~"open|held|half_open"}))', ""),),
                "stat",
                4,
            ),
            Panel(
                "Outcomes lost",
                "Calls made in the shown range whose outcome is not in the ledger. Must be 0.",
                "short",
                (("sum(increase(controlplane_ledger_outcomes_lost_total[$__range]))", ""),),
                "stat",
                4,
            ),
            Panel(
                "Ledger entries",
                "Leaves under the newest checkpoint.",
                "short",
                (("max(controlplane_ledger_tree_size_entries)", ""),),
                "stat",
                4,
            ),
        ),
    ),
    (
        "Calls",
        (
            Panel(
                "Calls by outcome",
                "What was decided and what came of it. Refused is policy's word, not a failure.",
                "reqps",
                ((rate("controlplane_calls_total", "outcome", where=TENANT), "{{outcome}}"),),
            ),
            Panel(
                "Calls by door",
                "Which protocols agents speak.",
                "reqps",
                ((rate("controlplane_calls_total", "door", where=TENANT), "{{door}}"),),
            ),
            Panel(
                "Calls by tenant",
                "Tenants over the cap are _other.",
                "reqps",
                ((rate("controlplane_calls_total", "tenant", where=TENANT), "{{tenant}}"),),
            ),
            Panel(
                "Failures by cause",
                "Stable words of the backend errors.",
                "reqps",
                (
                    (
                        rate("controlplane_call_failures_total", "resource_kind", "reason"),
                        "{{resource_kind}} {{reason}}",
                    ),
                ),
            ),
            Panel(
                "Call duration",
                "From admission to the last byte.",
                "s",
                quantiles("controlplane_call_duration_seconds", "resource_kind"),
            ),
            Panel(
                "In flight",
                "Admitted calls that have not ended.",
                "short",
                (("sum by (door) (controlplane_calls_inflight)", "{{door}}"),),
            ),
            Panel(
                "Added by the gateway",
                "Decision and durable intent, before a call goes out.",
                "s",
                quantiles("controlplane_gateway_overhead_seconds"),
            ),
            Panel(
                "First token",
                "From admission to the first byte of a streamed reply.",
                "s",
                quantiles("controlplane_first_token_seconds", "model"),
            ),
            Panel(
                "Tokens",
                "As the backends counted them.",
                "short",
                ((rate("controlplane_tokens_total", "model", "direction", where=TENANT), "{{model}} {{direction}}"),),
            ),
        ),
    ),
    (
        "Who may do what",
        (
            Panel(
                "Decisions",
                "By effect and reason.",
                "reqps",
                ((rate("controlplane_policy_decisions_total", "effect", "reason"), "{{effect}} {{reason}}"),),
            ),
            Panel(
                "Decision duration",
                "Time to decide one call.",
                "s",
                quantiles("controlplane_policy_decision_duration_seconds"),
            ),
            Panel(
                "Proved nobody, or over a limit",
                "Credentials refused by reason, calls refused by limit.",
                "reqps",
                (
                    (rate("controlplane_unauthenticated_total", "reason"), "credential {{reason}}"),
                    (rate("controlplane_rate_limited_total", "limit", where=TENANT), "limit {{limit}}"),
                ),
            ),
            Panel(
                "Policy in force",
                "Gateways by revision. More than one for long means that a gateway did not reload.",
                "short",
                (("count by (revision) (controlplane_policy_info)", "{{revision}}"),),
            ),
            Panel(
                "Age of the policy",
                "Since the revision in force was loaded.",
                "s",
                ((f"time() - (controlplane_policy_loaded_timestamp_seconds and {IS_GATEWAY})", "{{instance}}"),),
            ),
            Panel(
                "Policy on disk is broken",
                "1 while the last good revision is in force instead; and reloads that were refused.",
                "short",
                (
                    ("max by (instance) (controlplane_policy_stale)", "stale {{instance}}"),
                    ("sum(increase(controlplane_policy_reload_failures_total[$__rate_interval]))", "refused reloads"),
                ),
            ),
        ),
    ),
    (
        "Ledger",
        (
            Panel(
                "Entries made durable",
                "By kind. Intents and outcomes run side by side.",
                "wps",
                ((rate("controlplane_ledger_appends_total", "kind"), "{{kind}}"),),
            ),
            Panel(
                "Time to durable",
                "From asking for an entry until it is on disk.",
                "s",
                quantiles("controlplane_ledger_append_duration_seconds"),
            ),
            Panel(
                "Waiting and failing",
                "Entries in the queue, and entries that could not be written.",
                "short",
                (
                    ("sum(controlplane_ledger_queue_entries)", "waiting"),
                    (rate("controlplane_ledger_write_failures_total", "reason"), "failing {{reason}}"),
                ),
            ),
        ),
    ),
    (
        "Load and adaptation",
        (
            Panel(
                "Calls at a model's gate",
                "Calls under way and in line, and how many are let in at once; fewer while the gate is throttled.",
                "short",
                (
                    ("sum by (gate) (controlplane_overload_running_calls)", "{{gate}} running"),
                    ("sum by (gate) (controlplane_overload_waiting_calls)", "{{gate}} waiting"),
                    ("sum by (gate) (controlplane_overload_limit_calls)", "{{gate}} let in at once"),
                ),
            ),
            Panel(
                "Time in line",
                "Of calls that had to wait and were let in.",
                "s",
                quantiles("controlplane_overload_wait_seconds"),
            ),
            Panel(
                "Calls sent away",
                "Because too many came, by cause: the line was full, a more urgent call came, time ran out.",
                "reqps",
                ((rate("controlplane_overload_shed_total", "gate", "cause"), "{{gate}} {{cause}}"),),
            ),
            Panel(
                "Adaptation",
                "How many steps each rule has gone; and its steps in the shown range, which should be few.",
                "short",
                (
                    ("max by (rule, target) (controlplane_adaptation_level) > 0", "{{rule}} {{target}}"),
                    (rate("controlplane_adaptation_transitions_total", "rule", "direction"), "{{rule}} {{direction}}"),
                ),
            ),
            Panel(
                "Agents' behaviour",
                "What its rules found, enforced or in a dry run. Rules without their past refuse: that must end soon.",
                "short",
                (
                    (
                        rate("controlplane_behaviour_findings_total", "rule", "answer", "mode", "change"),
                        "{{rule}} {{answer}} {{mode}} {{change}}",
                    ),
                    ("sum(controlplane_behaviour_agents)", "agents remembered"),
                    ("sum(controlplane_behaviour_unknown_rules)", "rules without their past"),
                ),
            ),
        ),
    ),
    (
        "Backends and models",
        (
            Panel(
                "Breaker states",
                "1 for the state each breaker is in; and gateways that cannot share theirs, each deciding alone.",
                "short",
                (
                    ("max by (upstream, state) (controlplane_breaker_state) == 1", "{{upstream}} {{state}}"),
                    ("controlplane_breakers_shared == 0", "{{instance}} not shared"),
                ),
                "state-timeline",
            ),
            Panel(
                "Replicas ready",
                "Servers of each backend that are sent calls; and those that are left out, by name.",
                "short",
                (
                    ("sum by (backend) (controlplane_replica_ready)", "{{backend}} ready"),
                    ("controlplane_replica_ready == 0", "{{backend}} {{replica}} left out"),
                ),
            ),
            Panel(
                "Calls at replicas",
                "Calls that we have at each server, and those that it says wait inside.",
                "short",
                (
                    ("sum by (backend, replica) (controlplane_replica_in_flight_calls)", "{{backend}} {{replica}}"),
                    (
                        "sum by (backend, replica) (controlplane_replica_waiting_calls)",
                        "{{backend}} {{replica}} waiting",
                    ),
                ),
            ),
            Panel(
                "KV cache",
                "How full it is, as each server says. Calls wait, or are evicted and computed again, when it is full.",
                "percentunit",
                (("max by (backend, replica) (controlplane_replica_kv_cache_ratio)", "{{backend}} {{replica}}"),),
            ),
            Panel(
                "Answers from a fallback",
                "By rung of the ladder; and how often breakers changed their state, which should be rare.",
                "reqps",
                (
                    (rate("controlplane_fallback_answers_total", "model", "rung"), "{{model}} {{rung}}"),
                    (rate("controlplane_breaker_transitions_total", "upstream", "to"), "{{upstream}} to {{to}}"),
                ),
            ),
            Panel(
                "Model states",
                "1 for the state each model version is in, as the monitor sees it.",
                "short",
                (("max by (model, state) (controlplane_drift_state) == 1", "{{model}} {{state}}"),),
                "state-timeline",
            ),
            Panel(
                "Verdicts, jobs, promotions",
                "What the loop did in the shown range.",
                "short",
                (
                    ("sum by (model, verdict) (controlplane_drift_verdicts_total)", "verdict {{model}} {{verdict}}"),
                    ("sum by (model, outcome) (controlplane_retraining_jobs_total)", "job {{model}} {{outcome}}"),
                    ("sum(controlplane_retraining_jobs_running)", "jobs running"),
                    ("sum by (model, outcome) (controlplane_promotions_total)", "promotion {{model}} {{outcome}}"),
                ),
            ),
            Panel(
                "Copies to a shadow",
                "Copies by what came of them, and the share of rows on which the shadow says what the caller was told.",
                "short",
                (
                    (rate("controlplane_shadow_copies_total", "model", "outcome"), "{{model}} {{outcome}}"),
                    (
                        rate("controlplane_shadow_rows_total", "model", where='verdict="agreed"')
                        + " / "
                        + rate("controlplane_shadow_rows_total", "model"),
                        "{{model}} agreed",
                    ),
                ),
            ),
            Panel(
                "On the way to a verdict",
                "How far each detector has come, by logarithms; a verdict falls at 1, and starts it anew.",
                "percentunit",
                (("max by (model, detector) (controlplane_drift_evidence_ratio)", "{{model}} {{detector}}"),),
            ),
            Panel(
                "Reports beside verdicts",
                "By what came of them. A report that fails or takes too long holds up no verdict.",
                "short",
                (("sum by (model, outcome) (controlplane_drift_reports_total)", "{{model}} {{outcome}}"),),
            ),
            Panel(
                "Monitor",
                "Observations it reads, and those it never got.",
                "short",
                (
                    (f"sum(rate(controlplane_monitor_observations_total{RATE}))", "read"),
                    (f"sum(rate(controlplane_drift_observations_dropped_total{RATE}))", "dropped"),
                    (f"sum(rate(controlplane_monitor_gaps_total{RATE}))", "gaps"),
                    (rate("controlplane_monitor_rows_skipped_total", "reason"), "not counted: {{reason}}"),
                ),
            ),
            Panel(
                "Nobody watches",
                "How long ago the monitor last asked for observations. Calls go on without it; verdicts do not.",
                "s",
                (("max(controlplane_observations_gap_seconds)", "unread"),),
            ),
            Panel(
                "Rows against their reference",
                "Of models that asked for the guard, by whether they look like the rows that the version was made for.",
                "short",
                ((rate("controlplane_guarded_rows_total", "model", "verdict"), "{{model}} {{verdict}}"),),
            ),
            Panel(
                "Telemetry's own losses",
                "Spans, observations and label values that did not make it. Calls are not affected.",
                "short",
                (
                    (rate("controlplane_trace_spans_dropped_total", "reason"), "spans {{reason}}"),
                    (rate("controlplane_metric_label_overflow_total", "label"), "overflow {{label}}"),
                    (rate("controlplane_telemetry_failures_total", "part"), "broken {{part}}"),
                ),
            ),
        ),
    ),
    (
        "Choosing among models",
        (
            Panel(
                "Models chosen",
                "By why: the best for the task, the only one, or one to be tried.",
                "reqps",
                ((rate("controlplane_selections_total", "model", "why"), "{{model}} {{why}}"),),
            ),
            Panel(
                "What answers are worth",
                "Mean score of judged answers, between 0 and 1; and how many are judged.",
                "short",
                (
                    (
                        rate("controlplane_feedback_score_total", "model")
                        + " / "
                        + rate("controlplane_feedback_total", "model"),
                        "{{model}} score",
                    ),
                    (rate("controlplane_feedback_total", "model"), "{{model}} judged a second"),
                ),
            ),
            Panel(
                "Waiting for a person",
                "Models that are not chosen until somebody has looked at them.",
                "short",
                (("max(controlplane_selection_reviews)", "under review"),),
            ),
        ),
    ),
    (
        "Money and saved answers",
        (
            Panel(
                "Spending",
                "US dollars an hour by model, and what saved answers did not cost.",
                "currencyUSD",
                (
                    ("3600 * " + rate("controlplane_cost_usd_total", "model", where=TENANT), "{{model}}"),
                    ("3600 * " + rate("controlplane_cost_saved_usd_total", "model", where=TENANT), "saved {{model}}"),
                ),
            ),
            Panel(
                "Fullest budgets",
                "Share of the fullest budget of each kind that is spent or held, and warnings in the shown range.",
                "percentunit",
                (
                    ("max by (tenant, budget) (controlplane_budget_used_ratio)", "{{tenant}} {{budget}}"),
                    (
                        "sum by (tenant, budget) (increase(controlplane_budget_warnings_total[$__range]))",
                        "warned {{tenant}} {{budget}}",
                    ),
                ),
            ),
            Panel(
                "Response cache",
                "Share of the calls with leave to be saved that a saved answer, or an equal call under way, spared.",
                "percentunit",
                (
                    (
                        rate("controlplane_response_cache_events_total", "model", where=SPARED)
                        + " / "
                        + rate("controlplane_response_cache_events_total", "model", where=ASKED),
                        "{{model}}",
                    ),
                ),
            ),
            Panel(
                "Response cache, stored",
                "Bytes in this process; answers that had to go for others; failures of the shared store.",
                "short",
                (
                    ("sum(controlplane_response_cache_bytes)", "bytes"),
                    (
                        rate("controlplane_response_cache_events_total", "event", where='event=~"store|evict"'),
                        "{{event}}",
                    ),
                    (rate("controlplane_response_cache_shared_failures_total", "reason"), "shared {{reason}}"),
                ),
            ),
            Panel(
                "Energy",
                "Watts by model, estimated by the factors in the catalogue.",
                "watt",
                ((rate("controlplane_energy_joules_total", "model"), "{{model}}"),),
            ),
        ),
    ),
)


def target(index: int, query: str, legend: str) -> dict[str, Any]:
    return {
        "datasource": DATASOURCE,
        "expr": query.replace("{}", ""),
        "legendFormat": legend or "__auto",
        "refId": chr(ord("A") + index),
    }


def panel(number: int, what: Panel, x: int, y: int, height: int) -> dict[str, Any]:
    return {
        "id": number,
        "type": what.kind,
        "title": what.title,
        "description": what.description,
        "datasource": DATASOURCE,
        "gridPos": {"x": x, "y": y, "w": what.width, "h": height},
        "fieldConfig": {"defaults": {"unit": what.unit, "min": 0}, "overrides": []},
        "targets": [target(index, *query) for index, query in enumerate(what.queries)],
    }


def panels() -> list[dict[str, Any]]:
    laid: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS:
        laid.append(
            {
                "id": len(laid) + 1,
                "type": "row",
                "title": title,
                "collapsed": False,
                "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1},
                "panels": [],
            }
        )
        x, y = 0, y + 1
        height = 4 if all(each.kind == "stat" for each in row) else 8
        for each in row:
            if x + each.width > COLUMNS:
                x, y = 0, y + height
            laid.append(panel(len(laid) + 1, each, x, y, height))
            x += each.width
        y += height
    return laid


def variables() -> list[dict[str, Any]]:
    return [
        {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"},
        {
            "name": "tenant",
            "type": "query",
            "label": "Tenant",
            "datasource": DATASOURCE,
            "query": "label_values(controlplane_calls_total, tenant)",
            "includeAll": True,
            "allValue": ".*",
            "multi": True,
            "refresh": 2,
        },
    ]


def board() -> dict[str, Any]:
    return {
        "uid": "controlplane-overview",
        "title": "Control plane: overview",
        "tags": ["controlplane"],
        "timezone": "browser",
        "schemaVersion": SCHEMA_VERSION,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": variables()},
        "panels": panels(),
    }


def rendered() -> str:
    return json.dumps(board(), indent=2) + "\n"


if __name__ == "__main__":
    BOARD.write_text(rendered(), "utf-8")
