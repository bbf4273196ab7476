from __future__ import annotations

from controlplane.drift.observed import Label
from controlplane.drift.rows import Join
from tests.unit.drift.predictions import prediction


def test_a_label_finds_its_row_once() -> None:
    join = Join(10)
    join.expect(prediction("a", rows=2))
    found = join.match(Label(call_id="a", row=1, label=0))
    assert found is not None
    assert (found.inputs.tolist(), found.predicted, found.label, found.error) == ([2.0, 3.0], 1, 0, 1)
    assert join.match(Label(call_id="a", row=1, label=1)) is None
    assert join.unmatched == 1


def test_labels_for_what_was_never_predicted_find_nothing() -> None:
    join = Join(10)
    join.expect(prediction("a", rows=2))
    assert join.match(Label(call_id="b", row=0, label=0)) is None
    assert join.match(Label(call_id="a", row=2, label=0)) is None
    assert join.match(Label(call_id="a", row=-1, label=0)) is None


def test_the_oldest_calls_leave_when_too_many_wait() -> None:
    join = Join(2)
    for call_id in "abc":
        join.expect(prediction(call_id, rows=2))
    assert join.match(Label(call_id="a", row=0, label=0)) is None
    assert join.match(Label(call_id="c", row=0, label=0)) is not None
    assert (len(join), join.expired) == (2, 1)


def test_a_call_leaves_when_all_its_rows_are_labelled() -> None:
    join = Join(2)
    join.expect(prediction("a", rows=2), labelled=[0])
    assert join.match(Label(call_id="a", row=0, label=0)) is None
    assert join.match(Label(call_id="a", row=1, label=0)) is not None
    assert len(join) == 0
