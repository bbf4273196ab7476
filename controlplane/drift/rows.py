"""What is watched: predictions, the labels that come back for them, and the bounded join of the two. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controlplane.drift.observed import Label

PRIMARY = "primary"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answered:
    """Which call, what of and for whom. ``rung`` says which step of the fallback ladder answered; only ``primary``
    speaks for the version.
    """

    call_id: str
    at_ms: int
    model: str
    version: int
    principal: str
    rung: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prediction(Answered):
    """One answered call. ``inputs`` is (rows, features) float64, ``predicted`` is (rows,) integer classes.
    ``confidence`` is (rows,) the probability of what was predicted, None where the model says classes alone.
    """

    inputs: NDArray[np.float64]
    predicted: NDArray[np.int64]
    confidence: NDArray[np.float64] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CopiedCall:
    """What a version that answers nobody made of a copy of one call. Arrays as in ``Prediction``; without rows where it
    ``failed``. ``number`` grows with every copy that is kept; 0 before.
    """

    call_id: str
    model: str
    version: int
    latency_us: int
    failed: str
    inputs: NDArray[np.float64]
    predicted: NDArray[np.int64]
    number: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelledRow(Answered):
    """One row whose truth is known. ``inputs`` is (features,) float64."""

    row: int
    inputs: NDArray[np.float64]
    predicted: int
    label: int

    @property
    def error(self) -> int:
        return int(self.predicted != self.label)


class Join:
    """Predictions waiting for their labels, at most ``capacity`` calls; the oldest leave first.

    The first label of a row counts. A second one, or one for a call that has left, is ``unmatched``.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.unmatched = 0
        self.expired = 0
        self._waiting: OrderedDict[str, tuple[Prediction, set[int]]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waiting)

    def expect(self, prediction: Prediction, labelled: Iterable[int] = ()) -> None:
        """Wait for the labels of ``prediction``, except of the rows already ``labelled``."""
        rows = set(range(len(prediction.predicted))).difference(labelled)
        if not rows or prediction.call_id in self._waiting:
            return
        self._waiting[prediction.call_id] = (prediction, rows)
        while len(self._waiting) > self.capacity:
            self._waiting.popitem(last=False)
            self.expired += 1

    def match(self, label: Label) -> LabelledRow | None:
        """The row that ``label`` completes, or None when nothing waits for it."""
        prediction, rows = self._waiting.get(label.call_id, (None, set[int]()))
        if prediction is None or label.row not in rows:
            self.unmatched += 1
            return None
        rows.discard(label.row)
        if not rows:
            del self._waiting[label.call_id]
        return LabelledRow(
            call_id=label.call_id,
            row=label.row,
            at_ms=prediction.at_ms,
            model=prediction.model,
            version=prediction.version,
            principal=prediction.principal,
            rung=prediction.rung,
            inputs=prediction.inputs[label.row],
            predicted=int(prediction.predicted[label.row]),
            label=label.label,
        )
