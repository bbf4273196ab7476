from rows.panel import IS_GATEWAY, RATE, TENANT, Panel, Row

ALLOWED = f'effect="allow", {TENANT}'
FAILED_SHARE = (
    f'sum(rate(controlplane_calls_total{{{ALLOWED}, outcome=~"error|timeout"}}{RATE}))'
    f' / sum(rate(controlplane_calls_total{{{ALLOWED}, outcome!="cancelled"}}{RATE}))'
)
WITHOUT_POLICY = f"count(controlplane_policy_loaded == 0 and {IS_GATEWAY}) or vector(0)"

ROW = Row(
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
)
