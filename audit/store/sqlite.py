"""The ledger in one SQLite file: WAL, synchronous=FULL, raw SQL on one connection, used from one thread.

Knows no tree and no keys: it makes a prepared ``Change`` durable, whole or not at all, and says what is stored. The
head row is the fence: a change applies only to the size it was prepared for.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from audit.errors import AuditUnavailable, LedgerCorrupt, LedgerInUse
from audit.schema import TABLES

Connect = Callable[..., sqlite3.Connection]

PRAGMAS = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",  # one fsync per commit: NORMAL would lose acknowledged records with the power
    "PRAGMA fullfsync=1",  # macOS: without it fsync does not reach the platter
    "PRAGMA wal_autocheckpoint=1000",  # pages; more makes rare commits slow (4,000 gave a p99 of 70 ms)
)
FENCED = "fenced"  # somebody else wrote to the file
IO_ERROR = "io_error"  # also what stands for every failure that has no word of its own, a failed sync among them
REASONS = {
    sqlite3.SQLITE_FULL: "disk_full",
    sqlite3.SQLITE_READONLY: "read_only",
    sqlite3.SQLITE_BUSY: "locked",
    sqlite3.SQLITE_LOCKED: "locked",
    sqlite3.SQLITE_CONSTRAINT: FENCED,
}
LOG_ROW, INTENT_ROW = "(?,?,?,?,?,?,?)", "(?,?)"
STRAY_INTENT = """
    SELECT event_id FROM open_intent AS open
    WHERE NOT EXISTS (SELECT 1 FROM log WHERE idx = open.idx AND event_id = open.event_id)
    UNION ALL
    SELECT closes FROM log
    WHERE idx > (SELECT min(idx) FROM open_intent) AND closes IN (SELECT event_id FROM open_intent)
    LIMIT 1
