from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.drift.packing import Unpackable, pack, unpack
from controlplane.drift.panel import Panel, PanelSettings
from controlplane.drift.pit import UNIT, Column

RANDOM = np.random.default_rng(0)
NAMES = ["a", "b", "c"]
STREAM_ROWS = 1_200


def rows_of(count: int) -> np.ndarray:
    rows = np.column_stack([RANDOM.normal(size=count), RANDOM.poisson(2, count), RANDOM.random(count) < 0.1])
    rows[RANDOM.random(rows.shape) < 0.01] = np.nan
    return rows.astype(np.float64)


def signals_of(count: int, rate: float) -> dict[str, np.ndarray]:
    errors = (RANDOM.random(count) < rate).astype(float)
    latency = RANDOM.lognormal(size=count)
    latency[::3] = np.nan
    return {"error": errors, "latency": latency}


REFERENCE, REFERENCE_SIGNALS = rows_of(5_000), signals_of(5_000, 0.1)
ENROLMENTS = {
    trigger: Panel.enrol(
        NAMES, REFERENCE, REFERENCE_SIGNALS, PanelSettings(trigger=trigger, window_rows=200)
    ).enrolment()
    for trigger in ("sequential", "evidently")
}
ROWS, SIGNALS = rows_of(STREAM_ROWS), signals_of(STREAM_ROWS, 0.1)
ROWS[500:, 0] += 1.5
SIGNALS["error"][700:] = RANDOM.random(500) < 0.5
NUMBERS = np.arange(1, STREAM_ROWS + 1) * 3


@pytest.mark.parametrize("trigger", ["sequential", "evidently"])
@settings(deadline=None)
@given(cuts=st.lists(st.integers(0, STREAM_ROWS), max_size=12), killed=st.lists(st.booleans(), min_size=13))
def test_a_panel_killed_between_any_batches_loses_no_evidence(
    trigger: str, cuts: list[int], killed: list[bool]
) -> None:
    """The same verdicts and the same state to the last bit, however rows are batched and however often it dies."""
    whole = Panel.restored(ENROLMENTS[trigger])
    expected = whole.feed(ROWS, SIGNALS, NUMBERS)
    assert {"error"} < {verdict.detector for verdict in expected}
    panel, found = Panel.restored(ENROLMENTS[trigger]), []
    edges = [0, *sorted(cuts), STREAM_ROWS]
    for i, (start, end) in enumerate(pairwise(edges)):
        part = slice(start, end)
        found += panel.feed(ROWS[part], {name: values[part] for name, values in SIGNALS.items()}, NUMBERS[part])
        if killed[i]:
            panel = Panel.restored(panel.enrolment(), panel.state())
    by_detector = {v.detector: [w for w in expected if w.detector == v.detector] for v in expected}
    for detector, verdicts in by_detector.items():
        assert [verdict for verdict in found if verdict.detector == detector] == verdicts
    assert len(found) == len(expected)
    assert panel.state() == whole.state()


@settings(deadline=None)
@given(
    st.lists(st.floats(allow_infinity=False), min_size=1, max_size=200),
    st.lists(st.floats(), min_size=1, max_size=50),
)
def test_every_value_there_is_ranks_between_nought_and_one(reference: list[float], values: list[float]) -> None:
    column = Column.of(np.array(reference))
    cells = column.cells(np.array(values))
    assert ((column.ranks[cells] >= 0) & (column.ranks[cells] <= UNIT)).all()
    assert ((column.spreads[cells] >= 0) & (column.spreads[cells] <= UNIT)).all()


@settings(deadline=None)
@given(st.dictionaries(st.text(), st.integers() | st.text() | st.none()), st.lists(st.floats(), max_size=20))
def test_what_is_packed_comes_back(plain: dict[str, object], values: list[float]) -> None:
    arrays = {"f": np.array(values), "i": np.arange(3), "z": np.zeros((2, 0), np.int32)}
    told, back = unpack(pack(plain, arrays))
    assert told == plain
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype
        np.testing.assert_array_equal(back[name], array)


@settings(deadline=None)
@given(st.binary(max_size=200), st.integers(0, 5_000))
def test_foreign_and_cut_bytes_are_refused(foreign: bytes, end: int) -> None:
    for packed in (foreign, ENROLMENTS["sequential"][:end]):
        with pytest.raises(Unpackable):
            unpack(packed)
