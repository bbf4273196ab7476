"""The writer in a thread of this process: for one that has little to write, or wants no second process."""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from audit.store.sqlite import Connect
from audit.writing.records import Listener, Pending, Task
from audit.writing.writer import Writer


class WriterThread(threading.Thread):
    """A ``Host`` and its own ``Source``. Start it on the loop that is to hear of what it does."""

    def __init__(self, task: Task, listener: Listener, *, connect: Connect = sqlite3.connect) -> None:
        super().__init__(name="ledger-writer", daemon=True)  # a hung disk must not hold the process
        self._task = task
        self._queue: queue.SimpleQueue[Pending | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._writer = Writer(task, self, _on_loop(listener), connect)

    def put(self, item: Pending) -> None:
        self._queue.put(item)

    def drop(self) -> None:
        """Nothing to send: the marks on the items are seen here."""

    def stop(self) -> None:
        self._stopping.set()
        self._queue.put(None)

    def abandon(self) -> None:
        """A daemon: it ends with the process."""

    def run(self) -> None:
        self._writer.run()

    def take(self) -> list[Pending]:
        item = self._queue.get()
        taken: list[Pending] = []
        while item is not None:
            taken.append(item)
            if len(taken) == self._task.batch_limit or self._queue.empty():
                return taken
            item = self._queue.get()
        if taken:
            self._queue.put(None)  # the end was reached in mid-batch: come back for it
        return taken

    def ends_within(self, seconds: float) -> bool:
        return self._stopping.wait(seconds)


def _on_loop(listener: Listener) -> Listener:
    """One that hears on the running loop what is said in a thread."""
    loop = asyncio.get_running_loop()

    def post(callback: Callable[..., None], *arguments: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody is left to tell
            loop.call_soon_threadsafe(callback, *arguments)

    return Listener(
        opened=partial(post, listener.opened),
        refused=partial(post, listener.refused),
        failed=partial(post, listener.failed),
        settled=partial(post, listener.settled),
        ended=partial(post, listener.ended),
    )
