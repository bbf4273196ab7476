"""The rows and signals of one model version on their way to its detectors: seats, reference, arrays, resumption.

Until enough rows have come, they are the reference; then the panel is enrolled, and every page of observations is fed
to it at once. Everything that a page changes is kept in the page's own transaction, so that a killed monitor has
counted a page once or not at all. Rows of other versions and of the fallback say nothing about this version.
"""

from __future__ import annotations

import base64
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controlplane.drift.input_settings import InputSettings
from controlplane.drift.panel import Panel, Unpackable, Verdict
from controlplane.drift.rows import PRIMARY, Prediction
from controlplane.drift.seats import OVER_SHARE, Seats
from controlplane.drift.store import MonitorStore

Rows = NDArray[np.float64]
MOST_CLASSES = 20  # a model with more answers is watched by its confidence alone
SIGNAL_VALUES = 100  # of a signal in the reference; one with fewer is not watched
PREDICTED, CONFIDENCE = "predicted=", "confidence"
ERROR = ("error",)  # labels have a watch of their own, and a part of the budget
LOWER_RUNG, OTHER_VERSION = "lower_rung", "other_version"


def answer_titles(predicted: Rows, confidence: Rows) -> list[str]:
    """One 0/1 column for each class that was answered, but of two classes one says it all; and how sure it was."""
    classes = np.unique(predicted).astype(int).tolist()
    told = classes[1:] if len(classes) == 2 else classes  # noqa: PLR2004  the other one is its complement
    titles = [f"{PREDICTED}{one}" for one in told] if len(classes) <= MOST_CLASSES else []
    return [*titles, CONFIDENCE] if np.isfinite(confidence).any() else titles


def answer_column(title: str, predicted: Rows, confidence: Rows) -> Rows:
    return confidence if title == CONFIDENCE else (predicted == int(title.removeprefix(PREDICTED))).astype(float)


def unused(rows: Rows) -> None:
    """Nobody wants the reference."""


