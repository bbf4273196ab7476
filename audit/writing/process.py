"""The gateway's end of a writer that runs in a process of its own.

So hashing, signing and the disk never hold the interpreter lock that every call needs, and the key that signs is not in
the process that agents talk to. A writer that dies is begun anew: what it had written is looked up, and everybody else
who waited is refused.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import msgspec

from audit.entry import LedgerHead
from audit.errors import AuditUnavailable
from audit.store.sqlite import FENCED, IO_ERROR
from audit.writing import wire
from audit.writing.records import Batch, Listener, Opened, Pending, Task

PROGRAM = "audit.writing.main"
LOST = "writer_lost"
LONGEST_WAIT_S = 5.0  # between two attempts to begin anew
DOUBLINGS = 9  # of the shortest `retry_ms`; without an end to them an outage of hours is a number too large
_decode = msgspec.msgpack.Decoder(wire.FromWriter).decode


class WriterProcess(asyncio.Protocol):
    """A ``Host``; belongs to the loop it is started on."""

    def __init__(self, task: Task, listener: Listener) -> None:
        self._task, self._listener = task, listener
        self._loop = asyncio.get_running_loop()
        self._sent: deque[Pending] = deque()
        self._unsaid: list[bytes] = []
        self._head: LedgerHead | None = None  # of the ledger as far as it is known here; None until it was opened
        self._is_open = self._is_stopping = self._is_fenced = False
        self._trouble = LOST  # what to say when the writer is gone: its own last word, if it had one
        self._child: subprocess.Popen[bytes] | None = None
        self._transport: asyncio.WriteTransport | None = None
        self._failures = 0
        self._retry: asyncio.TimerHandle | None = None
        self._starting: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Of the process, while there is one."""
        return None if self._child is None else self._child.pid

    async def start(self) -> None:
        """Raises ``OSError`` when no process can be had."""
        self._frames, self._trouble = wire.Frames(), LOST
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                command = [sys.executable, "-P", "-m", PROGRAM, str(theirs.fileno())]
                self._child = subprocess.Popen(  # noqa: ASYNC220, S603  a millisecond, once; nothing in it is input
                    command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
                )
            await self._loop.create_unix_connection(lambda: self, sock=ours)
        except BaseException:
            ours.close()
            raise

    def put(self, item: Pending) -> None:
        self._sent.append(item)
        if self._is_open:  # else it waits for the fate of what was sent before, and shares it
            self._say(_put(item))
        elif self._is_fenced:
            self._loop.call_soon(self._settle_lost, FENCED, ())

    def drop(self) -> None:
        if self._is_open:
            self._say(wire.Drop())

    def stop(self) -> None:
        self._is_stopping = True
        if self._retry is not None:
            self._retry.cancel()
        if self._transport is not None:
            self._say(wire.End())
        elif self._starting is None or self._starting.done():
            self._listener.ended()

    def abandon(self) -> None:
        if self._child is not None:
            self._child.kill()

    # The connection, as asyncio tells of it

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)
        self._unsaid.clear()
        self._say(wire.Begin(replace(self._task, since=None if self._head is None else self._head.size)))
        if self._is_stopping:
            self._say(wire.End())

    def data_received(self, data: bytes) -> None:
        for encoded in self._frames.fed(data):
            match _decode(encoded):
                case wire.Settled() as settled:
                    self._settle(settled)
                case wire.Opened(opened):
                    self._open(opened)
                case wire.Failed(reason):
                    self._listener.failed(reason)
                case wire.Refused() as refused:
                    self._refuse(refused)

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002  the signature of every protocol
        self._transport, self._is_open = None, False
        if self._child is not None:
            self._loop.run_in_executor(None, self._child.wait)  # its last door is shut: it is all but gone
            self._child = None
        if self._is_stopping:
            self._listener.ended()
        elif self._head is None:
            self._refuse(wire.Refused("unavailable", LOST))
            self._listener.ended()
        elif not self._is_fenced:
            self._listener.failed(self._trouble)
            self._begin_later()

    def _begin_later(self) -> None:
        """Again and again, ever more rarely: each attempt costs the start of a process."""
        wait_s = min(self._task.retry_s * 2 ** min(self._failures, DOUBLINGS), LONGEST_WAIT_S)
        self._failures += 1
        self._retry = self._loop.call_later(wait_s, self._begin_anew)

    def _begin_anew(self) -> None:
        self._starting = self._loop.create_task(self._begun_anew())

    async def _begun_anew(self) -> None:
        try:
            await self.start()
        except OSError:
            if self._is_stopping:
                self._listener.ended()
            else:
                self._begin_later()

    def _say(self, message: wire.ToWriter) -> None:
        """Everything that is said in one turn of the loop leaves together."""
        if not self._unsaid:
            self._loop.call_soon(self._flush)
        self._unsaid.append(wire.framed(message))

    def _flush(self) -> None:
        if self._transport is not None:
            self._transport.write(b"".join(self._unsaid))
        self._unsaid.clear()

    # What the writer says

    def _open(self, said: Opened) -> None:
        known, self._head = self._head, said.head
        if known is None:
            self._is_open = True
            self._listener.opened(said)
        elif self._goes_on_from(known, said):
            self._is_open, self._failures = True, 0
            self._settle_lost(LOST, said.newer, known.size, said.head)
        else:  # the file is another, or somebody else wrote meanwhile: nothing of ours may follow
            self._is_fenced = True
            self._listener.failed(FENCED)
            self._settle_lost(FENCED, ())
            self.abandon()

    def _goes_on_from(self, known: LedgerHead, said: Opened) -> bool:
        """Whether the log is the one that was known, with nothing after it but what was sent from here."""
        if not said.newer:
            return (said.head.size, said.head.root) == (known.size, known.root)
        sent = {item.event_id for item in self._sent}
        return said.head.size == known.size + len(said.newer) and all(event_id in sent for event_id, _ in said.newer)

    def _settle(self, said: wire.Settled) -> None:
        taken, unwritten = [self._sent.popleft() for _ in range(said.taken)], set(said.unwritten)
        for place, item in enumerate(taken):
            item.is_unwritten = place in unwritten
        written = [item for item in taken if not item.is_unwritten]
        self._head = said.head or self._head
        self._listener.settled(Batch(taken, written, said.leaves, said.first, said.head, said.reason))

    def _settle_lost(
        self,
        reason: str,
        newer: Sequence[tuple[str, bytes]],
        first: int = 0,
        head: LedgerHead | None = None,
    ) -> None:
        """The fate of everything that was on its way to a writer that died: what the file holds has landed."""
        taken, stored = list(self._sent), {event_id for event_id, _ in newer}
        self._sent.clear()
        for item in taken:
            item.is_unwritten = item.event_id not in stored  # a probe has no event id
        written = [item for item in taken if not item.is_unwritten]
        leaves = [leaf for _, leaf in newer]
        self._listener.settled(Batch(taken, written, leaves, first, head if newer else None, reason))

    def _refuse(self, refused: wire.Refused) -> None:
        if self._head is None:
            self._listener.refused(wire.error_of(refused))
        else:  # begun anew, and the store cannot be had: the end of the connection brings the next attempt
            error = wire.error_of(refused)
            self._trouble = error.reason if isinstance(error, AuditUnavailable) else IO_ERROR
            self._listener.failed(self._trouble)


def _put(item: Pending) -> wire.Put:
    return wire.Put(
        item.event_id,
        item.kind,
        item.time_ms,
        item.body,
        item.opens,
        item.closes,
        item.is_dropped,
        item.is_probe,
    )
