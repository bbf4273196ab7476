"""What watching and promotion cost: rows a second and core, bytes of state, microseconds of the older parts."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import mean, median

import numpy as np

from benchmarks.drift.streams import Rows, Stream, coins
from controlplane.drift.bernoulli import RULES
from controlplane.drift.panel import Panel
from controlplane.drift.ring import ObservationRing
from controlplane.retraining.promotion import PromotionGate, Ruling

ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Cost:
    columns: int
    fit_s: float
    rows_per_s: float
    state_bytes: int
    enrolment_bytes: int


def panel(columns: int, *, rows: int = 20_000) -> Cost:
    """A panel with all nine signals, fed in batches of 1,000; the best of some rounds, in seconds of CPU."""
    stream = Stream("mixed", columns, 1)
    reference, current = stream.next(20_000), stream.next(rows)
    names = [f"c{j}" for j in range(columns)]
    references = {name: _signal(name, 1, 20_000) for name in RULES}
    signals = {name: _signal(name, 2, rows) for name in RULES}
    start = time.process_time()
    watched = Panel.enrol(names, reference, references)
    fit_s = time.process_time() - start
    enrolment = watched.enrolment()
    best = float("inf")
    for _ in range(ROUNDS):
        watched = Panel.restored(enrolment)
        start = time.process_time()
        for first in range(0, rows, 1_000):
            part = slice(first, first + 1_000)
            watched.feed(current[part], {name: values[part] for name, values in signals.items()})
        best = min(best, time.process_time() - start)
    return Cost(columns, fit_s, rows / best, len(watched.state()), len(enrolment))


def _signal(name: str, seed: int, rows: int) -> Rows:
    if RULES[name].is_tail:
        return np.random.default_rng(seed).lognormal(size=rows)
    return coins(seed, 0.10 if name == "error" else 0.002, rows)


def ring_us() -> float:
    """Microseconds of one append to the gateway's ring: all that watching costs a call."""
    ring: ObservationRing[object] = ObservationRing(10_000)
    item = object()

    def append() -> None:
        for _ in range(200_000):
            ring.append(item)

    return _us_each(append, 200_000)


def _us_each(work: Callable[[], None], times: int) -> float:
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best / times * 1e6


def _pairs(seed: int, champion: float, challenger: float) -> Iterator[tuple[int, int]]:
    chance = random.Random(seed)
    for _ in range(10_000):
        one = chance.random()
        other = one if chance.random() < 0.5 else chance.random()
        yield int(one < champion), int(other < challenger)


def promotion(champion: float, challenger: float, *, seeds: int) -> tuple[float, float, float]:
    """Shares promoted and refused, and the median of rows until then."""
    gates = [PromotionGate(undecided_rows=10_000) for _ in range(seeds)]
    for seed, gate in enumerate(gates):
        gate.update_all(_pairs(seed, champion, challenger))
    promoted = mean(gate.ruling is Ruling.PROMOTE for gate in gates)
    refused = mean(gate.ruling is Ruling.REFUSE_WORSE for gate in gates)
    return promoted, refused, median(gate.rows for gate in gates)
