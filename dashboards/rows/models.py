from rows.panel import RATE, Panel, Row, rate

ROW = Row(
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
            "What the loop has done since the monitor started, and trainings that run.",
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
            "By what came of them since the monitor started. One that fails or takes too long holds up no verdict.",
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
)
