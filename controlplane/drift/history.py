"""The monitor's file as others read it: what it remembers of a model, without being able to change any of it.

Rows with and without labels are the calls that the monitor read and still remembers: of predictions and of labelled
rows the newest so many each (``watch.pending_calls``, ``kept_rows``). What was forgotten, was never read, or is no
prediction of tensors is not here.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """Rows as they were asked, oldest first: times (n,), inputs (n, features), predicted classes (n,)."""

    at_ms: NDArray[np.int64]
    inputs: NDArray[np.float64]
    predicted: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.at_ms)


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """Labelled rows in the order in which their labels came: times of the calls (n,), errors 0 or 1 (n,)."""

    at_ms: NDArray[np.int64]
    errors: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.at_ms)


Rows = NDArray[np.float64]


def _stacked(found: Sequence[tuple[bytes]]) -> Rows:
    rows = [np.frombuffer(inputs, np.float64) for (inputs,) in found]
    return np.stack(rows) if rows else np.empty((0, 0))


class History:
    """Raises ``sqlite3.Error`` when there is no such file, or it is not a monitor's."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)

    def close(self) -> None:
        self._connection.close()

    def document(self, name: str) -> dict[str, Any] | None:
        found = self._connection.execute("SELECT body FROM document WHERE name = ?", (name,)).fetchone()
        return None if found is None else json.loads(found[0])

    def models(self) -> list[str]:
        """Those of which anything is remembered."""
        query = "SELECT model FROM prediction UNION SELECT model FROM labelled ORDER BY 1"
        return [str(name) for (name,) in self._connection.execute(query)]

    def versions(self, model: str) -> list[int]:
        query = (
            "SELECT version FROM prediction WHERE model = ? UNION SELECT version FROM labelled WHERE model = ?"
            " ORDER BY 1"
        )
        return [int(version) for (version,) in self._connection.execute(query, (model, model))]

    def span(self, model: str) -> tuple[int, int] | None:
        """Times of the oldest and the newest call that is remembered, ms."""
        query = (
            "SELECT min(at_ms), max(at_ms) FROM (SELECT at_ms FROM prediction WHERE model = ?"
            " UNION ALL SELECT at_ms FROM labelled WHERE model = ?)"
        )
        oldest, newest = self._connection.execute(query, (model, model)).fetchone()
        return None if oldest is None else (int(oldest), int(newest))

    def rows(self, model: str, version: int, since_ms: int = 0, until_ms: int = 2**62) -> Inputs:
        """What was asked of a version in [since, until), whether it was judged later or not."""
        parts = list(self._calls(model, version, since_ms, until_ms))
        if not parts:
            return Inputs(np.empty(0, np.int64), np.empty((0, 0)), np.empty(0, np.int64))
        at = np.concatenate([np.full(len(classes), at_ms, np.int64) for at_ms, _, classes in parts])
        order = np.argsort(at, kind="stable")
        inputs, classes = np.concatenate([part[1] for part in parts]), np.concatenate([part[2] for part in parts])
        return Inputs(at[order], inputs[order], classes[order])

    def judged(self, model: str, version: int, since_ms: int = 0, until_ms: int = 2**62) -> Judged:
        query = (
            "SELECT at_ms, predicted <> label FROM labelled"
            " WHERE model = ? AND version = ? AND rung = 'primary' AND at_ms >= ? AND at_ms < ? ORDER BY number"
        )
        found = self._connection.execute(query, (model, version, since_ms, until_ms)).fetchall()
        array = np.array(found, np.int64).reshape(len(found), 2)
        return Judged(array[:, 0], array[:, 1].astype(np.float64))

    def day_against_before(
        self, model: str, since_ms: int, before_limit: int, limit: int
    ) -> tuple[int, NDArray[np.float64], NDArray[np.float64]]:
        """The newest version, its oldest rows (n, features) and its newest since ``since_ms``.

        Where nothing is older than ``since_ms`` the first half of the rows stands for what was before.
        """
        query = "SELECT version FROM prediction WHERE model = ? ORDER BY number DESC LIMIT 1"
        found = self._connection.execute(query, (model,)).fetchone()
        if found is None:
            return 0, np.empty((0, 0)), np.empty((0, 0))
        rows = self.rows(model, int(found[0]))
        first = int(np.searchsorted(rows.at_ms, since_ms, "left")) or len(rows) // 2
        return int(found[0]), rows.inputs[:first][:before_limit], rows.inputs[first:][-limit:]

    def around(self, model: str, number: int, before_limit: int, limit: int) -> tuple[Rows, Rows]:
        """Inputs (n, features) of labelled rows: the newest up to row ``number``, and the first after it."""
        query = "SELECT inputs FROM labelled WHERE model = ? AND number {} ? ORDER BY number {} LIMIT ?"
        before = self._connection.execute(query.format("<=", "DESC"), (model, number, before_limit)).fetchall()
        after = self._connection.execute(query.format(">", ""), (model, number, limit)).fetchall()
        return _stacked(before[::-1]), _stacked(after)

    def _calls(
        self, model: str, version: int, since_ms: int, until_ms: int
    ) -> Iterator[tuple[int, NDArray[np.float64], NDArray[np.int64]]]:
        """A labelled row whose call is forgotten still counts; one whose call is remembered comes with its call."""
        wanted = (model, version, since_ms, until_ms)
        calls = (
            "SELECT at_ms, inputs, predicted FROM prediction"
            " WHERE model = ? AND version = ? AND at_ms >= ? AND at_ms < ? ORDER BY number"
        )
        for at_ms, inputs, predicted in self._connection.execute(calls, wanted):
            classes = np.frombuffer(predicted, np.int64)
            if len(classes):
                yield at_ms, np.frombuffer(inputs, np.float64).reshape(len(classes), -1), classes
        alone = (
            "SELECT at_ms, inputs, predicted FROM labelled"
            " WHERE model = ? AND version = ? AND at_ms >= ? AND at_ms < ?"
            " AND call_id NOT IN (SELECT call_id FROM prediction) ORDER BY number"
        )
        for at_ms, inputs, predicted in self._connection.execute(alone, wanted):
            yield at_ms, np.frombuffer(inputs, np.float64).reshape(1, -1), np.array([predicted], np.int64)
