"""Every detector of one model version behind one object: arrays of rows and signals in, verdicts out.

    panel = Panel.enrol(names, reference_rows, {"timeout": zeros_and_ones, "latency": seconds}, settings)
    for verdict in panel.feed(rows, {"timeout": timeouts, "latency": seconds}, numbers):
        …                                   # verdict.detector, .stream, .since_row, .movements, .ledger()
    store(panel.enrolment())                # once, bytes: what the reference showed
    store(panel.state())                    # every some seconds, bytes: the evidence so far
    panel = Panel.restored(enrolment, state)

Rows are (n, k) float64, one column a name, NaN for a missing value; put predictions and confidences in as further
columns, and an unordered category as one 0/1 column for each of its values. Signals are (n,) arrays by name, NaN where
a row has nothing to say; ``bernoulli.RULES`` has what each is held against, and any other name is a rare 0/1 event.
Rows and signals of one ``feed`` share ``numbers`` (n,), which ascend; a verdict's ``row`` and ``since_row`` are of
these. Without them rows are counted from 1. Labels come later than rows: feed ``{"error": …}`` by itself then.

A detector gives a verdict when its evidence reaches its threshold, and starts anew: a change that lasts gives verdicts
again and again (``crossing``), and silence means that it has passed. The mean number of rows between false verdicts of
all detectors together is at least ``budget.rows_per_false_alarm``.

``unarmed`` says which detectors could not be had, with a stable word for why. Pure: no clock, no file, no chance.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controlplane.drift.bernoulli import Signal, signal_from
from controlplane.drift.budget import Budget
from controlplane.drift.calibrated import ScoreScale, WindowWatch, calibrate
from controlplane.drift.edetector import Reference
from controlplane.drift.inputs import MISSING, SCALES, SHORT_REFERENCE, InputWatch
from controlplane.drift.packing import Unpackable, fingerprint, pack, unpack
from controlplane.drift.panel_settings import PanelSettings
from controlplane.drift.verdict import Movement, Verdict

__all__ = [
    "Budget",
    "DetectorStatus",
    "Movement",
    "Panel",
    "PanelSettings",
    "Reference",
    "Unpackable",
    "Verdict",
    "detectors_of",
]

FORMAT = 1
WINDOW = "window"


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorStatus:
    """Where a detector stands: it gives a verdict when ``evidence`` reaches ``threshold``."""

    detector: str
    evidence: float
    threshold: float
    arl_rows: float
    tolerated: float  # p0 of a block exceedance, the band of a signal, the threshold of a score
    crossings: int


@dataclass(slots=True)
class Panel:
    """See above. ``names`` are the columns; feed batches in the order in which the rows came."""

    settings: PanelSettings
    names: tuple[str, ...]
    inputs: InputWatch | None
    window: WindowWatch | None
    signals: dict[str, Signal]
    unarmed: dict[str, str] = field(default_factory=dict)
    _digest: str = ""
    _counted: dict[str, int] = field(default_factory=dict)  # rows and values of each signal so far

    @classmethod
    def enrol(
        cls,
        names: Sequence[str],
        rows: NDArray[np.float64],
        signals: Mapping[str, NDArray[np.float64] | Reference] | None = None,
        settings: PanelSettings | None = None,
        *,
        elsewhere: Collection[str] = (),
    ) -> Panel:
        """Learn what is normal from reference rows (n, k), and signals, in the order of time.

        ``elsewhere`` names detectors of this model that run outside of the panel and share its budget (the labelled
        error of ``watch.py``); theirs is ``settings.budget.arl_rows(name, detectors_of(...))``.

        Raises:
            ValueError: rows that do not fit the names, or a signal without a single value.
        """
        settings, signals = settings or PanelSettings(), signals or {}
        reference = _matrix(rows, len(names))
        armed = {*detectors_of(settings, signals, has_inputs=bool(names)), *elsewhere}
        panel = cls(settings, tuple(names), None, None, {})
        for name, values in signals.items():
            panel.signals[name] = _signal(name, values, settings.budget.arl_rows(name, armed))
        if names:
            panel._watch_inputs(reference, armed)
        panel._digest = fingerprint(panel.enrolment())
        return panel

    def _watch_inputs(self, rows: NDArray[np.float64], armed: Collection[str]) -> None:
        settings = self.settings
        if settings.trigger == "evidently":
            if len(rows) < 2 * settings.window_rows:
                self.unarmed[WINDOW] = SHORT_REFERENCE
                return
            scale = calibrate(rows, settings.window_rows, settings.window_resamples)
            self.window = WindowWatch(self.names, scale, settings.drift_score_threshold)
            return
        self.inputs = InputWatch.fit(
            self.names, rows, lambda name: settings.budget.arl_rows(name, armed), settings.reference_risk
        )
        self.unarmed |= self.inputs.unarmed(len(rows), settings.reference_risk)

    def feed(
        self,
        rows: NDArray[np.float64] | None = None,
        signals: Mapping[str, NDArray[np.float64]] | None = None,
        numbers: NDArray[np.int64] | None = None,
    ) -> list[Verdict]:
        """Take a batch in; its verdicts in the order of detectors, and of rows within each.

        Raises:
            ValueError: arrays that do not fit each other or the enrolment. Nothing has been taken in then.
            KeyError: a signal that was not enrolled. Nothing has been taken in then.
        """
        matrix = None if rows is None else _matrix(rows, len(self.names))
        vectors = {name: _vector(values) for name, values in (signals or {}).items()}
        for name in vectors:
            if name not in self.signals:
                raise KeyError(name)
        lengths = {len(array) for array in (*vectors.values(), *(() if matrix is None else (matrix,)))}
        if numbers is not None and lengths - {len(numbers)}:
            raise ValueError("as many numbers as rows are needed")
        verdicts: list[Verdict] = []
        if matrix is not None and len(matrix):
            verdicts += self._feed_rows(matrix, self._numbers("", len(matrix), numbers))
        for name, values in vectors.items():
            if len(values):
                verdicts += self.signals[name].feed(values, self._numbers(f"signal {name}", len(values), numbers))
        return verdicts

    def _feed_rows(self, rows: NDArray[np.float64], numbers: NDArray[np.int64]) -> list[Verdict]:
        watch = self.inputs or self.window
        return [] if watch is None else watch.feed(rows, numbers)

    def _numbers(self, stream: str, count: int, given: NDArray[np.int64] | None) -> NDArray[np.int64]:
        before = self._counted.get(stream, 0)
        self._counted[stream] = before + count
        return np.arange(before + 1, before + count + 1) if given is None else np.asarray(given, np.int64)

    def status(self) -> list[DetectorStatus]:
        """Every armed detector, for pages and metrics."""
        found = []
        if self.inputs is not None:
            found += [_scale_status(name, self.inputs) for name in self.inputs.scales] + [_missing_status(self.inputs)]
        if self.window is not None:
            found.append(_window_status(self.window))
        return found + [_signal_status(signal) for signal in self.signals.values()]

    def enrolment(self) -> bytes:
        """What the reference showed, for ``restored``: it does not change with the rows."""
        plain = {
            "format": FORMAT,
            "settings": self.settings.model_dump(mode="json"),
            "names": list(self.names),
            "unarmed": self.unarmed,
            "signals": [signal.enrolled() for signal in self.signals.values()],
        }
        arrays = {f"inputs/{name}": array for name, array in (self.inputs.fitted() if self.inputs else {}).items()}
        if self.window is not None:
            arrays |= {f"window/{name}": getattr(self.window.scale, name) for name in _SCALE_ARRAYS}
        return pack(plain, arrays)

    def state(self) -> bytes:
        """The evidence so far: all that a monitor must keep between two batches to lose nothing."""
        plain: dict[str, Any] = {
            "enrolment": self._digest,
            "counted": self._counted,
            "signals": [signal.snapshot() for signal in self.signals.values()],
        }
        arrays: dict[str, NDArray[Any]] = {}
        if self.inputs is not None:
            plain["crossings"] = self.inputs.crossings
            arrays = self.inputs.state()
        if self.window is not None:
            plain["window"] = [getattr(self.window, name) for name in _WINDOW_FIELDS]
            arrays = {"counts": self.window.counts}
        return pack(plain, arrays)

    @classmethod
    def restored(cls, enrolment: bytes, state: bytes | None = None) -> Panel:
        """The panel as it was when ``state`` was taken; without one, as it was enrolled.

        Raises:
            Unpackable: these bytes are not a panel's, or state and enrolment are of two panels.
        """
        plain, arrays = unpack(enrolment)
        try:
            panel = _enrolled(plain, arrays)
            panel._digest = fingerprint(enrolment)  # noqa: SLF001 - a part of the constructor
            if state is not None:
                panel._restore(*unpack(state))  # noqa: SLF001 - as above
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise Unpackable(f"not a panel of format {FORMAT}: {error}") from error
        return panel

    def _restore(self, plain: Mapping[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
        if plain["enrolment"] != self._digest:
            raise ValueError("state of another enrolment")
        self._counted = dict(plain["counted"])
        self.signals = {kept["name"]: signal_from(kept) for kept in plain["signals"]}
        if self.inputs is not None:
            self.inputs.crossings = dict(plain["crossings"])
            self.inputs.restore(arrays)
        if self.window is not None:
            for name, value in zip(_WINDOW_FIELDS, plain["window"], strict=True):
                setattr(self.window, name, value)
            self.window.counts[:] = arrays["counts"]


_SCALE_ARRAYS = ("cuts", "shares", "steps", "critical", "chance")
_WINDOW_FIELDS = ("crossings", "rows", "before", "latest")


def _enrolled(plain: Mapping[str, Any], arrays: dict[str, NDArray[Any]]) -> Panel:
    if plain["format"] != FORMAT:
        raise ValueError(f"format {plain['format']}")
    settings, names = PanelSettings.model_validate(plain["settings"]), tuple(plain["names"])
    parts = {kind: _part(kind, arrays) for kind in ("inputs", WINDOW)}
    window = None
    if parts[WINDOW]:
        scale = ScoreScale(settings.window_rows, **parts[WINDOW])
        window = WindowWatch(names, scale, settings.drift_score_threshold)
    return Panel(
        settings,
        names,
        InputWatch.of_fitted(names, parts["inputs"]) if parts["inputs"] else None,
        window,
        {kept["name"]: signal_from(kept) for kept in plain["signals"]},
        dict(plain["unarmed"]),
    )


def _part(kind: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {name.partition("/")[2]: array for name, array in arrays.items() if name.startswith(f"{kind}/")}


def detectors_of(settings: PanelSettings, signals: Iterable[str], *, has_inputs: bool = True) -> set[str]:
    """The detectors that a panel with these ``signals`` arms: those who share its budget."""
    inputs = {WINDOW} if settings.trigger == "evidently" else {*SCALES, MISSING}
    return {*signals, *(inputs if has_inputs else ())}


def _signal(name: str, values: NDArray[np.float64] | Reference, arl_rows: float) -> Signal:
    if isinstance(values, Reference):
        return Signal.counted(name, values, arl_rows)
    return Signal.fit(name, _vector(values), arl_rows)


def _matrix(rows: NDArray[np.float64], columns: int) -> NDArray[np.float64]:
    matrix = np.asarray(rows, np.float64)
    if matrix.ndim != 2 or matrix.shape[1] != columns:  # noqa: PLR2004 - rows and columns
        raise ValueError(f"rows of {columns} columns are needed, not an array of shape {matrix.shape}")
    return matrix


def _vector(values: NDArray[np.float64]) -> NDArray[np.float64]:
    vector = np.asarray(values, np.float64)
    if vector.ndim != 1:
        raise ValueError("a signal has one value a row")
    return vector


def _scale_status(name: str, inputs: InputWatch) -> DetectorStatus:
    watch = inputs.scales[name]
    return DetectorStatus(
        detector=name,
        evidence=watch.exceedances.mixture,
        threshold=watch.arl_blocks,
        arl_rows=watch.arl_blocks * watch.limits.width,
        tolerated=watch.limits.p0,
        crossings=inputs.crossings.get(name, 0),
    )


def _missing_status(inputs: InputWatch) -> DetectorStatus:
    counts = inputs.missing.counts
    return DetectorStatus(
        detector=MISSING,
        evidence=counts.mixture,
        threshold=counts.arl_blocks,
        arl_rows=counts.arl_blocks * counts.width,
        tolerated=float(counts.bands.max()),
        crossings=inputs.crossings.get(MISSING, 0),
    )


def _window_status(window: WindowWatch) -> DetectorStatus:
    return DetectorStatus(
        detector=WINDOW,
        evidence=window.latest,
        threshold=window.threshold,
        arl_rows=window.arl_rows,
        tolerated=window.threshold,
        crossings=window.crossings,
    )


def _signal_status(signal: Signal) -> DetectorStatus:
    return DetectorStatus(
        detector=signal.name,
        evidence=signal.detector.evidence,
        threshold=1 / signal.detector.alpha,
        arl_rows=1 / signal.detector.alpha,
        tolerated=signal.detector.band,
        crossings=signal.crossings,
    )
