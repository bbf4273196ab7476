"""The one thread that writes: takes what is queued, integrates it into the tree, signs, commits, reports back.

Natural group commit: whatever queued while the last commit was on its way to the disk is the next batch. After a failed
commit it never guesses: it reopens the store, reads the head and knows. Decides nothing about callers.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from audit.checkpoint import Signer, open_checkpoint
from audit.entry import LedgerHead
from audit.errors import LedgerCorrupt, NoteRefused
from audit.merkle import EMPTY_ROOT, Frontier, leaf_hash
from audit.store.sqlite import Change, SqliteStore, StoredHead, reason_of


@dataclass(slots=True, eq=False)
class Pending:
    """A record on its way. ``future`` is None when nobody waits (the ledger's own records)."""

    event_id: str
    kind: str
    time_ms: int
    body: bytes
    said: Mapping[str, Any] = field(default_factory=dict)  # what ``body`` says
    future: asyncio.Future[Landed] | None = None
    since_s: float = 0.0
    opens: bool = False
    closes: str | None = None
    is_dropped: bool = False  # its caller was refused already: do not write it, unless it closes an intent
    is_probe: bool = False  # never written: asks whether the thread lives and the file is ours
    is_unwritten: bool = False  # what the writer decided about it


@dataclass(frozen=True, slots=True)
class Landed:
    """Where a record stands: leaf index, leaf hash, and the head of the commit that made it durable."""

    index: int
    leaf_hash: bytes
    head: LedgerHead


@dataclass(slots=True)
class Batch:
    """What the thread took from the queue at once. ``landed`` is empty when the commit is known to have failed."""

    taken: list[Pending]
    written: list[Pending] = field(default_factory=list)
    leaves: list[bytes] = field(default_factory=list)
    first: int = 0
    head: LedgerHead | None = None
    reason: str = ""

    def landed(self) -> list[tuple[Pending, Landed]]:
        if self.head is None:
            return []
        head = self.head
        return [
            (item, Landed(self.first + offset, leaf, head))
            for offset, (item, leaf) in enumerate(zip(self.written, self.leaves, strict=True))
        ]


@dataclass(frozen=True, slots=True)
class Pace:
    batch_limit: int
    gather_s: float
    retry_s: float


@dataclass(frozen=True, slots=True)
class Listener:
    """Called from the writer thread; MUST return at once."""

    opened: Callable[[LedgerHead, dict[str, int]], None]
    refused: Callable[[BaseException], None]  # could not be opened; the thread has ended
    failed: Callable[[str], None]  # a commit or a look at the store failed, for this reason
    settled: Callable[[Batch], None]
    ended: Callable[[], None]


class Writer(threading.Thread):
    def __init__(self, store: SqliteStore, signer: Signer, pace: Pace, listener: Listener) -> None:
        super().__init__(name="ledger-writer", daemon=True)  # a hung disk must not hold the process
        self._store, self._signer, self._pace, self._listener = store, signer, pace, listener
        self._queue: queue.SimpleQueue[Pending | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._frontier = Frontier()

    def put(self, item: Pending) -> None:
        self._queue.put(item)

    def stop(self) -> None:
        """Write what is queued, then end; a store that has failed is not waited for."""
        self._stopping.set()
        self._queue.put(None)

    def run(self) -> None:
        try:
            self._store.open()
            self._frontier, head = trusted_head(self._store, self._signer)
            intents = self._store.open_intents()
        except Exception as error:  # noqa: BLE001  the root of a thread: whatever it is, the opener must hear it
            self._store.close()
            self._listener.refused(error)
            self._listener.ended()
            return
        self._listener.opened(head, intents)
        try:
            while taken := self._take():
                self._write(Batch(taken))
        finally:
            self._store.close()
            self._listener.ended()

    def _take(self) -> list[Pending]:
        """The next batch; empty when it is time to end."""
        if self._pace.gather_s and not self._queue.empty():
            time.sleep(self._pace.gather_s)  # callers overlap: one commit for more of them costs each of them less
        item = self._queue.get()
        taken: list[Pending] = []
        while item is not None:
            taken.append(item)
            if len(taken) == self._pace.batch_limit or self._queue.empty():
                return taken
            item = self._queue.get()
        if taken:
            self._queue.put(None)  # the end was reached in mid-batch: come back for it
        return taken

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
            landed = self._is_stored(change)
        if landed:
            self._frontier, batch.head = frontier, head
        self._listener.settled(batch)

    def _is_stored(self, change: Change) -> bool:
        """Reopen until the head can be read, and say whether the change is in it; False when told to stop first."""
        while True:
            try:
                self._store.reopen()
                stored = self._store.head()
                if stored in (change.head, StoredHead(change.size, self._frontier.pack(), stored.checkpoint)):
                    return stored == change.head
                self._listener.failed("fenced")  # another writer moved the head: nothing of ours may follow
            except Exception as error:  # noqa: BLE001  keep trying: only the disk knows the answer
                self._listener.failed(reason_of(error))
            if self._stopping.wait(self._pace.retry_s):
                return False

    def _probe(self, batch: Batch) -> None:
        """Nothing to write, but the thread was asked: is the file still ours?"""
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
