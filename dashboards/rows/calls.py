from rows.panel import TENANT, Panel, Row, quantiles, rate

ROW = Row(
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
            "Tokens a second, as the backends counted them.",
            "short",
            ((rate("controlplane_tokens_total", "model", "direction", where=TENANT), "{{model}} {{direction}}"),),
        ),
    ),
)
