"""What the gateway keeps of a watched model for people to look at: evidence over time, and reports, in one SQLite file.

Bounded: the newest points and the newest reports of each model; older points are thinned, and go at last. Nothing here
decides anything, and the ledger has what must not be lost: a report's digest and scores. Methods block; call them from
a thread. Fails open.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

SCHEMA = """
CREATE TABLE IF NOT EXISTS point (
  number INTEGER PRIMARY KEY AUTOINCREMENT, model TEXT NOT NULL, version INTEGER NOT NULL, at_ms INTEGER NOT NULL,
  detector TEXT NOT NULL, evidence REAL NOT NULL, threshold REAL NOT NULL, arl_rows REAL NOT NULL,
  tolerated REAL NOT NULL, crossings INTEGER NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS point_by_model ON point (model, number);
CREATE TABLE IF NOT EXISTS report (
  number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, model TEXT NOT NULL, version INTEGER NOT NULL,
  at_ms INTEGER NOT NULL, cause TEXT NOT NULL, sha256 TEXT NOT NULL, drifted INTEGER NOT NULL, columns INTEGER NOT NULL,
  of_columns INTEGER NOT NULL, top TEXT NOT NULL, html BLOB NOT NULL
) STRICT;
"""
POINTS_KEPT = 20_000
REPORTS_KEPT = 30
BUSY_MS = 2_000
FRESH_MS = 3_600_000  # points of the last hour all stay
STEP_MS = 300_000  # of older ones the last of each detector in so much time


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Where a detector stood: it gives a verdict when ``evidence`` reaches ``threshold``, and starts anew."""

    version: int
    at_ms: int
    detector: str
    evidence: float
    threshold: float
    arl_rows: float
    tolerated: float
    crossings: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptReport:
    """``id`` is the ledger's event; ``top`` names the columns with the largest scores, ``size_bytes`` is compressed."""

    id: str
    version: int
    at_ms: int
    cause: str
    sha256: str
    drifted: int
    columns: int
    of_columns: int
    top: str
    size_bytes: int


class Shelf:
    """One connection, used by one thread at a time. Raises ``sqlite3.Error``."""

    def __init__(self, path: Path, points_kept: int = POINTS_KEPT, reports_kept: int = REPORTS_KEPT) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._points_kept, self._reports_kept = points_kept, reports_kept
        self._lock = threading.Lock()
        self._thinned: dict[str, int] = {}  # model → the step up to which its points are thinned
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", f"busy_timeout={BUSY_MS}"):
            self._connection.execute(f"PRAGMA {pragma}")
        self._connection.executescript(SCHEMA)

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def keep_points(self, model: str, points: Sequence[Point]) -> None:
        rows = [
            (model, p.version, p.at_ms, p.detector, p.evidence, p.threshold, p.arl_rows, p.tolerated, p.crossings)
            for p in points
        ]
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._connection.executemany(
                    "INSERT INTO point (model, version, at_ms, detector, evidence, threshold, arl_rows, tolerated,"
                    " crossings) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    rows,
                )
                self._thin(model, max((point.at_ms for point in points), default=0))
                self._forget("point", model, self._points_kept)
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def points(self, model: str, since_ms: int = 0) -> list[Point]:
        """The oldest first."""
        query = (
            "SELECT version, at_ms, detector, evidence, threshold, arl_rows, tolerated, crossings FROM point"
            " WHERE model = ? AND at_ms >= ? ORDER BY number"
        )
        with self._lock:
            found = self._connection.execute(query, (model, since_ms)).fetchall()
        names = ("version", "at_ms", "detector", "evidence", "threshold", "arl_rows", "tolerated", "crossings")
        return [Point(**dict(zip(names, row, strict=True))) for row in found]

    def keep_report(self, model: str, report: KeptReport, html_gzip: bytes) -> None:
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._connection.execute(
                    "INSERT OR IGNORE INTO report (id, model, version, at_ms, cause, sha256, drifted, columns,"
                    " of_columns, top, html) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        report.id,
                        model,
                        report.version,
                        report.at_ms,
                        report.cause,
                        report.sha256,
                        report.drifted,
                        report.columns,
                        report.of_columns,
                        report.top,
                        html_gzip,
                    ),
                )
                self._forget("report", model, self._reports_kept)
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def reports(self, model: str) -> list[KeptReport]:
        """The newest first."""
        query = (
            "SELECT id, version, at_ms, cause, sha256, drifted, columns, of_columns, top, length(html) FROM report"
            " WHERE model = ? ORDER BY number DESC"
        )
        with self._lock:
            found = self._connection.execute(query, (model,)).fetchall()
        names = ("id", "version", "at_ms", "cause", "sha256", "drifted", "columns", "of_columns", "top", "size_bytes")
        return [KeptReport(**dict(zip(names, row, strict=True))) for row in found]

    def html(self, model: str, report_id: str) -> bytes | None:
        """The report's page, compressed with gzip."""
        query = "SELECT html FROM report WHERE model = ? AND id = ?"
        with self._lock, closing(self._connection.execute(query, (model, report_id))) as found:
            row = found.fetchone()
        return None if row is None else bytes(row[0])

    def _thin(self, model: str, newest_ms: int) -> None:
        """Once in a step, for it looks at all points of the model."""
        step = (newest_ms - FRESH_MS) // STEP_MS
        if step <= self._thinned.get(model, -1):
            return
        self._thinned[model] = step
        self._connection.execute(
            "DELETE FROM point WHERE model = ? AND at_ms < ? AND number NOT IN (SELECT max(number) FROM point"
            " WHERE model = ? AND at_ms < ? GROUP BY version, detector, at_ms / ?)",
            (model, step * STEP_MS, model, step * STEP_MS, STEP_MS),
        )

    def _forget(self, table: str, model: str, kept: int) -> None:
        self._connection.execute(
            f"DELETE FROM {table} WHERE model = ? AND number <="  # noqa: S608 - our own names
            f" (SELECT number FROM {table} WHERE model = ? ORDER BY number DESC LIMIT 1 OFFSET ?)",
            (model, model, kept),
        )
