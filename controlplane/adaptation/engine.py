"""One rule for one subject: what the signals of a window do to where it stands. Pure: time comes in as an argument.

    hot    `when` holds: after enough windows in a row one step up
    calm   `back_when` holds: after enough windows in a row, and not before the hold-down ends, one step back
    else   neither: the count of what does not hold begins anew; what cannot be told, because a signal is unknown,
           neither counts nor breaks a row

A step up that comes soon after a step back is a relapse: each one doubles the hold-down, so that a rule that cannot
make up its mind moves ever more rarely instead of flapping.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from controlplane.policy.adaptation import AdaptationRule, Condition

DOUBLINGS_COUNTED = 32

Readings = Mapping[str, float]
"""Signals of one subject in one window, by name; what nobody could read is not in it."""


class Direction(StrEnum):
    UP = "up"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a rule stands for one subject; ``level`` 0 is normal. ``hot`` and ``calm`` count windows in a row."""

    level: int = 0
    hot: int = 0
    calm: int = 0
    relapses: int = 0
    held_until_s: float = float("-inf")
    stepped_back_s: float = float("-inf")


NORMAL = Standing()


@dataclass(frozen=True, slots=True)
class Step:
    """``reason``: ``when``, ``back_when``, ``gone``, ``rule_gone``, or the word of the person who ended it."""

    before: int
    after: int
    reason: str

    @property
    def direction(self) -> Direction:
        return Direction.UP if self.after > self.before else Direction.DOWN


def holds(condition: Condition, readings: Readings) -> bool | None:
    """Whether a condition holds; None where that hangs on a signal that is unknown (Kleene's logic)."""
    if condition.signal is None:
        parts = [holds(one, readings) for one in condition.all or condition.any]
        decisive = not condition.all
        if decisive in parts:
            return decisive
        return None if None in parts else not decisive
    value = readings.get(condition.signal)
    if value is None:
        return None
    if condition.above is not None:
        return value > condition.above
    if condition.at_least is not None:
        return value >= condition.at_least
    if condition.below is not None:
        return value < condition.below
    return value <= condition.threshold


def advance(rule: AdaptationRule, standing: Standing, readings: Readings, now_s: float) -> tuple[Standing, Step | None]:
    """Where the rule stands after one window, and the step that this took it."""
    is_hot = holds(rule.when, readings)
    is_calm = holds(rule.back_when, readings) if rule.back_when is not None else False
    if is_hot:
        return _heat(rule, standing, now_s)
    if is_calm:
        return _cool(rule, standing, now_s)
    hot = standing.hot if is_hot is None else 0
    calm = standing.calm if is_calm is None else 0
    return replace(standing, hot=hot, calm=calm), None


def end(standing: Standing, reason: str, now_s: float) -> tuple[Standing, Step]:
    """Back to normal at once: a person said so, or there is nothing left to adapt."""
    after = replace(standing, level=0, hot=0, calm=0, stepped_back_s=now_s)
    return after, Step(standing.level, 0, reason)


def _heat(rule: AdaptationRule, standing: Standing, now_s: float) -> tuple[Standing, Step | None]:
    hot = min(standing.hot + 1, rule.windows)
    heated = replace(standing, hot=hot, calm=0)
    is_waiting = standing.level > 0 and now_s < standing.held_until_s  # the last step has had no time to work yet
    if hot < rule.windows or standing.level >= rule.steps or is_waiting:
        return heated, None
    relapses = standing.relapses
    if now_s - standing.stepped_back_s <= rule.hold_down_max_s:
        relapses = min(relapses + 1, DOUBLINGS_COUNTED)
    elif not standing.level:
        relapses = 0
    hold_s = min(rule.hold_down_s * 2.0**relapses, max(rule.hold_down_max_s, rule.hold_down_s))
    after = Standing(standing.level + 1, relapses=relapses, held_until_s=now_s + hold_s)
    return after, Step(standing.level, after.level, "when")


def _cool(rule: AdaptationRule, standing: Standing, now_s: float) -> tuple[Standing, Step | None]:
    calm = min(standing.calm + 1, rule.back_windows)
    cooled = replace(standing, hot=0, calm=calm if standing.level else 0)
    if not standing.level or calm < rule.back_windows or now_s < standing.held_until_s:
        return cooled, None
    after = replace(cooled, level=standing.level - 1, calm=0, stepped_back_s=now_s)
    return after, Step(standing.level, after.level, "back_when")
