"""What the monitor watches besides labels: inputs, answers, signals, and whether it missed anything itself.

    watching.saw(page, boot_before)                      # gaps; and ``note_idle`` where nothing is new
    with store.transaction():
        watching.take_rows(prediction, version, …)       # or take_signals, for each observation
        for model, evidence in watching.close(): …       # what moved
    await watching.tell()                                # gaps and counts to the gateway; never raises

A verdict on a model that has a loop is for that loop to act on. One on a language model goes into the ledger as
``watch.verdict``: there is nothing to retrain, and somebody should know.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from controlplane.drift.input_settings import InputSettings
from controlplane.drift.panel import DetectorStatus
from controlplane.drift.reference import reference_of, write_reference
from controlplane.drift.rows import Prediction
from controlplane.drift.signals import TEXT, text_row
from controlplane.drift.store import MonitorStore
from controlplane.drift.verdict import Verdict
from controlplane.monitor.client import Page
from controlplane.monitor.gaps import Gaps, new_key
from controlplane.monitor.panels import VersionPanel
from controlplane.monitor.settings import MonitorSettings, WatchedModel
from controlplane.retraining.ports import GatewayUnavailable, TransitionRefused
from controlplane.telemetry.metrics import Metrics

SEEN_EVERY_MS = 10_000  # how often an idle monitor writes down that it is there
SHOWN_EVERY_MS = 10_000
UNTOLD = 1_000  # verdicts that wait for a gateway which does not answer
IN_VERSION, BESIDE = "assets.extra/row_reference.json", "references"  # as in ``controlplane.guarding``
log = logging.getLogger("controlplane.monitor")

Evidence = dict[str, int | str]


class Desk(Protocol):
    """Where the monitor's own records go. All raise ``GatewayUnavailable`` or ``TransitionRefused``."""

    async def record_gap(self, gap: Mapping[str, Any]) -> None:
        """MUST be idempotent by ``gap["key"]``, as the next one."""
        ...

    async def record_verdict(self, verdict: Mapping[str, Any]) -> None: ...
    async def show_skipped(self, skipped: Mapping[str, Mapping[str, int]]) -> None: ...


