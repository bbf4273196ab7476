from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane.drift.observed import Label
from controlplane.drift.rows import Join, Prediction
from controlplane.drift.store import MonitorStore
from tests.unit.drift.predictions import prediction


@pytest.fixture
def store(tmp_path: Path) -> Iterator[MonitorStore]:
    opened = MonitorStore(tmp_path / "state" / "monitor.sqlite")
    yield opened
    opened.close()


def label_all(store: MonitorStore, one: Prediction) -> list[int]:
    join = Join(10)
    join.expect(one)
    numbers = []
    for row in range(len(one.predicted)):
        found = join.match(Label(call_id=one.call_id, row=row, label=row % 2))
        assert found is not None
        number = store.keep_labelled(found)
        assert number is not None
        numbers.append(number)
    return numbers


def test_a_restart_finds_what_waits_and_what_was_labelled(store: MonitorStore) -> None:
    with store.transaction():
        store.keep_prediction(prediction("a"))
        store.keep_prediction(prediction("b"))
        label_all(store, prediction("a"))
    waiting = {one.call_id: (one.inputs.tolist(), rows) for one, rows in store.waiting()}
    assert waiting["a"][1] == [0, 1, 2]
    assert waiting["b"] == ([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]], [])


def test_a_transaction_that_breaks_leaves_nothing(store: MonitorStore) -> None:
    def batch() -> None:
        with store.transaction():
            store.keep_prediction(prediction("a"))
            store.keep_document("cursor", {"after": 7})
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        batch()
    assert list(store.waiting()) == []
    assert store.document("cursor") is None


def test_a_row_is_kept_once(store: MonitorStore) -> None:
    join = Join(10)
    join.expect(prediction("a"))
    row = join.match(Label(call_id="a", row=0, label=1))
    assert row is not None
    assert store.keep_labelled(row) is not None
    assert store.keep_labelled(row) is None


def test_rows_come_back_in_order_with_their_inputs_and_labels(store: MonitorStore) -> None:
    numbers = label_all(store, prediction("a"))
    found, inputs, labels = store.rows_between("risk", numbers[0])
    assert (found.tolist(), inputs.tolist(), labels.tolist()) == (numbers[1:], [[2.0, 3.0], [4.0, 5.0]], [1, 0])
    assert store.rows_between("risk", 0, numbers[0])[2].tolist() == [0]
    assert store.rows_before("risk", numbers[1], 1).tolist() == [[2.0, 3.0]]
    assert store.rows_between("other", 0)[1].shape == (0, 0)
    assert store.count_after("risk", numbers[0]) == 2


def test_numbers_are_never_used_twice(store: MonitorStore) -> None:
    first = label_all(store, prediction("a"))
    store.forget(predictions=0, labelled=0)
    assert store.count_after("risk", 0) == 0
    assert label_all(store, prediction("b"))[0] > first[-1]


def test_only_the_newest_are_remembered(store: MonitorStore) -> None:
    for call_id in "abc":
        store.keep_prediction(prediction(call_id))
        label_all(store, prediction(call_id))
    store.forget(predictions=2, labelled=4)
    assert [one.call_id for one, _ in store.waiting()] == ["b", "c"]
    assert store.count_after("risk", 0) == 4
