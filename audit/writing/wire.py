"""What the gateway and a writer in a process of its own say to each other, over one socket between them.

Every message is MessagePack behind its length in four bytes. Both ends are of one build, so there are no versions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import msgspec

from audit.entry import LedgerHead
from audit.errors import AuditUnavailable, KeyRefused, LedgerCorrupt, LedgerInUse
from audit.writing import records

LENGTH_BYTES = 4


class Message(msgspec.Struct, array_like=True, frozen=True):
    """Arrays are shorter than maps; their first item says which message it is."""


class Begin(Message, tag=1, frozen=True):
    """The first to the writer."""

    task: records.Task


class Put(Message, tag=2, frozen=True):
    """See ``records.Pending``."""

    event_id: str
    kind: str
    time_ms: int
    body: bytes
    opens: bool
    closes: str | None
    is_dropped: bool
    is_probe: bool


class Drop(Message, tag=3, frozen=True):
    """See ``records.Host.drop``."""


class End(Message, tag=4, frozen=True):
    """Write what was put, then end."""


class Opened(Message, tag=5, frozen=True):
    """The first from the writer."""

    opened: records.Opened


class Refused(Message, tag=6, frozen=True):
    """Instead of ``Opened``: the sort of error and its words."""

    sort: str
    words: str


class Failed(Message, tag=7, frozen=True):
    reason: str


class Settled(Message, tag=8, frozen=True):
    """What came of the next ``taken`` records in the order they were put: ``unwritten`` are the places of those that
    the writer left out, the others have the indices from ``first`` on. A ``head`` of None: nothing is stored."""

    taken: int
    unwritten: list[int]
    leaves: list[bytes]
    first: int
    head: LedgerHead | None
    reason: str


ToWriter: TypeAlias = Begin | Put | Drop | End
FromWriter: TypeAlias = Opened | Refused | Failed | Settled

_encode = msgspec.msgpack.Encoder().encode


def framed(message: ToWriter | FromWriter) -> bytes:
    encoded = _encode(message)
    return len(encoded).to_bytes(LENGTH_BYTES, "big") + encoded


class Frames:
    """Bytes as they arrive, cut into messages again."""

    __slots__ = ("_arrived",)

    def __init__(self) -> None:
        self._arrived = bytearray()

    def fed(self, data: bytes) -> Iterator[bytes]:
        """Every message that is whole by now, still encoded. To be exhausted before more is fed."""
        self._arrived += data
        start, end = 0, len(self._arrived)
        while end - start >= LENGTH_BYTES:
            body = start + LENGTH_BYTES
            stop = body + int.from_bytes(self._arrived[start:body], "big")
            if stop > end:
                break
            yield bytes(self._arrived[body:stop])
            start = stop
        del self._arrived[:start]


def refusal_of(error: BaseException) -> Refused:
    """One of ``audit.errors`` for the way over."""
    match error:
        case LedgerInUse():
            return Refused("in_use", "")
        case LedgerCorrupt():
            return Refused("corrupt", str(error))
        case KeyRefused():
            return Refused("key", str(error))
        case _:
            return Refused("unavailable", str(error))


def error_of(refused: Refused) -> Exception:
    """What ``refusal_of`` was told."""
    match refused.sort:
        case "in_use":
            return LedgerInUse()
        case "corrupt":
            return LedgerCorrupt(refused.words)
        case "key":
            return KeyRefused(refused.words)
        case _:
            return AuditUnavailable(refused.words)