"""
MOVE_HEAD = "UPDATE head SET size=?, frontier=?, checkpoint=? WHERE id=1 AND size=?"

Row = tuple[int, str, str, int, str | None, bytes, bytes]


@dataclass(frozen=True, slots=True)
class StoredHead:
    size: int
    frontier: bytes
    checkpoint: str


@dataclass(frozen=True, slots=True)
class Change:
    """Everything one commit writes. ``size`` is what the head must be before it."""

    size: int
    rows: list[Row]
    opened: list[tuple[str, int]]
    closed: list[tuple[str]]
    head: StoredHead


def reason_of(error: BaseException) -> str:
    """The stable word for a failure of the store."""
    if isinstance(error, AuditUnavailable):
        return error.reason
    if isinstance(error, PermissionError):
        return "read_only"
    code = getattr(error, "sqlite_errorcode", None)
    return REASONS.get(code & 0xFF, IO_ERROR) if isinstance(code, int) else IO_ERROR


class SqliteStore:
    def __init__(self, path: Path, *, busy_s: float, connect: Connect = sqlite3.connect) -> None:
        self._path, self._busy_s, self._connect = path, busy_s, connect
        self._lock: int | None = None
        self._connection: sqlite3.Connection | None = None
        self._wal_path = path.with_name(path.name + "-wal")
        self._identity: tuple[int, int] | None = None
        self._wal_identity: tuple[int, int] | None = None

    def lock(self) -> None:
        """Become the only writer, over processes too. Raises ``LedgerInUse``."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._path.with_name(self._path.name + ".lock"), os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise LedgerInUse from error
        self._lock = descriptor

    def open(self) -> None:
        """Open or make the file; from now on it must stay the same file."""
        if not self._path.exists():
            os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
        self._identity = _seen(self._path)
        self._attach()
        connection = self._attached()
        if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            connection.execute("BEGIN IMMEDIATE")
            for statement in TABLES.values():
                connection.execute(statement)
            connection.execute("INSERT INTO head VALUES(1, 0, ?, '')", (bytes(8),))
            connection.execute("COMMIT")

    def reopen(self, reason: str) -> None:
        """Drop the connection, with whatever it left undone for ``reason``, and attach anew to the same file.

        The log is copied out of the WAL and synced before anything is believed: after a failed sync a page may look
        written in memory and not be on the disk. Whoever reads an older state meanwhile is in the way of that. They
        are waited for when a sync can have failed, and not after a lock or want of room: they may read for minutes.
        """
        self.detach()
        self.require_same_file()
        self._attach()
        was_in_the_way = self._attached().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if was_in_the_way and reason == IO_ERROR:
            raise AuditUnavailable("locked")

    def detach(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    def close(self) -> None:
        self.detach()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def require_same_file(self) -> None:
        """Raises ``AuditUnavailable`` when the file was deleted or replaced, or the WAL that is attached: writes would
        go to a dead inode.
        """
        is_same = _seen(self._path) == self._identity
        if not is_same or (self._connection is not None and _seen(self._wal_path) != self._wal_identity):
            raise AuditUnavailable("file_replaced")

    def head(self) -> StoredHead:
        rows = self._attached().execute("SELECT size, frontier, checkpoint FROM head").fetchall()
        if len(rows) != 1:
            raise LedgerCorrupt(f"{len(rows)} head rows")
        return StoredHead(*rows[0])

    def last_row(self) -> Row | None:
        row: Row | None = self._attached().execute("SELECT * FROM log ORDER BY idx DESC LIMIT 1").fetchone()
        return row

    def open_intents(self) -> dict[str, int]:
        """Event id to index. Raises ``LedgerCorrupt`` for one that the log does not hold, or holds the outcome of."""
        stray = self._attached().execute(STRAY_INTENT).fetchone()
        if stray is not None:
            raise LedgerCorrupt(f"open intent {stray[0]} is not one of the log")
        return dict(self._attached().execute("SELECT event_id, idx FROM open_intent ORDER BY idx"))

    def leaves_from(self, size: int) -> list[tuple[str, bytes]]:
        """Event id and leaf hash of every record from index ``size`` on."""
        return (
            self._attached().execute("SELECT event_id, leaf FROM log WHERE idx >= ? ORDER BY idx", (size,)).fetchall()
        )

    def commit(self, change: Change) -> None:
        """Durable on return. After any exception it is unknown whether the change is stored: ``reopen`` and look."""
        self.require_same_file()
        connection = self._attached()
        connection.execute("BEGIN IMMEDIATE")
        _insert(connection, "log", LOG_ROW, change.rows)
        if change.opened:
            _insert(connection, "open_intent", INTENT_ROW, change.opened)
        if change.closed and _close(connection, change.closed) != len(change.closed):
            raise AuditUnavailable(FENCED)
        head = (change.head.size, change.head.frontier, change.head.checkpoint, change.size)
        if connection.execute(MOVE_HEAD, head).rowcount != 1:
            raise AuditUnavailable(FENCED)
        connection.execute("COMMIT")

    def _attach(self) -> None:
        connection = self._connect(self._path, timeout=self._busy_s, isolation_level=None)
        try:
            for pragma in PRAGMAS:
                with closing(connection.execute(pragma)) as cursor:
                    cursor.fetchone()
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # opens the WAL
        except BaseException:
            connection.close()
            raise
        self._connection, self._wal_identity = connection, _seen(self._wal_path)

    def _attached(self) -> sqlite3.Connection:
        if self._connection is None:
            raise AuditUnavailable(IO_ERROR)
        return self._connection


def _seen(path: Path) -> tuple[int, int] | None:
    """Which file stands at ``path`` now; None when there is none."""
    try:
        seen = path.stat()
    except FileNotFoundError:
        return None
    return seen.st_dev, seen.st_ino


def _insert(connection: sqlite3.Connection, table: str, row: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """All rows in one statement: each step of a statement gives up the interpreter lock and has to win it back."""
    marks = ",".join([row] * len(rows))
    connection.execute(f"INSERT INTO {table} VALUES{marks}", [*chain.from_iterable(rows)])


def _close(connection: sqlite3.Connection, closed: Sequence[tuple[str]]) -> int:
    """How many of the intents were open."""
    marks = ",".join("?" * len(closed))
    statement = f"DELETE FROM open_intent WHERE event_id IN ({marks})"  # noqa: S608  only marks
    return connection.execute(statement, [*chain.from_iterable(closed)]).rowcount
