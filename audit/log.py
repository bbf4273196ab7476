"""The appender: callers wait here until their record is durable, or are told within the stall limit that it is not.

Runs on one asyncio loop; the disk is the writer's (``audit.writing``). Fails closed: while the store is in trouble,
every append is refused at once, until a record that tells of the failure has itself become durable.

What the ledger promises about intents: exactly one outcome each. An intent whose caller was refused before it landed is
closed by the ledger itself; an outcome refused in trouble is kept and written when the store heals; what a dead process
left open is closed at the next start.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from audit.entry import (
    ENVELOPE,
    VERSION,
    LedgerHead,
    LedgerReceipt,
    Record,
    canonical,
    is_event_id,
    new_event_id,
    outcome_body,
)
from audit.errors import AuditUnavailable, IntentAlreadyOpen, IntentNotOpen, RecordRefused
from audit.merkle import EMPTY_ROOT
from audit.reader import LedgerReader
from audit.settings import AuditSettings
from audit.store.sqlite import Connect
from audit.unhurried import Unhurried
from audit.writing.process import WriterProcess
from audit.writing.records import Batch, Host, Landed, Listener, Opened, Pending, Task
from audit.writing.thread import WriterThread

OPEN_LIMIT_S = 30.0  # a ledger that cannot be opened in this time will not be: recovery of a WAL takes seconds
RECOVERED_LISTED = 256  # event ids named in one `recovery` record; each outcome names its own intent anyway
TICKS_PER_LIMIT = 8  # how often, per stall limit, the oldest waiting record is looked at
FAILURE = "sink.failed"
log = logging.getLogger(__name__)
UNSETTLED = -1  # in the map of open intents: appended, not yet durable


class SqliteLedger:
    """A ledger in one SQLite file with this process, or one of its own beside it, as the only writer."""

    def __init__(self, settings: AuditSettings, *, connect: Connect = sqlite3.connect) -> None:
        if settings.writer == "process" and connect is not sqlite3.connect:
            raise ValueError("a connection of another sort needs the writer in a thread")
        self._settings, self._connect = settings, connect
        self._reader = LedgerReader(settings.path)
        self._trouble: str | None = "closed"
        self._head = LedgerHead(0, EMPTY_ROOT, "")
        self._listeners: list[Callable[[Record], None]] = []
        self._waiting: deque[Pending] = deque()
        self._open: dict[str, int] = {}
        self._owed: deque[Pending] = deque()
        self._trial: Pending | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._healing: asyncio.TimerHandle | None = None
        self._troubled_since_s = 0.0
        self._refused_count = 0
        self._boot_id, self._node_seq = new_event_id(), 0

    async def open(self) -> None:
        """Make or open the file, check its head against our own key, close what a dead process left open.

        Raises:
            LedgerInUse: another process is the writer.
            KeyRefused: no usable key, or none for a ledger that already has records.
            LedgerCorrupt: the stored head is not one that we signed.
            AuditUnavailable: the disk refuses.
        """
        self._loop = asyncio.get_running_loop()
        try:
            await self._start()
            await self._greet()
        except BaseException:
            await self.close()
            raise

    def listen(self, listener: Callable[[Record], None]) -> None:
        """Tell ``listener`` of every record from now on: once it is durable, in the order of the log, on the loop.

        It MUST return at once; one that raises is logged and hurts nobody.
        """
        self._listeners.append(listener)

    async def append(
        self,
        kind: str,
        body: Mapping[str, Any],
        *,
        event_id: str | None = None,
        opens: bool = False,
        closes: str | None = None,
    ) -> LedgerReceipt:
        """Record ``body``; durable, integrated and covered by the receipt's checkpoint on return.

        ``event_id`` MUST be a fresh UUIDv7; one is made when None. ``opens`` makes it an intent, which exactly one
        later record ``closes``. A cancellation does not cut this short: it is raised at the caller's next wait.

        Raises:
            AuditUnavailable: not acknowledged; an intent must not be acted on. An outcome is kept and written later.
            RecordRefused: not canonical, too large, or an envelope field in the body.
            IntentAlreadyOpen, IntentNotOpen: the pairing would break.
        """
        if self._trouble is not None:
            self._keep_outcome(kind, body, event_id, closes)
            raise AuditUnavailable(self._trouble)
        if closes is None and len(self._waiting) >= self._settings.queue_limit:  # an outcome's intent had its room
            self._refused_count += 1
            raise AuditUnavailable("queue_full")
        item = self._prepare(kind, body, event_id, opens, closes)
        item.future = future = Unhurried[Landed](loop=self._loop)
        self._enqueue(item)
        landed = await future.outcome()
        return LedgerReceipt(item.event_id, landed.index, landed.leaf_hash, landed.head.checkpoint)

    async def probe(self) -> bool:
        """Ask the writer whether it lives and whether the file is still the one that was opened."""
        if self._trouble is None:
            item = Pending("", "", 0, b"", is_probe=True)
            item.future = future = self._loop.create_future()
            self._enqueue(item)
            with suppress(AuditUnavailable):
                await future
        return self.is_writable

    async def close(self) -> None:
        """Write what waits, then end. May be called twice; never waits longer than the stall limit."""
        if self._trouble != "closed":
            self._trouble = "closed"
            self._writer.stop()
            try:
                async with asyncio.timeout(self._settings.stall_limit_s):
                    await asyncio.shield(self._ended)
            except TimeoutError:
                self._writer.abandon()
        for timer in (self._watch, self._healing):
            if timer is not None:
                timer.cancel()
        self._refuse_waiting("closed")

    @property
    def head(self) -> LedgerHead:
        return self._head

    @property
    def waiting(self) -> int:
        """Records that are on their way to the disk."""
        return len(self._waiting)

    @property
    def is_writable(self) -> bool:
        return self._trouble is None

    @property
    def trouble(self) -> str | None:
        """Why appends are refused now, a reason of ``AuditUnavailable``; None while they are not."""
        return self._trouble

    @property
    def verifier_key(self) -> str:
        """The public key to hand to auditors, as a C2SP verifier key."""
        return self._verifier_key

    def open_intents(self) -> dict[str, int]:
        """Event id to leaf index of every durable intent without an outcome."""
        return {event_id: index for event_id, index in self._open.items() if index != UNSETTLED}

    def read(
        self, after: int = -1, limit: int = 100, *, newest: bool = False, kinds: Sequence[str] | None = None
    ) -> list[Record]:
        """See ``LedgerReader.read``; this and the other readers below may be called from any thread."""
        return self._reader.read(after, limit, newest=newest, kinds=kinds)

    def find(self, event_id: str) -> Record | None:
        return self._reader.find(event_id)

    def inclusion_proof(self, index: int, size: int | None = None) -> list[bytes]:
        return self._reader.inclusion_proof(index, size)

    def consistency_proof(self, old_size: int, size: int | None = None) -> list[bytes]:
        return self._reader.consistency_proof(old_size, size)

    # Opening

    async def _start(self) -> None:
        self._ended: asyncio.Future[None] = self._loop.create_future()
        ready: asyncio.Future[Opened] = self._loop.create_future()
        listener = Listener(
            opened=partial(_set_result, ready),
            refused=partial(_set_exception, ready),
            failed=self._on_failed,
            settled=self._on_settled,
            ended=lambda: _set_result(self._ended, None),
        )
        self._writer = await self._hosted(listener)
        try:
            async with asyncio.timeout(OPEN_LIMIT_S):
                opened = await ready
        except TimeoutError:
            self._writer.stop()
            raise AuditUnavailable("stalled") from None
        self._head, self._open, self._verifier_key = opened.head, opened.intents, opened.verifier_key
        self._trouble = None

    async def _hosted(self, listener: Listener) -> Host:
        settings = self._settings
        task = Task(
            str(settings.path.absolute()),
            str(settings.signing_key.absolute()),
            settings.origin,
            busy_s=settings.stall_limit_s / 2,
            batch_limit=settings.batch_limit,
            retry_s=settings.retry_ms / 1000,
        )
        if settings.writer == "thread":
            thread = WriterThread(task, listener, connect=self._connect)
            thread.start()
            return thread
        process = WriterProcess(task, listener)
        try:
            await process.start()
        except OSError as error:
            raise AuditUnavailable("writer_lost") from error
        return process

    async def _greet(self) -> None:
        """The first record of a new log, or the end of what the last process left open."""
        if self._head.size == 0:
            genesis = {"origin": self._settings.origin, "verifier_key": self.verifier_key, "tree": "rfc6962-sha256"}
            await self.append("genesis", {"log": genesis})
        orphans = self.open_intents()
        if orphans:
            unknown = outcome_body("unknown", "recovery")
            await asyncio.gather(*(self.append("outcome", unknown, closes=event_id) for event_id in orphans))
            recovery = {"intents": list(orphans)[:RECOVERED_LISTED], "count": len(orphans)}
            await self.append("recovery", {"recovery": recovery})

    # Towards the writer

    def _prepare(
        self, kind: str, body: Mapping[str, Any], event_id: str | None, opens: bool, closes: str | None
    ) -> Pending:
        if not ENVELOPE.isdisjoint(body):
            raise RecordRefused("reserved_field", ", ".join(ENVELOPE.intersection(body)))
        if event_id is None:
            event_id = new_event_id()
        elif not is_event_id(event_id):
            raise RecordRefused("bad_event_id", event_id)
        if (kind == "intent" and not opens) or (kind == "outcome" and closes is None):
            raise RecordRefused("bad_kind", "an intent opens, an outcome closes")
        if opens and event_id in self._open:
            raise IntentAlreadyOpen(event_id)
        item = Pending(event_id, kind, time.time_ns() // 1_000_000, b"", opens=opens, closes=closes)
        item.said = {**body, **self._envelope(item)}
        item.body = canonical(item.said)
        if opens:
            self._open[event_id] = UNSETTLED
        if closes is not None:
            del self._open[closes]
        return item

    def _envelope(self, item: Pending) -> dict[str, Any]:
        self._node_seq += 1
        envelope = {
            "v": VERSION,
            "kind": item.kind,
            "event_id": item.event_id,
            "shard": 0,
            "node": self._settings.node,
            "boot_id": self._boot_id,
            "node_seq": self._node_seq,
            "time_ms": item.time_ms,
            "mono_us": time.monotonic_ns() // 1000,
        }
        if item.opens:
            envelope["opens"] = True
        if item.closes is not None:
            index = self._open.get(item.closes, UNSETTLED)
            if index == UNSETTLED:
                raise IntentNotOpen(item.closes)
            envelope["closes"], envelope["closes_index"] = item.closes, index
        return envelope

    def _enqueue(self, item: Pending) -> None:
        item.since_s = self._loop.time()
        self._waiting.append(item)
        self._writer.put(item)
        if self._watch is None:
            self._watch = self._loop.call_later(self._settings.stall_limit_s / TICKS_PER_LIMIT, self._look)

    def _keep_outcome(self, kind: str, body: Mapping[str, Any], event_id: str | None, closes: str | None) -> None:
        """In trouble an outcome is refused as well, but what came of a call that went out must not be forgotten."""
        self._refused_count += 1
        if closes is not None and self._trouble != "closed":
            self._owed.append(self._prepare(kind, body, event_id, False, closes))

    def _abandon(self, event_id: str) -> None:
        """An intent landed whose caller was refused meanwhile: nobody will act on it."""
        if self._trouble == "closed":
            return  # the next start closes it
        body = outcome_body("cancelled", "unacknowledged")
        item = self._prepare("outcome", body, None, False, event_id)
        if self._trouble is None:
            self._enqueue(item)
        else:
            self._owed.append(item)

    # From the writer

    def _on_failed(self, reason: str) -> None:
        if self._trouble is None:
            self._troubled_since_s = self._loop.time()
        if self._trouble != "closed":
            self._trouble = reason

    def _on_settled(self, batch: Batch) -> None:
        for _ in batch.taken:
            self._waiting.popleft()
        if batch.head is not None:
            self._head = batch.head
            for item, landed in batch.landed():
                self._land(item, landed)
                self._tell(item, landed)
        for item in batch.taken:
            if batch.head is None or item.is_unwritten:
                self._fail(item, batch.reason or "stalled")
        if batch.head is not None:
            self._recover()
        elif self._trouble not in (None, "closed") and self._healing is None:
            self._healing = self._loop.call_later(self._settings.retry_ms / 1000, self._mend)

    def _land(self, item: Pending, landed: Landed) -> None:
        if item.opens:
            self._open[item.event_id] = landed.index
        if item.future is None:
            return
        if not item.future.done():
            item.future.set_result(landed)
        elif item.opens:
            self._abandon(item.event_id)

    def _tell(self, item: Pending, landed: Landed) -> None:
        for listener in self._listeners:
            try:
                listener(Record(landed.index, landed.leaf_hash, item.body, item.said))
            except Exception:
                log.exception("a listener to the ledger failed")

    def _fail(self, item: Pending, reason: str) -> None:
        """The item is not in the log. A probe ends here too: it is never written."""
        if item.opens:
            self._open.pop(item.event_id, None)
        if item.closes is not None:
            self._owed.append(item)
        if item.kind == FAILURE:
            self._refused_count += item.said["failure"]["refused"]  # nobody was told of them yet
        if item is self._trial:
            self._trial = None
        self._refuse(item, reason)

    def _refuse(self, item: Pending, reason: str) -> None:
        if item.future is not None and not item.future.done():
            self._refused_count += not item.is_probe
            item.future.set_exception(AuditUnavailable(reason))

    # Trouble and its end

    def _look(self) -> None:
        """The watchdog: nobody waits longer than the stall limit."""
        self._watch = None
        if not self._waiting:
            return
        tick_s = self._settings.stall_limit_s / TICKS_PER_LIMIT
        oldest = next((item for item in self._waiting if not item.is_dropped), None)
        if oldest is not None and self._loop.time() + tick_s - oldest.since_s >= self._settings.stall_limit_s:
            self._on_failed(self._trouble or "stalled")
            self._refuse_waiting(self._trouble or "stalled")
        self._watch = self._loop.call_later(tick_s, self._look)

    def _refuse_waiting(self, reason: str) -> None:
        for item in self._waiting:
            item.is_dropped = True
            self._refuse(item, reason)
        if self._waiting:
            self._writer.drop()

    def _mend(self) -> None:
        """Try the store with a record that tells of its failure; appends are accepted again once it is durable."""
        self._healing = None
        if self._trouble not in (None, "closed") and self._trial is None:
            self._trial = self._failure_record(self._trouble or "")
            self._enqueue(self._trial)

    def _recover(self) -> None:
        """A commit succeeded: the store works."""
        if self._trouble in (None, "closed"):
            return
        reason, self._trouble = self._trouble or "", None
        if self._trial is None:
            self._enqueue(self._failure_record(reason))
        self._trial = None
        owed, self._owed = self._owed, deque()
        for item in owed:
            self._renumber(item)
            self._enqueue(item)

    def _failure_record(self, reason: str) -> Pending:
        lasted_ms = int((self._loop.time() - self._troubled_since_s) * 1000)
        failure = {"reason": reason, "lasted_ms": lasted_ms, "refused": self._refused_count}
        self._refused_count = 0
        return self._prepare(FAILURE, {"failure": failure}, None, False, None)

    def _renumber(self, item: Pending) -> None:
        """A record written late keeps its time, but takes its place in this node's sequence."""
        self._node_seq += 1
        item.is_dropped = False
        item.said = {**item.said, "node_seq": self._node_seq, "late": True}
        item.body = canonical(item.said)


def _set_result(future: asyncio.Future[Any], result: object) -> None:
    if not future.done():
        future.set_result(result)


def _set_exception(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
