"""The one who writes: takes what is queued, integrates it into the tree, signs, commits, reports back.

Natural group commit: whatever queued while the last commit was on its way to the disk is the next batch. After a failed
commit it never guesses: it reopens the store, reads the head and knows. Decides nothing about callers, and does not
know whether it runs in a thread or in a process of its own.
"""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Protocol

from audit.checkpoint import Signer, open_checkpoint
from audit.entry import LedgerHead
from audit.errors import AuditError, AuditUnavailable, LedgerCorrupt, LedgerInUse, NoteRefused
from audit.keys import load_signer
from audit.merkle import EMPTY_ROOT, Frontier, leaf_hash
from audit.store.sqlite import FENCED, Change, Connect, SqliteStore, StoredHead, reason_of
from audit.writing.records import Batch, Listener, Opened, Pending, Task

HANDOVER_S = 1.0  # a writer whose gateway was killed may still be in its last commit
HANDOVER_TICK_S = 0.02


class Source(Protocol):
    """Where the writer gets its records from."""

    def take(self) -> list[Pending]:
        """The next batch, waiting for it; empty when it is time to end."""
        ...

    def ends_within(self, seconds: float) -> bool:
        """Wait so long, or until told to end, and say which."""
        ...


class Writer:
    def __init__(self, task: Task, source: Source, listener: Listener, connect: Connect = sqlite3.connect) -> None:
        self._task, self._source, self._listener = task, source, listener
        self._path = Path(task.path)
        self._store = SqliteStore(self._path, busy_s=task.busy_s, connect=connect)
        self._frontier = Frontier()

    def run(self) -> None:
        """Open, write until the source ends, close."""
        try:
            opened = self._open()
        except Exception as error:  # noqa: BLE001  whatever it is, the opener must hear it
            self._store.close()
            self._listener.refused(_translated(error))
            self._listener.ended()
            return
        self._listener.opened(opened)
        try:
            while taken := self._source.take():
                self._write(Batch(taken))
        finally:
            self._store.close()
            self._listener.ended()

    def _open(self) -> Opened:
        task = self._task
        self._lock()
        is_new = not self._path.exists() or self._path.stat().st_size == 0
        if is_new and task.since is not None:
            raise AuditUnavailable("file_replaced")
        self._signer = load_signer(Path(task.signing_key), task.origin, create=is_new)
        self._store.open()
        self._frontier, head = trusted_head(self._store, self._signer)
        newer = [] if task.since is None else self._store.leaves_from(task.since)
        return Opened(head, self._store.open_intents(), str(self._signer.verifier), newer)

    def _lock(self) -> None:
        """Become the only writer. One that lost its gateway ends by itself, so it is waited for."""
        until_s = time.monotonic() + HANDOVER_S
        while True:
            try:
                self._store.lock()
            except LedgerInUse:
                if time.monotonic() > until_s:
                    raise
                time.sleep(HANDOVER_TICK_S)
            else:
                return

    def _write(self, batch: Batch) -> None:
        for item in batch.taken:
            item.is_unwritten = item.is_probe or (item.is_dropped and item.closes is None)
        batch.written = [item for item in batch.taken if not item.is_unwritten]
        batch.first = self._frontier.size
        if not batch.written:
            self._probe(batch)
            self._listener.settled(batch)
            return
        batch.leaves = [leaf_hash(item.body) for item in batch.written]
        frontier = self._frontier.copy()
        frontier.extend(batch.leaves)
        root = frontier.root()
        head = LedgerHead(frontier.size, root, self._signer.sign(frontier.size, root))
        change = _change(batch, StoredHead(head.size, frontier.pack(), head.checkpoint))
        try:
            self._store.commit(change)
            landed = True
        except Exception as error:  # noqa: BLE001  any failure of a commit leaves its fate unknown
            batch.reason = reason_of(error)
            self._listener.failed(batch.reason)
            landed = self._is_stored(change, batch.reason)
        if landed:
            self._frontier, batch.head = frontier, head
        self._listener.settled(batch)

    def _is_stored(self, change: Change, reason: str) -> bool:
        """Whether the change that failed for ``reason`` is in the store all the same: reopen until its head can be
        read. False when told to stop first.
        """
        while True:
            try:
                self._store.reopen(reason)
                stored = self._store.head()
                ours = (change.head, StoredHead(change.size, self._frontier.pack(), stored.checkpoint))
                if stored in ours and reason != FENCED:
                    return stored == change.head
                self._listener.failed(FENCED)  # somebody else wrote to the file: nothing of ours may follow
            except Exception as error:  # noqa: BLE001  keep trying: only the disk knows the answer
                self._listener.failed(reason_of(error))
            if self._source.ends_within(self._task.retry_s):
                return False

    def _probe(self, batch: Batch) -> None:
        """Nothing to write, but the writer was asked: is the file still ours?"""
        try:
            self._store.require_same_file()
        except Exception as error:  # noqa: BLE001  a probe reports, whatever it is
            batch.reason = reason_of(error)
            self._listener.failed(batch.reason)


def trusted_head(store: SqliteStore, signer: Signer) -> tuple[Frontier, LedgerHead]:
    """The stored head, after everything that can be checked without reading the whole log.

    Raises:
        LedgerCorrupt: head, frontier, signature or last record contradict each other.
    """
    stored, last = store.head(), store.last_row()
    try:
        frontier = Frontier.unpack(stored.frontier)
        if stored.size == 0 and last is None and not stored.checkpoint:
            return frontier, LedgerHead(0, EMPTY_ROOT, signer.sign(0, EMPTY_ROOT))
        checkpoint = open_checkpoint(stored.checkpoint, signer.verifier)
    except (ValueError, NoteRefused) as error:
        raise LedgerCorrupt(f"head: {error}") from error
    if not stored.size == frontier.size == checkpoint.size or checkpoint.root != frontier.root():
        raise LedgerCorrupt("head, frontier and signed checkpoint disagree")
    if last is None or last[0] != stored.size - 1 or last[5] != leaf_hash(last[6]):
        raise LedgerCorrupt("the last record does not fit the head")
    return frontier, LedgerHead(checkpoint.size, checkpoint.root, checkpoint.text)


def _change(batch: Batch, head: StoredHead) -> Change:
    rows, opened, closed = [], [], []
    for index, (item, leaf) in enumerate(zip(batch.written, batch.leaves, strict=True), batch.first):
        rows.append((index, item.event_id, item.kind, item.time_ms, item.closes, leaf, item.body))
        if item.opens:
            opened.append((item.event_id, index))
        if item.closes:
            closed.append((item.closes,))
    return Change(batch.first, rows, opened, closed, head)


def _translated(error: BaseException) -> BaseException:
    """What the store raised while opening, in our words."""
    if isinstance(error, AuditError):
        return error
    if type(error) is sqlite3.DatabaseError:  # "file is not a database", "disk image is malformed"
        return LedgerCorrupt(str(error))
    translated = AuditUnavailable(reason_of(error))
    translated.__cause__ = error
    return translated
