from rows.panel import TENANT, Panel, Row, rate

SPARED = 'event=~"hit|shared_hit|joined"'
ASKED = 'event=~"hit|shared_hit|joined|miss"'

ROW = Row(
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
            "Share of the fullest budget of each kind that is spent or held.",
            "percentunit",
            (("max by (tenant, budget) (controlplane_budget_used_ratio)", "{{tenant}} {{budget}}"),),
        ),
        Panel(
            "Budget warnings",
            "Warnings in the shown range.",
            "short",
            (
                (
                    "sum by (tenant, budget) (increase(controlplane_budget_warnings_total[$__range]))",
                    "{{tenant}} {{budget}}",
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
            "In the memory of the gateways.",
            "bytes",
            (("sum(controlplane_response_cache_bytes)", "all gateways"),),
        ),
        Panel(
            "Response cache, in and out",
            "Answers that were saved, and that had to go for others, a second; failures of the shared store.",
            "short",
            (
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
)
