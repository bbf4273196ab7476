"""Drift reports of watched models: on alarm and every night, one at a time, handed to the gateway, which keeps them.

Fails open: whatever becomes of a report, and of handing it over, is a word in a log, a metric and the verdict's
evidence. No detector and no move waits for one.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from controlplane.drift.history import History
from controlplane.drift.reporter import FAILED, MADE, MadeReport, Reporter
from controlplane.drift.settings import ReportSettings
from controlplane.monitor.settings import WatchedModel
from controlplane.retraining.course import Course
from controlplane.retraining.ports import GatewayUnavailable, TransitionRefused
from controlplane.telemetry.metrics import Metrics

Matrix = NDArray[np.float64]
ALARM, NIGHTLY = "alarm", "nightly"
NIGHTLY_DAY = "nightly.day"  # a file: the day of the last round
NIGHT_CHECK_S = 60.0
DAY_MS = int(timedelta(days=1).total_seconds() * 1000)
log = logging.getLogger("controlplane.monitor")


class Desk(Protocol):
    """``client.HttpClient``."""

    async def show_report(self, model: str, report: Mapping[str, Any]) -> None:
        """Raises ``GatewayUnavailable`` or ``TransitionRefused``."""
        ...


def is_due(now: datetime, hour: int | None, last_day: str) -> bool:
    """Once a day, from ``hour`` on; ``last_day`` is that of the last round, as 2026-11-21."""
    return hour is not None and now.hour >= hour and now.date().isoformat() != last_day


def body_of(report: MadeReport, version: int, cause: str) -> dict[str, Any]:
    return {
        "version": version,
        "cause": cause,
        "columns": report.columns,
        "of_columns": report.of_columns,
        "drifted": report.drifted,
        "scores_milli": report.scores_milli(),
        "html_gzip_base64": base64.b64encode(report.html_gzip).decode(),
    }


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Of one version: (rows, features) before, and now."""

    version: int
    reference: Matrix
    current: Matrix


@dataclass(slots=True)
class Reports:
    """``desk`` None: reports are made and nobody sees them. ``scratch`` is a folder for their rows meanwhile."""

    settings: ReportSettings
    desk: Desk | None
    history: Callable[[], History]
    scratch: Path
    metrics: Metrics
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)  # each takes up to the memory limit

    async def on_alarm(self, model: WatchedModel, course: Course) -> dict[str, int | str]:
        """Rows after the change against those before it; the answer is evidence for the ledger."""
        reference, current = await asyncio.to_thread(self._around, model.name, course.change_row)
        first = str((course.pending or {}).get("evidence", {}).get("streams", "")).split(",")
        name = f"{model.name}-{course.version}-{course.episode}"
        made = await self._make(model, Rows(course.version, reference, current), name, ALARM, first)
        return made.evidence()

    def _around(self, model: str, change_row: int) -> tuple[Matrix, Matrix]:
        with closing(self.history()) as history:
            return history.around(model, change_row, self.settings.reference_rows, self.settings.rows)

    def _day(self, model: str, since_ms: int) -> Rows:
        with closing(self.history()) as history:
            version, reference, current = history.day_against_before(
                model, since_ms, self.settings.reference_rows, self.settings.rows
            )
        return Rows(version, reference, current)

    async def nightly(self, models: Sequence[WatchedModel]) -> None:
        """The last day's rows of every model against its oldest ones that are remembered."""
        since_ms = round(self.now().timestamp() * 1000) - DAY_MS
        for model in models:
            rows = await asyncio.to_thread(self._day, model.name, since_ms)
            await self._make(model, rows, f"{model.name}-nightly", NIGHTLY)

    async def keep(self, models: Sequence[WatchedModel], stop: asyncio.Event) -> None:
        """Nightly rounds until ``stop``. A round that breaks is logged; the next night makes another."""
        while not stop.is_set():
            now = self.now()
            try:
                last = await asyncio.to_thread(self._last_day)
                if self.settings.enabled and is_due(now, self.settings.nightly_hour_utc, last):
                    await asyncio.to_thread(self._note_day, now.date().isoformat())
                    await self.nightly(models)
            except Exception:
                log.exception("the night's reports broke off")
            try:
                async with asyncio.timeout(NIGHT_CHECK_S):
                    await stop.wait()
            except TimeoutError:
                continue

    def _last_day(self) -> str:
        kept = self.scratch / NIGHTLY_DAY
        return kept.read_text() if kept.exists() else ""

    def _note_day(self, day: str) -> None:
        self.scratch.mkdir(parents=True, exist_ok=True)
        (self.scratch / NIGHTLY_DAY).write_text(day)

    async def _make(
        self,
        model: WatchedModel,
        rows: Rows,
        name: str,
        cause: str,
        first: Sequence[str] = (),
    ) -> MadeReport:
        reporter = Reporter(self.settings, model.feature_names)
        scratch = self.scratch / name.replace("/", "_")
        async with self._turn:
            try:
                made = await reporter.report(rows.reference, rows.current, scratch, first=first)
            except (OSError, ValueError):
                log.exception("a report could not be begun")
                made = MadeReport(word=FAILED)
        self.metrics.observe_drift_report(model=model.name, outcome=made.word)
        if made.word == MADE:
            await self._hand_over(model.name, body_of(made, rows.version, cause))
        else:
            log.warning("no drift report of %s (%s): %s", model.name, cause, made.word)
        return made

    async def _hand_over(self, model: str, body: Mapping[str, Any]) -> None:
        if self.desk is None:
            return
        try:
            await self.desk.show_report(model, body)
        except (GatewayUnavailable, TransitionRefused) as error:
            log.warning("a drift report of %s stays unseen: %s", model, error)
