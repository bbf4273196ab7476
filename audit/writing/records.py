"""What passes between those who wait for records and the writer, wherever it runs: records, and what came of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from audit.entry import LedgerHead


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
    is_probe: bool = False  # never written: asks whether the writer lives and the file is ours
    is_unwritten: bool = False  # what the writer decided about it


@dataclass(frozen=True, slots=True)
class Landed:
    """Where a record stands: leaf index, leaf hash, and the head of the commit that made it durable."""

    index: int
    leaf_hash: bytes
    head: LedgerHead


@dataclass(slots=True)
class Batch:
    """What the writer took from the queue at once. ``head`` is None when nothing of it is known to be stored."""

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
class Task:
    """What a writer has to know. ``since`` is the size up to which the records are known already."""

    path: str
    signing_key: str
    origin: str
    busy_s: float
    batch_limit: int
    retry_s: float
    since: int | None = None


@dataclass(frozen=True, slots=True)
class Opened:
    """The store as it was found: its head, intents without an outcome, who signs, and the event id and leaf hash of
    each record from ``Task.since`` on."""

    head: LedgerHead
    intents: dict[str, int]
    verifier_key: str
    newer: list[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class Listener:
    """Who is told what comes of the writing. Each MUST return at once and not raise."""

    opened: Callable[[Opened], None]
    refused: Callable[[BaseException], None]  # the store could not be opened; the writer has ended
    failed: Callable[[str], None]  # a commit or a look at the store failed, or the writer was lost, for this reason
    settled: Callable[[Batch], None]
    ended: Callable[[], None]


class Host(Protocol):
    """Where the writer runs, as seen from the loop; tells a ``Listener`` on that loop."""

    def put(self, item: Pending) -> None: ...

    def drop(self) -> None:
        """Whoever waits for what was put so far has been refused: see ``Pending.is_dropped``."""
        ...

    def stop(self) -> None:
        """Write what was put, then end, and have it told; a store that has failed is not waited for."""
        ...

    def abandon(self) -> None:
        """Told to stop it did not end in time: wait for it no longer."""
        ...
