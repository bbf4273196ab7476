"""Truth about predictions, as ``POST /v1/outcomes`` brings it: each labelled row is one judged answer of the model.

Keeps the replies of recent predictions, bounded in number and in bytes; a label that comes later than that teaches
nothing here. The labels themselves are not in the ledger, so what they taught lives in the choice's own file alone.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from controlplane.gateway.gateway import Admission
from controlplane.gateway.observers import Bystander
from controlplane.gateway.outcome import Outcome
from inference.selection import Candidate, Evidence
from inference.tfserving.predict import decode_predict

MODEL = "/model/"
MOST_CALLS, MOST_BYTES = 5_000, 8 * 1024 * 1024
MATRIX = 2  # dimensions of (rows, classes)
log = logging.getLogger(__name__)


class Label(Protocol):
    """``console.ports.OutcomeLabel``: row ``row`` of the prediction ``call_id`` was really of class ``label``."""

    @property
    def call_id(self) -> str: ...
    @property
    def row(self) -> int: ...
    @property
    def label(self) -> int: ...


@dataclass(slots=True)
class _Predicted:
    tenant: str
    model: str
    reply: bytes
    judged: set[int] = field(default_factory=set)


class LabelLearning(Bystander):
    """An observer of calls; ``take`` is told the truth later. The first label of a row counts."""

    def __init__(
        self, evidence: Evidence, candidate: Callable[[str], Candidate | None], wall_clock: Callable[[], float]
    ) -> None:
        self._evidence, self._candidate, self._wall_clock = evidence, candidate, wall_clock
        self._waiting: OrderedDict[str, _Predicted] = OrderedDict()
        self._bytes = 0

    def observe(self, admission: Admission, outcome: Outcome, *, recorded: bool) -> None:  # noqa: ARG002  protocol
        call = admission.call
        if call.operation != "Predict" or outcome.status != "ok" or outcome.rung != "primary":
            return
        model, reply = call.resource.removeprefix(MODEL), outcome.body
        if len(reply) != outcome.byte_count:
            return
        self._waiting[admission.receipt.event_id] = _Predicted(admission.principal.tenant, model, reply)
        self._bytes += len(reply)
        while len(self._waiting) > MOST_CALLS or self._bytes > MOST_BYTES:
            self._bytes -= len(self._waiting.popitem(last=False)[1].reply)

    def take(self, labels: Sequence[Label]) -> None:
        """Whoever calls this has made sure whose predictions these are. Never raises for what cannot be read."""
        by_call: dict[str, list[Label]] = {}
        for label in labels:
            by_call.setdefault(label.call_id, []).append(label)
        for call_id, found in by_call.items():
            predicted = self._waiting.get(call_id)
            if predicted is not None:
                self._learn(predicted, found)

    def _learn(self, predicted: _Predicted, labels: Sequence[Label]) -> None:
        candidate, classes = self._candidate(predicted.model), classes_in(predicted.reply)
        if candidate is None or classes is None:
            return
        for label in labels:
            if 0 <= label.row < len(classes) and label.row not in predicted.judged:
                predicted.judged.add(label.row)
                right = float(classes[label.row] == label.label)
                self._evidence.learn_quality(predicted.tenant, candidate, right, self._wall_clock())


def classes_in(reply: bytes) -> NDArray[np.int64] | None:
    """The predicted class of each row, from the one output that is a matrix of scores; None where there is no such."""
    try:
        outputs = decode_predict(reply)
    except ValueError:
        log.debug("a prediction that cannot be read teaches nothing")
        return None
    scores = [np.asarray(one) for one in outputs.values()]
    matrices = [one for one in scores if one.ndim == MATRIX and one.shape[1] > 1 and one.dtype.kind == "f"]
    return matrices[0].argmax(axis=1) if len(matrices) == 1 else None
