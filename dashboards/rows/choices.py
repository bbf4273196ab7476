from rows.panel import Panel, Row, rate

ROW = Row(
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
)
