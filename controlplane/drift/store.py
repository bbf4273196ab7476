"""What the monitor must not forget, in one SQLite file: the cursor, waiting predictions, labelled rows, documents.

Everything that one batch of observations changes is written in one transaction. A monitor killed at any point finds
itself before the batch or after it, never within.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controlplane.drift.rows import PRIMARY, CopiedCall, LabelledRow, Prediction
from controlplane.drift.watch import Counted

SCHEMA = """
CREATE TABLE IF NOT EXISTS prediction (
  number INTEGER PRIMARY KEY AUTOINCREMENT, call_id TEXT NOT NULL UNIQUE, at_ms INTEGER NOT NULL, model TEXT NOT NULL,
  version INTEGER NOT NULL, principal TEXT NOT NULL, rung TEXT NOT NULL, inputs BLOB NOT NULL, predicted BLOB NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS labelled (
  number INTEGER PRIMARY KEY AUTOINCREMENT, call_id TEXT NOT NULL, row INTEGER NOT NULL, at_ms INTEGER NOT NULL,
  model TEXT NOT NULL, version INTEGER NOT NULL, principal TEXT NOT NULL, rung TEXT NOT NULL, inputs BLOB NOT NULL,
  predicted INTEGER NOT NULL, label INTEGER NOT NULL, counted INTEGER NOT NULL DEFAULT 0, UNIQUE (call_id, row)
) STRICT;
CREATE INDEX IF NOT EXISTS labelled_by_model ON labelled (model, number);
CREATE TABLE IF NOT EXISTS copied (
  number INTEGER PRIMARY KEY AUTOINCREMENT, call_id TEXT NOT NULL, model TEXT NOT NULL, version INTEGER NOT NULL,
  latency_us INTEGER NOT NULL, failed TEXT NOT NULL, inputs BLOB NOT NULL, predicted BLOB NOT NULL,
  UNIQUE (call_id, version)
) STRICT;
CREATE TABLE IF NOT EXISTS document (name TEXT PRIMARY KEY, body TEXT NOT NULL) STRICT, WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """Labelled rows and who answered them. All arrays have (n,) rows; ``inputs`` is (n, features).

    ``versions`` is 0 where a lower rung of the ladder answered.
    """

    numbers: NDArray[np.int64]
    inputs: NDArray[np.float64]
    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    versions: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.numbers)

    def where(self, kept: NDArray[np.bool_]) -> Answers:
        return Answers(
            self.numbers[kept], self.inputs[kept], self.labels[kept], self.predicted[kept], self.versions[kept]
        )


