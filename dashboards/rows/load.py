from rows.panel import Panel, Row, quantiles, rate

ROW = Row(
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
                (
                    "sum by (rule, direction) (increase(controlplane_adaptation_transitions_total[$__range]))",
                    "{{rule}} {{direction}}",
                ),
            ),
        ),
        Panel(
            "Agents' behaviour",
            "What its rules found a second, enforced or in a dry run.",
            "short",
            (
                (
                    rate("controlplane_behaviour_findings_total", "rule", "answer", "mode", "change"),
                    "{{rule}} {{answer}} {{mode}} {{change}}",
                ),
            ),
        ),
        Panel(
            "What is known of agents",
            "Agents that are remembered. Rules without their past refuse: that must end soon.",
            "short",
            (
                ("sum(controlplane_behaviour_agents)", "agents remembered"),
                ("sum(controlplane_behaviour_unknown_rules)", "rules without their past"),
            ),
        ),
        Panel(
            "Playbooks",
            "Runs in the shown range by result, dry runs too; and how often each may still run within its day.",
            "short",
            (
                (
                    "sum by (playbook, result) (increase(controlplane_playbook_runs_total[$__range]))",
                    "{{playbook}} {{result}}",
                ),
                ("min by (playbook) (controlplane_playbook_runs_left)", "{{playbook}} may still run"),
            ),
        ),
    ),
)
