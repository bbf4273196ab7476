from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.drift.edetector import MIXTURE, ErrorDetector, Reference, restored
from controlplane.drift.ring import ObservationRing

errors = st.lists(st.integers(0, 1), max_size=300)


@given(errors, errors, st.floats(0.01, 0.8))
def test_a_detector_from_a_snapshot_goes_on_as_if_nothing_had_happened(
    before: list[int], then: list[int], band: float
) -> None:
    whole, cut = ErrorDetector(band, 0.01), ErrorDetector(band, 0.01)
    whole.update_all(before + then)
    cut.update_all(before)
    again = restored(json.loads(json.dumps(cut.snapshot())))
    if not again.alarmed:
        again.update_all(then)
    assert again.snapshot() == whole.snapshot()


@given(errors, st.floats(0.01, 0.8), st.data())
def test_one_more_error_never_lowers_the_evidence(stream: list[int], band: float, data: st.DataObject) -> None:
    if 0 not in stream:
        return
    turned = list(stream)
    turned[data.draw(st.sampled_from([i for i, error in enumerate(stream) if not error]))] = 1
    less, more = ErrorDetector(band, 1e-12), ErrorDetector(band, 1e-12)
    less.update_all(stream)
    more.update_all(turned)
    assert more.alarmed or more.evidence >= less.evidence


@settings(deadline=None)
@given(errors, st.floats(0.01, 0.8))
def test_the_evidence_is_that_of_the_recursion_row_by_row(stream: list[int], band: float) -> None:
    detector = ErrorDetector(band, 1e-300)
    odds, roberts = band / (1 - band), [0.0] * len(MIXTURE)
    for error in stream:
        detector.update(error)
        for i, (times, _) in enumerate(MIXTURE):
            p = odds * times / (1 + odds * times)
            roberts[i] = (1 + roberts[i]) * (p / band if error else (1 - p) / (1 - band))
    plain = sum(weight * each for (_, weight), each in zip(MIXTURE, roberts, strict=True))
    assert detector.evidence == pytest.approx(plain, rel=1e-6)


@settings(deadline=None)
@given(errors, st.floats(0.01, 0.8), st.lists(st.integers(0, 300), max_size=5))
def test_arrays_in_any_parts_are_rows_one_by_one(stream: list[int], band: float, cuts: list[int]) -> None:
    one_by_one, in_parts = ErrorDetector(band, 0.01), ErrorDetector(band, 0.01)
    one_by_one.update_all(stream)
    values, numbers = np.array(stream, dtype=bool), np.arange(1, len(stream) + 1)
    for start, end in pairwise([0, *sorted(cuts), max(len(stream), *cuts, 0)]):
        if not in_parts.alarmed:
            in_parts.take(values[start:end], numbers[start:end])
    assert in_parts.snapshot() == one_by_one.snapshot()


@given(st.integers(1, 10_000), st.data())
def test_the_band_always_lies_above_the_estimate(rows: int, data: st.DataObject) -> None:
    reference = Reference(data.draw(st.integers(0, rows)), rows)
    assert reference.band() >= min(0.9, reference.estimate)


@given(st.integers(1, 20), st.lists(st.integers(0, 30), max_size=100))
def test_what_is_read_and_what_is_lost_add_up(capacity: int, bursts: list[int]) -> None:
    ring: ObservationRing[int] = ObservationRing(capacity)
    read, lost, cursor, written = 0, 0, 0, 0
    for burst in bursts:
        for _ in range(burst):
            written += 1
            ring.append(written)
        found, gone = ring.after(cursor, 7)
        assert all(number == item for number, item in found)
        lost += gone
        read += len(found)
        cursor = found[-1][0] if found else cursor
    found, gone = ring.after(cursor, 1_000)
    assert read + len(found) + lost + gone == written
