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

from controlplane.drift.rows import PRIMARY, LabelledRow


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """Rows that the version itself answered, oldest first: times (n,), inputs (n, features), classes (n,), callers."""

    at_ms: NDArray[np.int64]
    inputs: NDArray[np.float64]
    predicted: NDArray[np.int64]
    principals: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.at_ms)

    def at(self, places: NDArray[np.int64]) -> Inputs:
        """The rows at these places, in this order."""
        named = tuple(self.principals[place] for place in places.tolist())
        return Inputs(self.at_ms[places], self.inputs[places], self.predicted[places], named)


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
            return Inputs(np.empty(0, np.int64), np.empty((0, 0)), np.empty(0, np.int64), ())
        rows = Inputs(
            np.concatenate([np.full(len(part.predicted), part.at_ms, np.int64) for part in parts]),
            np.concatenate([part.inputs for part in parts]),
            np.concatenate([part.predicted for part in parts]),
            tuple(part.principal for part in parts for _ in part.predicted),
        )
        return rows.at(np.argsort(rows.at_ms, kind="stable"))

    def labelled(
        self, model: str, version: int, since_ms: int = 0, until_ms: int = 2**62
    ) -> Iterator[tuple[int, LabelledRow]]:
        """Labelled rows with their numbers, in the order in which the labels came."""
        names = ("call_id", "row", "at_ms", "model", "version", "principal", "rung", "inputs", "predicted", "label")
        query = (
            f"SELECT number, {', '.join(names)} FROM labelled"  # noqa: S608 - our own names
            " WHERE model = ? AND version = ? AND at_ms >= ? AND at_ms < ? ORDER BY number"
        )
        for number, *values in self._connection.execute(query, (model, version, since_ms, until_ms)):
            said = dict(zip(names, values, strict=True))
            yield number, LabelledRow(**said | {"inputs": np.frombuffer(said["inputs"], np.float64)})

    def day_against_before(
        self, model: str, since_ms: int, before_limit: int, limit: int
    ) -> tuple[int, NDArray[np.float64], NDArray[np.float64]]:
        """The newest version, its oldest rows (n, features) and its newest since ``since_ms``.

        Where nothing is older than ``since_ms`` the first half of the rows stands for what was before.
        """
        query = (
            "SELECT version FROM (SELECT version, at_ms FROM prediction WHERE model = ?"
            " UNION ALL SELECT version, at_ms FROM labelled WHERE model = ?) ORDER BY at_ms DESC LIMIT 1"
        )
        found = self._connection.execute(query, (model, model)).fetchone()
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

    def _calls(self, model: str, version: int, since_ms: int, until_ms: int) -> Iterator[_Part]:
        """A labelled row whose call is forgotten still counts; one whose call is remembered comes with its call."""
        wanted = (model, version, PRIMARY, since_ms, until_ms)
        where = "WHERE model = ? AND version = ? AND rung = ? AND at_ms >= ? AND at_ms < ?"
        calls = f"SELECT at_ms, principal, inputs, predicted FROM prediction {where} ORDER BY number"  # noqa: S608 - our own
        for at_ms, principal, inputs, predicted in self._connection.execute(calls, wanted):
            classes = np.frombuffer(predicted, np.int64)
            if len(classes):
                rows = np.frombuffer(inputs, np.float64).reshape(len(classes), -1)
                yield _Part(at_ms, principal, rows, classes)
        alone = (
            f"SELECT at_ms, principal, inputs, predicted FROM labelled {where}"  # noqa: S608 - our own
            " AND call_id NOT IN (SELECT call_id FROM prediction) ORDER BY number"
        )
        for at_ms, principal, inputs, predicted in self._connection.execute(alone, wanted):
            rows = np.frombuffer(inputs, np.float64).reshape(1, -1)
            yield _Part(at_ms, principal, rows, np.array([predicted], np.int64))


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    at_ms: int
    principal: str
    inputs: Rows
    predicted: NDArray[np.int64]