@dataclass(slots=True)
class Watching:
    """One for all models. ``desk`` None: nothing is told to anybody."""

    settings: MonitorSettings
    store: MonitorStore
    desk: Desk | None = None
    metrics: Metrics = field(default_factory=lambda: Metrics("monitor"))
    wall_clock: Callable[[], float] = time.time
    gaps: Gaps = field(init=False)
    panels: dict[str, VersionPanel] = field(default_factory=dict)
    verdicts: deque[dict[str, Any]] = field(default_factory=deque)  # on language models, still to be told
    _models: dict[str, WatchedModel] = field(init=False)
    _kept_ms: int = 0
    _shown_ms: int = 0
    _shown: dict[str, dict[str, int]] = field(default_factory=dict)
    _counted: dict[tuple[str, str], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._models = {model.name: model for model in self.settings.models}
        self.gaps = Gaps(int(self.settings.away_s * 1000))
        kept = self.store.document("watching")
        if kept is not None:
            self.gaps.resume(kept["gaps"])
            self.verdicts = deque(kept["verdicts"])

    def saw(self, page: Page, boot_before: str) -> None:
        """A page that was read, empty or not; call ``close`` or ``note_idle`` next."""
        if self.gaps.saw(page, boot_before, self._now_ms()):
            self.metrics.observe_monitor_gap()
            self._kept_ms = 0

    def note_idle(self) -> None:
        """Nothing new was read. Writes it down from time to time, in a transaction of its own."""
        if self._now_ms() - self._kept_ms > SEEN_EVERY_MS:
            self._save()

    def take_rows(self, prediction: Prediction, version: int, seen: Mapping[str, float]) -> None:
        """An answered call; ``version`` is the one under watch, ``seen`` what else is known of the call."""
        model = self._models[prediction.model]
        if model.inputs.enabled:
            self._panel(model.name, version, model.feature_names, model.inputs).take(prediction, seen)

    def take_signals(self, said: Mapping[str, Any], version: int | None = None) -> None:
        """An observation of kind ``signals``. ``version`` is the one under watch, None for a language model's own.

        Raises ``KeyError``, ``TypeError`` or ``ValueError`` where it is none.
        """
        values = {str(name): float(value) for name, value in dict(said["values"]).items()}
        about = str(said["principal"]), int(said["version"]), str(said["rung"])
        model = self._models.get(said["model"])
        if model is not None:
            if model.inputs.enabled and version is not None:
                self._panel(model.name, version, model.feature_names, model.inputs).take_call(*about, values)
        elif said["model"] in self.settings.language_models:
            row = text_row(values)
            signals = {name: value for name, value in values.items() if name not in TEXT}
            panel = self._panel(said["model"], about[1], TEXT, self.settings.language, predicts=False)
            panel.take_call(*about, signals, None if any(map(math.isnan, row)) else row)

    def _panel(
        self, model: str, version: int, names: tuple[str, ...], settings: InputSettings, *, predicts: bool = True
    ) -> VersionPanel:
        known = self.panels.get(model)
        if known is None or known.version != version:
            learnt = partial(self._describe, model, version)
            known = self.panels[model] = VersionPanel(model, version, names, settings, predicts, learnt=learnt)
            known.resume(self.store)
        return known

    def _describe(self, model: str, version: int, rows: NDArray[np.float64]) -> None:
        """Leave the reference of a version for whoever guards its rows, unless it has one or lies elsewhere."""
        watched, base = self._models.get(model), self.settings.models_root / model
        if watched is None or not watched.inputs.writes_reference or not (base / str(version)).is_dir():
            return
        beside = base / BESIDE / f"{version}.json"
        if beside.exists() or (base / str(version) / IN_VERSION).exists():
            return
        try:
            write_reference(beside, reference_of(watched.feature_names, rows, tensor=watched.input))
        except OSError as error:
            log.warning("the reference of %s/%d cannot be written: %s", model, version, error)

    def close(self) -> list[tuple[str, Evidence]]:
        """Feed everything that was taken; what moved of models with a loop. Within the store's transaction."""
        found: list[tuple[str, Evidence]] = []
        for name, panel in self.panels.items():
            verdicts = panel.close(self.store)
            if name in self._models:
                found += [(name, each.ledger()) for each in verdicts]
            else:
                self._remember(name, panel.version, verdicts)
        self._keep()
        return found

    def _remember(self, model: str, version: int, verdicts: list[Verdict]) -> None:
        for each in verdicts:
            said = {"key": new_key(), "model": model, "version": version, "evidence": each.ledger()}
            self.verdicts.append(said)
            self.metrics.observe_verdict(model=model, verdict="SUSPECTED")
            log.warning("%s has moved: %s", model, said["evidence"])
        while len(self.verdicts) > UNTOLD:
            self.verdicts.popleft()

    def _keep(self) -> None:
        self._kept_ms = self._now_ms()
        self.store.keep_document("watching", {"gaps": self.gaps.snapshot(), "verdicts": list(self.verdicts)})

    def status(self, model: str) -> list[DetectorStatus]:
        """Where a model's detectors stand; none while the reference is being learnt."""
        watched = self.panels.get(model)
        return [] if watched is None or watched.panel is None else watched.panel.status()

    async def tell(self) -> None:
        """Gaps, verdicts and counts to the gateway. What it does not take now is told the next time."""
        now_ms = self._now_ms()
        skipped = self._count_skipped()
        if self.desk is None:
            return
        try:
            await self._tell_records(self.desk, now_ms)
            if skipped != self._shown and now_ms - self._shown_ms > SHOWN_EVERY_MS:
                await self.desk.show_skipped(skipped)
                self._shown, self._shown_ms = skipped, now_ms
        except GatewayUnavailable as error:
            log.warning("the gateway does not take the monitor's records: %s", error)
        except TransitionRefused as refusal:
            log.error("the gateway refuses the monitor's records: %s", refusal)  # noqa: TRY400 - no bug of ours

    async def _tell_records(self, desk: Desk, now_ms: int) -> None:
        """What is told is kept as told first: after a kill it is told again in the same words."""
        due = self.gaps.due(now_ms)
        if due:
            self._save()
        for gap in due:
            await desk.record_gap(gap.as_document())
            self.gaps.recorded(gap)
            self._save()
        while self.verdicts:
            await desk.record_verdict(self.verdicts[0])
            self.verdicts.popleft()
            self._save()

    def _save(self) -> None:
        with self.store.transaction():
            self._keep()

    def _count_skipped(self) -> dict[str, dict[str, int]]:
        counted = {name: dict(panel.skipped) for name, panel in self.panels.items()}
        for model, reasons in counted.items():
            for reason, count in reasons.items():
                fresh = count - self._counted.get((model, reason), 0)
                if fresh > 0:
                    self.metrics.observe_rows_skipped(model=model, reason=reason, count=fresh)
                self._counted[model, reason] = count
        return counted

    def _now_ms(self) -> int:
        return int(self.wall_clock() * 1000)
