from rows.panel import Panel, Row, quantiles, rate

ROW = Row(
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
)