@dataclass(slots=True)
class VersionPanel:
    """``names`` are the columns that are given; where the model ``predicts``, its answers are watched as well.

    ``learnt`` is given the reference rows once, when there are enough.
    """

    model: str
    version: int
    names: tuple[str, ...]
    settings: InputSettings
    predicts: bool = True
    panel: Panel | None = None
    learnt: Callable[[Rows], None] = unused
    skipped: Counter[str] = field(default_factory=Counter)
    number: int = 0  # of the last row or call that was counted
    answers: list[str] = field(default_factory=list)  # titles of the columns made of answers
    _learnt: int = 0  # rows of the reference so far
    _chunks: int = 0
    _rows: list[Rows] = field(default_factory=list)
    _row_numbers: list[int] = field(default_factory=list)
    _calls: list[tuple[int, Mapping[str, float]]] = field(default_factory=list)
    _seats: Seats = field(init=False)
    _call_seats: Seats = field(init=False)

    def __post_init__(self) -> None:
        of = self.settings.rows_per_principal, self.settings.block_rows, self.settings.block_offered_rows
        self._seats, self._call_seats = Seats(*of), Seats(*of)

    def take(self, prediction: Prediction, signals: Mapping[str, float]) -> None:
        """One answered call: its rows, and what was seen of it."""
        if not self._speaks_for_it(prediction.rung, prediction.version, len(prediction.predicted)):
            return
        confidence = prediction.confidence
        sure = np.full(len(prediction.predicted), np.nan) if confidence is None else confidence
        self._seat(prediction.principal, np.column_stack((prediction.inputs, prediction.predicted, sure)))
        self._call(prediction.principal, signals)

    def take_call(
        self, principal: str, version: int, rung: str, signals: Mapping[str, float], row: Sequence[float] | None = None
    ) -> None:
        """One call of which only signals are known; and ``row`` where these are columns themselves."""
        if not self._speaks_for_it(rung, version, 1):
            return
        if row is not None:
            self._seat(principal, np.array([row], np.float64))
        self._call(principal, signals)

    def _speaks_for_it(self, rung: str, version: int, rows: int) -> bool:
        if rung == PRIMARY and version == self.version:
            return True
        self.skipped[LOWER_RUNG if rung != PRIMARY else OTHER_VERSION] += rows
        return False

    def _seat(self, principal: str, rows: Rows) -> None:
        seated = self._seats.take(principal, len(rows))
        self.skipped[OVER_SHARE] += len(rows) - len(seated)
        if seated:
            self._rows.append(rows[seated])
            self._row_numbers += range(self.number + 1, self.number + len(seated) + 1)
            self.number += len(seated)

    def _call(self, principal: str, signals: Mapping[str, float]) -> None:
        if self._call_seats.take(principal, 1):
            self.number += 1
            self._calls.append((self.number, signals))

    def close(self, store: MonitorStore) -> list[Verdict]:
        """Feed what was taken since the last time, and keep where it stands. Within the store's transaction."""
        verdicts: list[Verdict] = []
        if self._rows or self._calls:
            verdicts = self._learn(store) if self.panel is None else self._feed(self.panel)
            self._rows, self._row_numbers, self._calls = [], [], []
        store.keep_document(f"panel/{self.model}", self._standing())
        return verdicts

    def _feed(self, panel: Panel) -> list[Verdict]:
        verdicts: list[Verdict] = []
        if self._rows:
            verdicts += panel.feed(self._columns(np.concatenate(self._rows)), numbers=np.array(self._row_numbers))
        for name in panel.signals:
            said = [(number, values[name]) for number, values in self._calls if name in values]
            if said:
                numbers, values = np.array([n for n, _ in said]), np.array([v for _, v in said], np.float64)
                verdicts += panel.feed(signals={name: values}, numbers=numbers)
        return verdicts

    def _columns(self, raw: Rows) -> Rows:
        k = len(self.names)
        if not self.predicts:
            return raw
        made = [answer_column(title, raw[:, k], raw[:, k + 1]) for title in self.answers]
        return np.column_stack((raw[:, :k], *made))

    def _learn(self, store: MonitorStore) -> list[Verdict]:
        width = len(self.names) + 2 * self.predicts
        rows = np.concatenate(self._rows) if self._rows else np.empty((0, width))
        calls = [dict(signals) for _, signals in self._calls]
        store.keep_document(self._chunk(self._chunks), {"rows": _packed(rows), "calls": calls})
        self._chunks += 1
        self._learnt += len(rows)
        if self._learnt >= self.settings.reference_rows:
            self._enrol(store, width)
        return []

    def _enrol(self, store: MonitorStore, width: int) -> None:
        rows, calls = self._reference(store, width)
        if self.predicts:
            self.answers = answer_titles(*rows[:, -2:].T)
        titles = [*self.names, *self.answers]
        self.panel = Panel.enrol(titles, self._columns(rows), _signals_in(calls), self.settings.panel, elsewhere=ERROR)
        store.keep_document(f"panel-enrolment/{self.model}", {"bytes": _text(self.panel.enrolment())})
        self.learnt(rows[:, : len(self.names)])
        for chunk in range(self._chunks):
            store.keep_document(self._chunk(chunk), {})
        self._chunks = 0

    def _reference(self, store: MonitorStore, width: int) -> tuple[Rows, list[dict[str, float]]]:
        kept = [store.document(self._chunk(chunk)) or {} for chunk in range(self._chunks)]
        rows = [_unpacked(each["rows"], width) for each in kept if each]
        return np.concatenate(rows), [call for each in kept for call in each.get("calls", ())]

    def _chunk(self, number: int) -> str:
        return f"panel-reference/{self.model}/{number}"

    def _standing(self) -> dict[str, Any]:
        return {
            "version": self.version,
            "number": self.number,
            "answers": self.answers,
            "learnt": self._learnt,
            "chunks": self._chunks,
            "skipped": dict(self.skipped),
            "seats": [self._seats.snapshot(), self._call_seats.snapshot()],
            "state": None if self.panel is None else _text(self.panel.state()),
        }

    def resume(self, store: MonitorStore) -> None:
        """Go on where the last transaction ended; anew where it was another version's, or what is kept is not ours."""
        kept = store.document(f"panel/{self.model}")
        if kept is None or kept["version"] != self.version:
            return
        if kept["state"] is not None:
            try:
                enrolled = store.document(f"panel-enrolment/{self.model}") or {"bytes": ""}
                panel = Panel.restored(_bytes(enrolled["bytes"]), _bytes(kept["state"]))
            except Unpackable:
                return
            self.panel, self.answers = panel, kept["answers"]
        self.number, self._learnt, self._chunks = kept["number"], kept["learnt"], kept["chunks"]
        self.skipped = Counter(kept["skipped"])
        for seats, snapshot in zip((self._seats, self._call_seats), kept["seats"], strict=True):
            seats.resume(snapshot)


def _signals_in(calls: Sequence[Mapping[str, float]]) -> dict[str, Rows]:
    names = sorted({name for call in calls for name in call})
    found = {name: np.array([call[name] for call in calls if name in call], np.float64) for name in names}
    return {name: values for name, values in found.items() if len(values) >= SIGNAL_VALUES}


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text)


def _packed(rows: Rows) -> str:
    return _text(zlib.compress(np.ascontiguousarray(rows).tobytes(), 1))


def _unpacked(text: str, width: int) -> Rows:
    return np.frombuffer(zlib.decompress(_bytes(text)), np.float64).reshape(-1, width)
