"""What happens when too much comes, and what adapts to it."""

from __future__ import annotations

from controlplane.telemetry.buckets import CALL_BUCKETS_S
from controlplane.telemetry.inventory import Inventory, fails_open


class LoadMetrics(Inventory):
    def _declare_load(self) -> None:
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
        self._playbook_runs = self._counter(
            "playbook_runs_total", "Runs of playbooks: done, dry_run, or the word of what failed.", "playbook", "result"
        )
        self._playbook_left = self._gauge(
            "playbook_runs_left", "How often a playbook may still run within its day.", "playbook"
        )

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

    def observe_behaviour(self, *, rule: str, answer: str, mode: str, change: str) -> None:
        """An agent that does too much is found out with every call."""
        try:
            self._behaviour[rule, answer, mode, change].inc()
        except Exception as error:  # noqa: BLE001  see fails_open
            self.broke("metrics", error)

    @fails_open
    def observe_behaviour_memory(self, *, agents: int, unknown_rules: int) -> None:
        self._behaviour_agents.child().set(agents)
        self._behaviour_unknown.child().set(unknown_rules)

    @fails_open
    def observe_playbook(self, *, playbook: str, result: str) -> None:
        self._playbook_runs.child(playbook, result).inc()

    @fails_open
    def observe_playbook_left(self, *, playbook: str, left: int) -> None:
        self._playbook_left.child(playbook).set(left)