class MonitorStore:
    """Durable on return of ``transaction``; one writer. Raises ``sqlite3.Error`` when the file cannot be written."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        self._connection.executescript(SCHEMA)

    def close(self) -> None:
        self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def document(self, name: str) -> dict[str, Any] | None:
        found = self._connection.execute("SELECT body FROM document WHERE name = ?", (name,)).fetchone()
        return None if found is None else json.loads(found[0])

    def keep_document(self, name: str, body: dict[str, Any]) -> None:
        self._connection.execute(
            "INSERT INTO document VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET body = excluded.body",
            (name, json.dumps(body, separators=(",", ":"))),
        )

    def keep_prediction(self, prediction: Prediction) -> None:
        self._connection.execute(
            "INSERT OR IGNORE INTO prediction (call_id, at_ms, model, version, principal, rung, inputs, predicted)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                prediction.call_id,
                prediction.at_ms,
                prediction.model,
                prediction.version,
                prediction.principal,
                prediction.rung,
                prediction.inputs.astype(np.float64, copy=False).tobytes(),
                prediction.predicted.astype(np.int64, copy=False).tobytes(),
            ),
        )

    def keep_labelled(self, row: LabelledRow) -> int | None:
        """The row's number: grows with every row, never used twice. None when the row is already here."""
        cursor = self._connection.execute(
            "INSERT OR IGNORE INTO labelled"
            " (call_id, row, at_ms, model, version, principal, rung, inputs, predicted, label)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                row.call_id,
                row.row,
                row.at_ms,
                row.model,
                row.version,
                row.principal,
                row.rung,
                row.inputs.tobytes(),
                row.predicted,
                row.label,
            ),
        )
        return cursor.lastrowid if cursor.rowcount else None

    def mark_counted(self, numbers: Iterable[int]) -> None:
        self._connection.executemany("UPDATE labelled SET counted = 1 WHERE number = ?", ((n,) for n in numbers))

    def waiting(self) -> Iterator[tuple[Prediction, list[int]]]:
        """Predictions kept, oldest first, each with the rows whose labels have come."""
        query = (
            "SELECT p.*, (SELECT json_group_array(l.row) FROM labelled l WHERE l.call_id = p.call_id)"
            " FROM prediction p ORDER BY p.number"
        )
        for _, call_id, at_ms, model, version, principal, rung, inputs, predicted, rows in self._connection.execute(
            query
        ):
            classes = np.frombuffer(predicted, dtype=np.int64)
            yield (
                Prediction(
                    call_id=call_id,
                    at_ms=at_ms,
                    model=model,
                    version=version,
                    principal=principal,
                    rung=rung,
                    inputs=np.frombuffer(inputs, dtype=np.float64).reshape(len(classes), -1),
                    predicted=classes,
                ),
                json.loads(rows),
            )

    def counted(self, model: str, version: int, first_number: int) -> list[Counted]:
        """Rows that the detector counted, from ``first_number`` on."""
        query = (
            "SELECT number, principal, predicted <> label FROM labelled"
            " WHERE model = ? AND number >= ? AND version = ? AND counted = 1 ORDER BY number"
        )
        return [Counted(*found) for found in self._connection.execute(query, (model, first_number, version))]

    def count_after(self, model: str, number: int, predicted_after_ms: int = 0) -> int:
        """How many labelled rows of ``model`` came after row ``number`` and were predicted after that instant (Unix
        time), whoever answered them."""
        query = "SELECT count(*) FROM labelled WHERE model = ? AND number > ? AND at_ms > ?"
        return int(self._connection.execute(query, (model, number, predicted_after_ms)).fetchone()[0])

    def rows_between(
        self, model: str, after: int, upto: int | None = None, limit: int = -1
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
        """Numbers (n,), inputs (n, features) and labels (n,) of the rows in (after, upto], oldest first."""
        query = (
            "SELECT number, inputs, label FROM labelled"
            " WHERE model = ? AND number > ? AND number <= ? ORDER BY number LIMIT ?"
        )
        found = self._connection.execute(query, (model, after, 2**62 if upto is None else upto, limit)).fetchall()
        return _columns(found)

    def answers_between(self, model: str, after: int, upto: int | None = None) -> Answers:
        """The rows in (after, upto] with who answered them and what, oldest first."""
        query = (
            "SELECT number, inputs, label, predicted, version, rung FROM labelled"
            " WHERE model = ? AND number > ? AND number <= ? ORDER BY number"
        )
        found = self._connection.execute(query, (model, after, 2**62 if upto is None else upto)).fetchall()
        numbers, inputs, labels = _columns([row[:3] for row in found])
        predicted = np.array([row[3] for row in found], dtype=np.int64)
        versions = np.array([row[4] if row[5] == PRIMARY else 0 for row in found], dtype=np.int64)
        return Answers(numbers, inputs, labels, predicted, versions)

    def keep_copy(self, copy: CopiedCall) -> None:
        self._connection.execute(
            "INSERT OR IGNORE INTO copied (call_id, model, version, latency_us, failed, inputs, predicted)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                copy.call_id,
                copy.model,
                copy.version,
                copy.latency_us,
                copy.failed,
                copy.inputs.astype(np.float64, copy=False).tobytes(),
                copy.predicted.astype(np.int64, copy=False).tobytes(),
            ),
        )

    def copies(self, model: str, version: int, after: int, limit: int = 1_000) -> list[CopiedCall]:
        """What ``version`` made of copies, the first ``limit`` that follow number ``after``."""
        query = (
            "SELECT number, call_id, latency_us, failed, inputs, predicted FROM copied"
            " WHERE model = ? AND version = ? AND number > ? ORDER BY number LIMIT ?"
        )
        found = self._connection.execute(query, (model, version, after, limit)).fetchall()
        return [_copied(model, version, columns) for columns in found]

    def copied_answers(self, model: str, version: int, after: int) -> dict[int, int]:
        """The labelled rows after number ``after`` that were copied: their numbers, and the classes of ``version``."""
        query = (
            "SELECT l.number, l.row, c.predicted FROM labelled l JOIN copied c USING (call_id, model)"
            " WHERE l.model = ? AND l.number > ? AND c.version = ? AND c.failed = ''"
        )
        found = self._connection.execute(query, (model, after, version))
        return {number: int(np.frombuffer(classes, np.int64)[row]) for number, row, classes in found}

    def last_number(self, model: str) -> int:
        """Number of the newest labelled row of ``model``; 0 before the first."""
        query = "SELECT max(number) FROM labelled WHERE model = ?"
        return int(self._connection.execute(query, (model,)).fetchone()[0] or 0)

    def rows_before(self, model: str, number: int, limit: int) -> NDArray[np.float64]:
        """Inputs (n, features) of the newest ``limit`` rows up to ``number``: what was normal."""
        query = (
            "SELECT number, inputs, label FROM labelled WHERE model = ? AND number <= ? ORDER BY number DESC LIMIT ?"
        )
        return _columns(self._connection.execute(query, (model, number, limit)).fetchall())[1]

    def forget(self, *, predictions: int, labelled: int) -> None:
        """Keep only the newest so many of each, and as many copies as predictions."""
        for table, kept in (("prediction", predictions), ("copied", predictions), ("labelled", labelled)):
            self._connection.execute(
                f"DELETE FROM {table} WHERE number <= (SELECT max(number) FROM {table}) - ?",  # noqa: S608 - our own names
                (kept,),
            )


def _copied(model: str, version: int, columns: tuple[int, str, int, str, bytes, bytes]) -> CopiedCall:
    number, call_id, latency_us, failed, inputs, predicted = columns
    classes = np.frombuffer(predicted, np.int64)
    return CopiedCall(
        call_id=call_id,
        model=model,
        version=version,
        latency_us=latency_us,
        failed=failed,
        inputs=np.frombuffer(inputs, np.float64).reshape(len(classes), -1) if len(classes) else np.empty((0, 0)),
        predicted=classes,
        number=number,
    )


def _columns(
    found: list[tuple[int, bytes, int]],
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    numbers = np.array([number for number, _, _ in found], dtype=np.int64)
    labels = np.array([label for _, _, label in found], dtype=np.int64)
    flat = np.frombuffer(b"".join(inputs for _, inputs, _ in found), dtype=np.float64)
    return numbers, flat.reshape(len(found), -1) if found else np.empty((0, 0)), labels
