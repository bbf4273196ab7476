"""Forbidden sequences as small automata. Pure: time comes in as an argument.

A rule is a row of steps, each so many times: p₁ … pₙ, where pₙ is the call that is answered. A call matches the rule
when calls before it, each used once and in order, match p₁ … pₙ₋₁, nothing that ``unless`` means came after them, and
the first of them is not older than ``span_s``.

What is kept is, for every prefix p₁ … pⱼ, the latest time at which one that matches could have begun: a call that
matches pⱼ begins it where the prefix before it began. Older prefixes of the same length are never better, so that these
n-1 times decide exactly as the whole history would. They fall with j; within one step they move on by one place with
each call, which is a ring's ``appendleft``.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from controlplane.behaviour.selecting import Deed, Means, compiled
from controlplane.policy import Catalogue
from controlplane.policy.behaviour import SequenceRule


class Part(NamedTuple):
    """What one kind of call is to one rule: the steps it matches, last first, and whether it forgives."""

    steps: tuple[int, ...]
    is_last: bool
    forgives: bool


@dataclass(slots=True)
class Progress:
    """How far one rule has come in one run, session or agent. Bounded: one time for each call that a rule names."""

    starts: list[deque[float]]

    @property
    def is_armed(self) -> bool:
        return any(self.starts)

    def copy(self) -> Progress:
        return Progress([deque(times, times.maxlen) for times in self.starts])

    def join(self, other: Progress) -> None:
        """From now on as if everything that either of them has seen had been seen here."""
        for mine, theirs in zip(self.starts, other.starts, strict=True):
            joined = list(map(max, mine, theirs))  # as far as both go; before that one of them alone knows
            joined += islice(mine if len(mine) > len(theirs) else theirs, len(joined), None)
            mine.clear()
            mine.extend(joined)


class Automaton:
    """One rule, compiled."""

    def __init__(self, rule: SequenceRule, catalogue: Catalogue) -> None:
        self.rule = rule
        self.span_s = float(rule.span_s)
        self._sizes = [step.times for step in rule.steps]
        self._sizes[-1] -= 1  # the call that is asked about is the last one itself
        self._steps: list[Means] = [compiled(step, catalogue) for step in rule.steps]
        self._unless = None if rule.unless is None else compiled(rule.unless, catalogue, forgives=True)

    def part_of(self, deed: Deed) -> Part | None:
        """None: such calls are nothing to this rule."""
        steps = tuple(index for index in reversed(range(len(self._steps))) if self._steps[index](deed))
        forgives = self._unless is not None and self._unless(deed)
        if not steps and not forgives:
            return None
        return Part(steps, bool(steps) and steps[0] == len(self._steps) - 1, forgives)

    def new(self) -> Progress:
        return Progress([deque(maxlen=size) for size in self._sizes])

    def matches(self, progress: Progress | None, part: Part, now_s: float) -> bool:
        """Whether a call of this part, now, is the last of a forbidden sequence."""
        if progress is None or not part.is_last or part.forgives:
            return False
        return self.began_s(progress) >= now_s - self.span_s

    def began_s(self, progress: Progress) -> float:
        """When the sequence began that the next call may complete; minus infinity where there is none."""
        starts, sizes = progress.starts, self._sizes
        last = len(sizes) - 1 if sizes[-1] else len(sizes) - 2
        return starts[last][-1] if len(starts[last]) == sizes[last] else float("-inf")

    def advance(self, progress: Progress, part: Part, now_s: float) -> None:
        """Such a call went out at ``now_s``."""
        if part.forgives:
            for times in progress.starts:
                times.clear()
        for index in part.steps:  # the last first: a call is used once
            if index == 0:
                progress.starts[0].appendleft(now_s)
            elif len(before := progress.starts[index - 1]) == self._sizes[index - 1]:
                progress.starts[index].appendleft(before[-1])

    def is_spent(self, progress: Progress, now_s: float) -> bool:
        """Whether nothing in it can count any more."""
        newest = max((times[0] for times in progress.starts if times), default=float("-inf"))
        return newest < now_s - self.span_s
