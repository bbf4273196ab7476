"""Simulated minutes of agents. Seeded; a row of counts, one for each minute."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

MINUTES_A_DAY = 1440
BEGINS_S = 1_700_006_400  # midnight UTC
Counts = NDArray[np.int64]
Traffic = Callable[[np.random.Generator, int], Counts]


def poisson(mean: float) -> Traffic:
    return lambda random, minutes: random.poisson(mean, minutes)


def bursty(random: np.random.Generator, minutes: int) -> Counts:
    """Half a call a minute, and about every two hours some forty calls within one to three minutes."""
    counts = random.poisson(0.5, minutes)
    for start in np.flatnonzero(random.random(minutes) < 1 / 120):
        length = int(random.integers(1, 4))
        counts[start : start + length] += random.poisson(40 / length, len(counts[start : start + length]))
    return counts


def runs(random: np.random.Generator, minutes: int) -> Counts:
    """Nearly nothing, and about every three hours a run of 5 to 15 minutes at 20 a minute."""
    counts = random.poisson(0.05, minutes)
    for start in np.flatnonzero(random.random(minutes) < 1 / 180):
        length = int(random.integers(5, 16))
        counts[start : start + length] += random.poisson(20, len(counts[start : start + length]))
    return counts


def office(random: np.random.Generator, minutes: int) -> Counts:
    """20 a minute from nine to five, one in five minutes otherwise."""
    hour = np.arange(minutes) // 60 % 24
    return random.poisson(np.where((hour >= 9) & (hour < 17), 20.0, 0.2))


def overdispersed(random: np.random.Generator, minutes: int) -> Counts:
    """Exactly the model: a geometric distribution with mean 5."""
    return random.poisson(random.gamma(1.0, 5.0, minutes))


def swaying(random: np.random.Generator, minutes: int) -> Counts:
    """Not the model: a rate that wanders by half within hours, so that minutes depend on each other."""
    steps = random.normal(0, 1, minutes)
    level = np.zeros(minutes)
    for minute in range(1, minutes):
        level[minute] = 0.98 * level[minute - 1] + 0.2 * steps[minute] * 0.5
    return random.poisson(10 * np.exp(level - level.var() / 2))


KINDS: Mapping[str, Traffic] = {
    "Poisson, 20 a minute": poisson(20.0),
    "Poisson, 0.5 a minute": poisson(0.5),
    "bursty": bursty,
    "runs": runs,
    "office hours": office,
    "overdispersed": overdispersed,
    "swaying": swaying,
}
