from rows.panel import IS_GATEWAY, TENANT, Panel, Row, quantiles, rate

ROW = Row(
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
            "Approvals by people",
            "Calls that wait for people now, and what happens to such calls.",
            "short",
            (
                ("sum(controlplane_approvals_waiting)", "waiting"),
                ("sum by (event) (increase(controlplane_approvals_total[$__rate_interval]))", "{{event}}"),
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
)
