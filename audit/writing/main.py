"""The writer as a process of its own: ``python -P -m audit.writing.main FD``, started by ``audit.writing.process``.

It alone holds the signing key and writes the file. It takes its task and its records from the socket FD, reports on it,
and ends when told to, or when whoever started it is gone: what nobody waits for any more need not be written.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections import deque

import msgspec

from audit.writing import wire
from audit.writing.records import Batch, Listener, Opened, Pending, Task
from audit.writing.writer import Writer

READ_BYTES = 1 << 20
_decode = msgspec.msgpack.Decoder(wire.ToWriter).decode


class Inbox:
    """The socket as the writer's ``Source``."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._frames = connection, wire.Frames()
        self._queued: deque[Pending] = deque()
        self._is_ending = False
        self._task: Task | None = None

    def task(self) -> Task:
        """The first message, waited for. Raises ``EOFError`` when there is none."""
        while self._task is None:
            self._read(None)
            if self._is_ending:
                raise EOFError
        return self._task

    def take(self) -> list[Pending]:
        task = self.task()
        self._read(0)
        while not self._queued and not self._is_ending:
            self._read(None)
        return [self._queued.popleft() for _ in range(min(len(self._queued), task.batch_limit))]

    def ends_within(self, seconds: float) -> bool:
        until_s = time.monotonic() + seconds
        while not self._is_ending and (left_s := until_s - time.monotonic()) > 0:
            self._read(left_s)
        return self._is_ending

    def _read(self, timeout_s: float | None) -> None:
        """Everything that has arrived; when nothing has, what comes within ``timeout_s`` (None: wait for it)."""
        if self._is_ending:
            return
        self._connection.settimeout(timeout_s)
        try:
            while data := self._connection.recv(READ_BYTES):
                for message in self._frames.fed(data):
                    self._hear(_decode(message))
                self._connection.settimeout(0)
        except (TimeoutError, BlockingIOError):
            return
        except ConnectionError:
            pass
        self._queued.clear()  # they are gone who put it there
        self._is_ending = True

    def _hear(self, message: wire.ToWriter) -> None:
        match message:
            case wire.Put():
                self._queued.append(_pending(message))
            case wire.Drop():
                for item in self._queued:
                    item.is_dropped = True
            case wire.End():
                self._is_ending = True
            case wire.Begin(task):
                self._task = task


class Outbox:
    """The socket as where the writer's ``Listener`` sends its words."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def listener(self) -> Listener:
        """The end of the connection says the end."""
        return Listener(self.opened, self.refused, self.failed, self.settled, ended=lambda: None)

    def opened(self, opened: Opened) -> None:
        self._say(wire.Opened(opened))

    def refused(self, error: BaseException) -> None:
        self._say(wire.refusal_of(error))

    def failed(self, reason: str) -> None:
        self._say(wire.Failed(reason))

    def settled(self, batch: Batch) -> None:
        unwritten = [place for place, item in enumerate(batch.taken) if item.is_unwritten]
        taken = len(batch.taken)
        self._say(wire.Settled(taken, unwritten, batch.leaves, batch.first, batch.head, batch.reason))

    def _say(self, message: wire.FromWriter) -> None:
        self._connection.settimeout(None)
        try:
            self._connection.sendall(wire.framed(message))
        except OSError:
            return  # nobody listens any more; the next reading finds that out


def _pending(message: wire.Put) -> Pending:
    return Pending(
        message.event_id,
        message.kind,
        message.time_ms,
        message.body,
        opens=message.opens,
        closes=message.closes,
        is_dropped=message.is_dropped,
        is_probe=message.is_probe,
    )


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # its end is not a terminal's nor a supervisor's to decide
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        inbox = Inbox(connection)
        try:
            task = inbox.task()
        except EOFError:
            return
        Writer(task, inbox, Outbox(connection).listener()).run()


if __name__ == "__main__":
    main()
    os._exit(0)  # nothing is left to do, and nobody should wait for the interpreter to clean up
