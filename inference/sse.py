"""Server-sent events (WHATWG HTML, "Parsing an event stream"): bytes in, events out. Pure; knows no socket and no JSON.

``WholeEvents`` cuts a stream where an event ends and changes no byte: what it lets out, joined, is what went in.
``EventParser`` reads the fields. Lines end in LF, CR or CRLF, in any mixture and however the bytes were chunked.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

BOM = b"\xef\xbb\xbf"
DEFAULT_LIMIT_BYTES = 8 * 1024 * 1024
LINE_END = re.compile(rb"\r\n|\r|\n")
BLANK_LINE = re.compile(rb"(?>\r\n|\r|\n)(?>\r\n|\r|\n)")  # atomic: a CRLF must not be read as two line ends
LONGEST_BLANK_LINE = 4


class EventTooLong(Exception):
    """An event that has not ended within the limit; nobody knows whether it ever will."""


@dataclass(frozen=True, slots=True)
class Event:
    """One dispatched event. ``id`` and ``retry_ms`` are as this event gave them, "" and None when it did not."""

    data: str
    name: str = "message"
    id: str = ""
    retry_ms: int | None = None


class WholeEvents:
    """Keeps back an event's beginning until its end is here, so that a stream that breaks never shows half an event.

    A CR that ends an event is an end at once; an LF after it stands, harmlessly, before the next event.
    """

    __slots__ = ("_limit_bytes", "_rest")

    def __init__(self, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        self._limit_bytes, self._rest = limit_bytes, bytearray()

    @property
    def rest(self) -> bytes:
        """What has arrived of an event that has not ended."""
        return bytes(self._rest)

    def feed(self, chunk: bytes) -> bytes:
        """The whole events that are complete now, possibly b"". Raises ``EventTooLong``."""
        if not self._rest and chunk.endswith(b"\n\n"):
            return chunk
        unscanned = max(0, len(self._rest) - LONGEST_BLANK_LINE + 1)
        self._rest += chunk
        end = 0
        for blank_line in BLANK_LINE.finditer(self._rest, unscanned):
            end = blank_line.end()
        whole = bytes(self._rest[:end])
        del self._rest[:end]
        if len(self._rest) > self._limit_bytes:
            raise EventTooLong(f"no event end within {self._limit_bytes} bytes")
        return whole


class EventParser:
    """Reads a stream from its beginning; one per stream."""

    __slots__ = ("_at_start", "_whole")

    def __init__(self, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        self._whole, self._at_start = WholeEvents(limit_bytes), True

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that ``chunk`` completes. An event that the stream leaves unfinished is never dispatched."""
        whole = self._whole.feed(chunk)
        if whole and self._at_start:
            whole, self._at_start = whole.removeprefix(BOM), False
        return [event for raw in split_events(whole) if (event := read_event(raw)) is not None]


def split_events(whole: bytes) -> list[bytes]:
    """Whole events one by one, each with the blank line that ends it; joined they are ``whole``."""
    events, start = [], 0
    for blank_line in BLANK_LINE.finditer(whole):
        events.append(whole[start : blank_line.end()])
        start = blank_line.end()
    if start < len(whole):
        events.append(whole[start:])
    return events


def read_event(raw: bytes) -> Event | None:
    """The event that these lines dispatch; None for lines without data, such as a comment sent to keep awake."""
    data: list[str] = []
    fields = {"event": "", "id": ""}
    retry_ms = None
    for line in LINE_END.split(raw):
        name, _, value = line.decode("utf-8", "replace").partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            data.append(value)
        elif name in fields and "\0" not in value:
            fields[name] = value
        elif name == "retry" and value.isascii() and value.isdigit():
            retry_ms = int(value)
    if not data:
        return None
    return Event("\n".join(data), fields["event"] or "message", fields["id"], retry_ms)
