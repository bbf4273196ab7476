"""Reading the ledger beside its writer: from any thread or process, read only, each call on a snapshot of its own.

Believes what is stored; who must not believe it uses ``audit.verify``.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

from audit import merkle
from audit.entry import LedgerHead, Record, event_time_ms, from_json, is_event_id
from audit.errors import AuditUnavailable, LedgerCorrupt
from audit.merkle import Frontier

SEARCH_MS = (2_000, 60_000)
"""How far from an event id's own time its record is looked for, before the whole log is: clocks err."""

MAX_INDEX = 2**63 - 1  # SQLite's largest integer

Result = TypeVar("Result")


def connect_read_only(path: Path) -> sqlite3.Connection:
    """A connection that cannot write. A closed ledger on read-only media has no journal and is opened as immutable."""
    uri = path.absolute().as_uri()
    has_journal = any(path.with_name(path.name + suffix).exists() for suffix in ("-wal", "-journal"))
    connection = sqlite3.connect(f"{uri}?mode=ro", uri=True, isolation_level=None, timeout=1.0)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        connection.close()
        if has_journal or not path.exists():
            raise
        connection = sqlite3.connect(f"{uri}?mode=ro&immutable=1", uri=True, isolation_level=None)
    return connection


class LedgerReader:
    """Methods may be called from any thread. Raises ``AuditUnavailable`` when the file cannot be read."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def head(self) -> LedgerHead:
        rows = self._ask(lambda db: db.execute("SELECT frontier, checkpoint FROM head").fetchall())
        try:
            ((packed, checkpoint),) = rows
            frontier = Frontier.unpack(packed)
        except (ValueError, TypeError) as error:
            raise LedgerCorrupt(f"head: {error}") from error
        return LedgerHead(frontier.size, frontier.root(), checkpoint)

    def read(
        self, after: int = -1, limit: int = 100, *, newest: bool = False, kinds: Sequence[str] | None = None
    ) -> list[Record]:
        """Records with an index above ``after``: the first ``limit`` in order, or the last ones, newest first."""
        if after >= MAX_INDEX:
            return []
        wanted = "" if kinds is None else f" AND kind IN ({','.join('?' * len(kinds))})"
        order = "DESC" if newest else "ASC"
        statement = f"SELECT idx, leaf, body FROM log WHERE idx > ?{wanted} ORDER BY idx {order} LIMIT ?"  # noqa: S608  only marks
        rows = self._ask(lambda db: db.execute(statement, (after, *(kinds or ()), min(limit, MAX_INDEX))).fetchall())
        return [_record(row) for row in rows]

    def get(self, index: int) -> Record | None:
        if index > MAX_INDEX:
            return None
        row = self._ask(lambda db: db.execute("SELECT idx, leaf, body FROM log WHERE idx = ?", (index,)).fetchone())
        return None if row is None else _record(row)

    def find(self, event_id: str) -> Record | None:
        """The record of this event, looked for around the time its id carries; a miss reads the whole log."""
        if not is_event_id(event_id):
            return None  # no record has such a name
        statement = "SELECT idx, leaf, body FROM log WHERE idx >= ? AND idx < ? AND event_id = ? LIMIT 1"

        def search(db: sqlite3.Connection) -> tuple[int, bytes, bytes] | None:
            for low, high in _windows(db, event_time_ms(event_id), _size(db)):
                row: tuple[int, bytes, bytes] | None = db.execute(statement, (low, high, event_id)).fetchone()
                if row is not None:
                    return row
            return None

        found = self._ask(search)
        return None if found is None else _record(found)

    def outcome_of(self, event_id: str) -> Record | None:
        """The record that closed this intent. A miss reads the whole log."""
        intent = self.find(event_id)
        if intent is None:
            return None
        statement = "SELECT idx, leaf, body FROM log WHERE idx > ? AND closes = ? LIMIT 1"
        row = self._ask(lambda db: db.execute(statement, (intent.index, event_id)).fetchone())
        return None if row is None else _record(row)

    def open_intents(self) -> dict[str, int]:
        """Event id to leaf index of every intent without an outcome, oldest first."""
        return dict(self._ask(lambda db: db.execute("SELECT event_id, idx FROM open_intent ORDER BY idx").fetchall()))

    def inclusion_proof(self, index: int, size: int | None = None) -> list[bytes]:
        """RFC 6962 audit path of a leaf in the tree of ``size`` (now, when None). Raises ``ValueError`` if absent."""
        return merkle.inclusion_proof(self._leaves(size), index)

    def consistency_proof(self, old_size: int, size: int | None = None) -> list[bytes]:
        """RFC 6962 proof that the tree of ``old_size`` is a prefix of that of ``size``. Raises ``ValueError``."""
        return merkle.consistency_proof(self._leaves(size), old_size)

    def _leaves(self, size: int | None) -> list[bytes]:
        def fetch(db: sqlite3.Connection) -> list[bytes]:
            until = _size(db) if size is None else size
            return [row[0] for row in db.execute("SELECT leaf FROM log WHERE idx < ? ORDER BY idx", (until,))]

        leaves = self._ask(fetch)
        if size is not None and len(leaves) != size:
            raise ValueError(f"the tree has not reached {size} leaves")
        return leaves

    def _ask(self, question: Callable[[sqlite3.Connection], Result]) -> Result:
        with self._snapshot() as connection:
            return question(connection)

    @contextmanager
    def _snapshot(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(connect_read_only(self._path)) as connection:
                connection.execute("BEGIN")
                yield connection
        except sqlite3.OperationalError as error:
            raise AuditUnavailable("io_error") from error
        except sqlite3.DatabaseError as error:
            raise LedgerCorrupt(str(error)) from error


def _windows(db: sqlite3.Connection, born_ms: int, size: int) -> Iterator[tuple[int, int]]:
    """Ranges of indexes worth searching, narrow ones first, the whole log last."""
    for reach_ms in SEARCH_MS:
        yield _first_at(db, born_ms - reach_ms, size), _first_at(db, born_ms + reach_ms, size)
    yield 0, size


def _first_at(db: sqlite3.Connection, time_ms: int, size: int) -> int:
    """By bisection, the first index not older than ``time_ms``; only as right as the clock was."""
    low, high = 0, size
    while low < high:
        middle = (low + high) // 2
        row = db.execute("SELECT time_ms FROM log WHERE idx = ?", (middle,)).fetchone()
        if row is not None and row[0] < time_ms:
            low = middle + 1
        else:
            high = middle
    return low


def _size(db: sqlite3.Connection) -> int:
    row = db.execute("SELECT size FROM head").fetchone()
    if row is None or not isinstance(row[0], int):
        raise LedgerCorrupt("no head")
    return row[0]


def _record(row: tuple[int, bytes, bytes]) -> Record:
    """Whoever reads may rely on what every record has. The rest of a body is the business of its kind."""
    index, leaf, stored = row
    try:
        body = from_json(stored)
    except (ValueError, TypeError) as error:
        raise LedgerCorrupt(f"record {index} is not JSON") from error
    has_names = isinstance(body.get("kind"), str) and isinstance(body.get("event_id"), str)
    if not has_names or not isinstance(body.get("time_ms"), int):
        raise LedgerCorrupt(f"record {index} does not say what, which or when")
    return Record(index, leaf, stored, body)
