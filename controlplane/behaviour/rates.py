"""How often an agent calls, against what it does itself at this hour of the day. Pure: time comes in as an argument.

    count in a window  ~  negative binomial, mean of the hour, one spread for all hours
    mean of the hour   is drawn towards the agent's mean, and that towards the prior, by so many windows
    spread             is what squares of deviations leave after Poisson's part, drawn towards the prior's
    limit              the smallest count that such a window exceeds with a chance of at most ``tail``

What is not known well widens the tail: the variance of the mean is added to the spread, and the sum counts ``HEAVIER``
times, for nobody knows by which distribution a rate wanders. While an hour has been seen on fewer than ``settled_days``
days the limit is at least the prior's. A window over its limit is learnt as if it had been at the limit, so that one
burst teaches little; who grows slowly teaches what he likes (see the decision record).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from math import ceil, sqrt
from typing import Any

from controlplane.behaviour.tails import limit_of
from controlplane.policy.behaviour import RateRule

HOURS = 24
HOUR_S, DAY_S = 3600, 86_400
TOWARDS_PRIOR = 10.0  # windows that the prior weighs
TOWARDS_AGENT = 30.0  # windows that the agent's own mean weighs in an hour
HEAVIER = 1.4
"""The tail's spread over the estimated one. A negative binomial takes the rate for gamma distributed; one that wanders
has a heavier tail of the same variance: a log-normal one exceeds a limit of 1e-5 fifteen times as often. With this it
does so four times as often, and where nothing is spread nothing changes (decision 022)."""
SPREAD_EVERY = 16  # windows: it moves slowly, and takes as long as all the rest
SPREAD_SETTLED = 60.0
LONGEST_GAP_DAYS = 7  # of silence that is learnt as such; a longer one is an agent that was switched off
MAX_LIMIT = 2**31


class Change(StrEnum):
    BEGINS = "begins"
    HOLDS = "holds"
    ENDS = "ends"


@dataclass(slots=True)
class Hour:
    """Windows of one hour of the day, old ones counting less; ``day`` is the last one on which it was seen."""

    weight: float = 0.0
    mean: float = 0.0
    square: float = 0.0  # mean of squared deviations
    days: int = 0
    day: int = -1

    def learn(self, count: float, day: int, most: float) -> None:
        self.weight = min(self.weight + 1, most)
        off = count - self.mean
        self.mean += off / self.weight
        self.square += (off * (count - self.mean) - self.square) / self.weight
        if day != self.day:
            self.day, self.days = day, self.days + 1

    def learn_silence(self, windows: float, day: int, most: float) -> None:
        """As ``learn`` of so many empty windows."""
        kept = min(self.weight, most) / (min(self.weight, most) + windows)
        self.square = kept * (self.square + (1 - kept) * self.mean**2)
        self.mean *= kept
        self.weight = min(self.weight + windows, most)
        if day != self.day:
            self.day, self.days = day, self.days + 1


@dataclass(slots=True)
class Rate:
    """What one rule has learnt of one agent, and where it stands. A few hundred numbers, whatever the agent does.

    All of it is about windows of ``window_s``: to a rule with others it says nothing.
    """

    window_s: int = 60
    window: int = -1  # the one being counted
    asked: int = 0
    admitted: int = 0
    limit: int = 0
    is_throttled: bool = False
    calm: int = 0
    weight: float = 0.0
    mean: float = 0.0
    spread: float = 0.0  # as it was estimated last
    hours: list[Hour] = field(default_factory=lambda: [Hour() for _ in range(HOURS)])

    def ask(self, rule: RateRule, now_s: float) -> tuple[bool, Change | None]:
        """Count one call. Whether it is too many, and what that changes."""
        window = int(now_s // rule.window_s)
        change = None
        if window != self.window:
            change = self._turn(rule, window)
        self.asked += 1
        if not self.is_throttled:
            self.admitted += 1
            if self.asked <= self.limit:
                return False, change
            self.is_throttled, self.calm = True, 0
            return True, Change.BEGINS
        if self.admitted < int(rule.back_ratio * self.limit):
            self.admitted += 1
            return False, change
        return True, change or Change.HOLDS

    def lift(self) -> None:
        """A person lets it go: what it asked in this window counts no more, and a throttle is over."""
        self.asked = self.admitted = self.calm = 0
        self.is_throttled = False

    def free_s(self, rule: RateRule, now_s: float) -> float | None:
        """When a throttle ends if nothing more is asked; None: it does not stand, or ends with the next call."""
        if not self.is_throttled:
            return None
        window = int(now_s // rule.window_s)
        silent = window - self.window - 1
        is_calm = self.asked <= rule.back_ratio * self.limit
        if silent < 0:  # the window that is being counted is calm so far, or begins the count anew
            first = window if is_calm else window + 1
            return float((first + rule.quiet_windows - (self.calm if is_calm else 0)) * rule.window_s)
        left = rule.quiet_windows - silent - (self.calm + 1 if is_calm else 0)
        return float((window + left) * rule.window_s) if left > 0 else None

    def left_s(self, rule: RateRule, now_s: float) -> float:
        """Seconds to the end of this window, at least one."""
        return max(1.0, (int(now_s // rule.window_s) + 1) * rule.window_s - now_s)

    def _turn(self, rule: RateRule, window: int) -> Change | None:
        """The window is over: learn it and the silence after it, and set the limit of the one that begins."""
        change = None
        if self.window >= 0 and window > self.window:
            is_calm = self.asked <= rule.back_ratio * self.limit
            silent = window - self.window - 1
            self.calm = self.calm + 1 + silent if is_calm else silent
            self._learn(rule, self.window, min(self.asked, self.limit))
            self._learn_silence(rule, self.window + 1, silent)
            if self.is_throttled and self.calm >= rule.quiet_windows:
                self.is_throttled, change = False, Change.ENDS
        self.window, self.asked, self.admitted = window, 0, 0
        self.limit = self.limit_in(rule, window)
        return change

    def _learn(self, rule: RateRule, window: int, count: int) -> None:
        most = _most(rule)
        self._hour(rule, window).learn(count, _day(rule, window), most)
        self.weight = min(self.weight + 1, most * HOURS)
        self.mean += (count - self.mean) / self.weight

    def _learn_silence(self, rule: RateRule, first: int, windows: int) -> None:
        """Hour by hour, at most a week back."""
        most, end = _most(rule), first + windows
        first = max(first, end - LONGEST_GAP_DAYS * DAY_S // rule.window_s)
        while first < end:
            until = min(end, ceil((first * rule.window_s // HOUR_S + 1) * HOUR_S / rule.window_s))
            count = max(1, until - first)
            self._hour(rule, first).learn_silence(count, _day(rule, first), most)
            self.mean *= self.weight / (self.weight + count)
            self.weight = min(self.weight + count, most * HOURS)
            first += count

    def _hour(self, rule: RateRule, window: int) -> Hour:
        return self.hours[window * rule.window_s // HOUR_S % HOURS]

    def _expected(self, rule: RateRule, hour: Hour) -> float:
        own = (TOWARDS_PRIOR * rule.prior.mean + self.weight * self.mean) / (TOWARDS_PRIOR + self.weight)
        drawn = TOWARDS_AGENT * (1 + self.spread * own)  # the burstier, the less do an hour's few windows say
        return (drawn * own + hour.weight * hour.mean) / (drawn + hour.weight)

    def _spread(self, rule: RateRule, mean: float) -> float:
        """Moments of all hours together, each about its own mean: single hours see too few bursts."""
        known = TOWARDS_PRIOR * mean**2
        excess = sum(hour.weight * (hour.square - hour.mean) for hour in self.hours)
        squares = sum(hour.weight * self._expected(rule, hour) ** 2 for hour in self.hours if hour.weight)
        return max(0.0, (known * rule.prior.spread + excess) / (known + squares))

    def limit_in(self, rule: RateRule, window: int) -> int:
        """Calls that ``window`` may hold."""
        hour = self._hour(rule, window)
        if rule.limit == "mean_sigma":
            own = hour.mean + rule.sigmas * sqrt(max(hour.square, 0.0))
            return max(rule.at_least, int(own) if hour.days >= rule.settled_days else prior_limit(rule))
        mean = self._expected(rule, hour)
        if self.window % SPREAD_EVERY == 0 or self.weight < SPREAD_SETTLED:
            self.spread = self._spread(rule, mean)
        spread = self.spread
        spread += (1 / mean + spread) / (TOWARDS_PRIOR + hour.weight)
        found = max(rule.at_least, limit_of(mean, HEAVIER * spread, rule.tail))
        if hour.days < rule.settled_days:
            found = max(found, prior_limit(rule))
        return min(found, MAX_LIMIT)


def prior_limit(rule: RateRule) -> int:
    """What an agent may do of whom nothing is known."""
    return max(rule.at_least, _prior_limit(rule.prior.mean, rule.prior.spread, rule.tail))


@lru_cache(maxsize=64)
def _prior_limit(mean: float, spread: float, tail: float) -> int:
    return limit_of(mean, spread + (1 / mean + spread) / TOWARDS_PRIOR, tail)


def kept(rate: Rate) -> list[Any]:
    """What is worth keeping over a restart, as plain numbers: what was learnt, not where it stands."""
    return [
        rate.window_s,
        rate.weight,
        rate.mean,
        [[one.weight, one.mean, one.square, one.days, one.day] for one in rate.hours],
    ]


def restored(said: Sequence[Any]) -> Rate:
    """Raises for what ``kept`` did not write."""
    window_s, weight, mean, hours = tuple(said)
    if len(hours) != HOURS:
        raise ValueError("a day has 24 hours")
    rate = Rate(int(window_s), weight=float(weight), mean=float(mean))
    rate.hours = [Hour(float(w), float(m), float(s), int(days), int(day)) for w, m, s, days, day in hours]
    return rate


def _day(rule: RateRule, window: int) -> int:
    return window * rule.window_s // DAY_S


def _most(rule: RateRule) -> float:
    """Windows of one hour of the day that count."""
    return rule.memory_days * HOUR_S / rule.window_s
