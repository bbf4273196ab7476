"""Where the monitor hands in what people shall see of a watched model. ``console.drift_views.DriftView``.

A report's digest and scores go into the ledger first; the page itself is kept for a while and may go. What cannot be
kept or read hurts nothing but the page: that is logged.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from anyio import to_thread

from audit import LedgerReceipt
from controlplane.calls import Principal
from controlplane.console.drift_views import SentReport
from controlplane.drift.shelf import KeptReport, Point, Shelf

KIND = "drift.report"
TOP = 5
log = logging.getLogger(__name__)

Append = Callable[[str, Mapping[str, Any]], Awaitable[LedgerReceipt]]


class DriftDesk:
    def __init__(self, path: Path, append: Append, wall_clock: Callable[[], float]) -> None:
        self._shelf, self._append, self._wall_clock = Shelf(path), append, wall_clock

    def close(self) -> None:
        self._shelf.close()

    def points(self, model: str, since_ms: int = 0) -> Sequence[Point]:
        try:
            return self._shelf.points(model, since_ms)
        except sqlite3.Error:
            log.exception("evidence cannot be read", extra={"model": model})
            return []

    def reports(self, model: str) -> Sequence[KeptReport]:
        try:
            return self._shelf.reports(model)
        except sqlite3.Error:
            log.exception("reports cannot be read", extra={"model": model})
            return []

    def html(self, model: str, report_id: str) -> bytes | None:
        try:
            return self._shelf.html(model, report_id)
        except sqlite3.Error:
            log.exception("a report cannot be read", extra={"model": model, "report": report_id})
            return None

    def take_points(self, model: str, version: int, at_ms: int, detectors: Sequence[Mapping[str, Any]]) -> None:
        points = [Point(version=version, at_ms=at_ms, **said) for said in detectors]
        try:
            self._shelf.keep_points(model, points)
        except sqlite3.Error:
            log.exception("evidence cannot be kept", extra={"model": model})

    async def take_report(self, model: str, report: SentReport, by: Principal) -> LedgerReceipt:
        digest = hashlib.sha256(report.html_gzip).hexdigest()
        said: dict[str, Any] = {"model": model, "version": report.version, "cause": report.cause, "by": by.subject}
        said |= {"sha256": digest, "bytes": len(report.html_gzip), "drifted": report.drifted}
        said |= {"columns": report.columns, "of_columns": report.of_columns}
        said["scores"] = [{"column": name, "score_milli": score} for name, score in report.scores.items()]
        receipt = await self._append(KIND, {"report": said})
        kept = KeptReport(
            id=receipt.event_id,
            version=report.version,
            at_ms=round(self._wall_clock() * 1000),
            cause=report.cause,
            sha256=digest,
            drifted=report.drifted,
            columns=report.columns,
            of_columns=report.of_columns,
            top=", ".join(list(report.scores)[:TOP]),
            size_bytes=len(report.html_gzip),
        )
        try:
            await to_thread.run_sync(partial(self._shelf.keep_report, model, kept, report.html_gzip))
        except sqlite3.Error:
            log.exception("a report is in the ledger and its page cannot be kept", extra={"model": model})
        return receipt
