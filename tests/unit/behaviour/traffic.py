"""What a limit of rates makes of simulated minutes."""

from __future__ import annotations

from benchmarks.behaviour_traffic import BEGINS_S, Counts
from controlplane.behaviour.rates import Change, Rate
from controlplane.policy.behaviour import RateRule


def false_alarms(rule: RateRule, counts: Counts, rate: Rate | None = None, first_minute: int = 0) -> tuple[int, int]:
    """How often the rule began to throttle, and in how many minutes it would have refused something."""
    rate, begins, minutes = rate or Rate(), 0, 0
    for minute, count in enumerate(counts.tolist()):
        refused = False
        for call in range(count):
            at_s = BEGINS_S + (first_minute + minute) * 60 + 59.0 * call / count
            too_many, change = rate.ask(rule, at_s)
            begins += change is Change.BEGINS
            refused |= too_many
        minutes += refused
    return begins, minutes
