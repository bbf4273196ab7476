"""False alarms, delays and costs of watching and of promotion. ``python benchmarks/drift.py``, under a minute.

Reference error 10 %, tolerated up to 11 %, at least 100,000 rows between false alarms. Labels are simulated: the
point is to know the truth. Delays are medians over seeds; the change comes at row 3,000.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from statistics import mean, median

import numpy as np

from controlplane.drift.edetector import ErrorDetector
from controlplane.drift.ring import ObservationRing
from controlplane.drift.rows import LabelledRow
from controlplane.drift.settings import WatchSettings
from controlplane.drift.watch import Watch
from controlplane.retraining.promotion import PromotionGate, Ruling

BAND, CHANGE, SEEDS = 0.11, 3_000, 50


def errors(seed: int, probability: float, rows: int) -> list[int]:
    chance = random.Random(seed)
    return [chance.random() < probability for _ in range(rows)]


def false_alarms(rate: float, seeds: int = 10, rows: int = 100_000) -> float:
    """A hundred thousand rows at a time; the detector starts anew after an alarm."""
    alarms = 0
    for seed in range(seeds):
        detector = ErrorDetector(BAND)
        for error in errors(seed, rate, rows):
            if detector.update(error):
                alarms, detector = alarms + 1, ErrorDetector(BAND)
    return alarms / (seeds * rows) * 100_000


def delay(seed: int, after: float) -> tuple[float, int]:
    """Rows from the change to the alarm, and by how many rows its estimated place is off."""
    detector = ErrorDetector(BAND)
    for error in errors(seed, 0.10, CHANGE):
        if detector.update(error):
            detector = ErrorDetector(BAND)
    before = detector.rows
    for row, error in enumerate(errors(seed + 10_000, after, 60_000), start=1):
        if detector.update(error):
            return row, abs(detector.change_row - before)
    return float("inf"), 0


def pairs(seed: int, champion: float, challenger: float) -> Iterator[tuple[int, int]]:
    chance = random.Random(seed)
    for _ in range(10_000):
        one = chance.random()
        other = one if chance.random() < 0.5 else chance.random()
        yield int(one < champion), int(other < challenger)


def promotion(champion: float, challenger: float, seeds: int = 200) -> tuple[float, float, float]:
    gates = [PromotionGate(undecided_rows=10_000) for _ in range(seeds)]
    for seed, gate in enumerate(gates):
        gate.update_all(pairs(seed, champion, challenger))
    promoted = mean(gate.ruling is Ruling.PROMOTE for gate in gates)
    refused = mean(gate.ruling is Ruling.REFUSE_WORSE for gate in gates)
    return promoted, refused, median(gate.rows for gate in gates)


def us_each(work: Callable[[], None], times: int) -> float:
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best / times * 1e6


def costs() -> None:
    ring: ObservationRing[object] = ObservationRing(10_000)
    item = object()

    def append() -> None:
        for _ in range(200_000):
            ring.append(item)

    print(f"ring append                       {us_each(append, 200_000):8.2f} us")
    watch = Watch(1, WatchSettings(reference_rows=5_000, reference_errors=500))
    stream = [
        LabelledRow(
            call_id="", row=0, at_ms=0, model="", version=1, principal=f"{i % 20}", rung="primary",
            inputs=np.zeros(1), predicted=int(error), label=0,
        )
        for i, error in enumerate(errors(1, 0.10, 100_000))
    ]  # fmt: skip

    def feed() -> None:
        for number, row in enumerate(stream):
            watch.take(number, row)

    print(f"watch, one labelled row           {us_each(feed, len(stream)):8.2f} us")


def main() -> None:
    for rate in (0.10, 0.11):
        print(f"false alarms per 100,000 at {rate:.2f}  {false_alarms(rate):8.2f}   (1,000,000 rows)")
    for after in (0.12, 0.15, 0.20, 0.40):
        found = [delay(seed, after) for seed in range(SEEDS if after > BAND + 0.02 else 10)]
        place = median(off for _, off in found)
        print(f"0.10 -> {after:.2f} median delay {median(rows for rows, _ in found):15.0f} rows, place off {place:.0f}")
    for champion, challenger in ((0.17, 0.17), (0.17, 0.175), (0.24, 0.17), (0.17, 0.30)):
        promoted, refused, rows = promotion(champion, challenger)
        print(
            f"{champion} against {challenger:<6} promoted {promoted:.3f} refused {refused:.3f} median {rows:.0f} rows"
        )
    costs()


if __name__ == "__main__":
    main()
