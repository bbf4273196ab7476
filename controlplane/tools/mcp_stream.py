"""Rewrites what a server answers, event by event or as one JSON document; whatever needs no change keeps its bytes.

Pure: bytes in, bytes out, no sockets.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any

from inference.errors import BackendBroke

EVENT_END = re.compile(rb"(?:\r\n|\n|\r(?!\n)){2}")
LONGEST_END_BYTES = 4
REPLY_LIMIT_BYTES = 16 * 1024 * 1024
NOTE_LIMIT_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Change:
    """``of`` gets a message and returns what goes on instead, or None: as it is. It need not see what lacks ``key``."""

    key: bytes
    of: Callable[[Any], dict[str, Any] | None]

    def may_concern(self, text: bytes | bytearray) -> bool:
        return self.key in text or b"\\u" in text  # the key may be written with escapes


def read_json(text: bytes | bytearray) -> Any:
    """Raises ``ValueError``, also for what is nested deeper than we can follow."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def result_of(message: Any) -> dict[str, Any]:
    """What a response carries; nothing where it is no response."""
    result = message.get("result") if isinstance(message, dict) else None
    return result if isinstance(result, dict) else {}


def visible_tools(message: Any, may_see: Callable[[str], bool]) -> dict[str, Any] | None:
    """``message`` with the unseen tools gone and its cache scope private; None when nothing has to change.

    A list that depends on who asks must not be shared between callers (``cacheScope``, revision 2026-07-28).
    """
    result = result_of(message)
    if not isinstance(result.get("tools"), list):
        return None
    tools = result["tools"]
    seen = [tool for tool in tools if isinstance(tool, dict) and may_see(str(tool.get("name", "")))]
    is_shared = result.get("cacheScope", "private") != "private"
    if len(seen) == len(tools) and not is_shared:
        return None
    scope = {"cacheScope": "private"} if is_shared else {}
    return {**message, "result": {**result, "tools": seen, **scope}}


def changed_document(body: bytes, change: Change) -> bytes:
    """A JSON reply body; one that cannot be read is broken, never passed on unread."""
    try:
        changed = change.of(read_json(body)) if body else None
    except ValueError as error:
        raise BackendBroke("invalid_reply", "the server's list is not valid JSON") from error
    return body if changed is None else _compact(changed)


def changed_event(event: bytes, change: Change) -> bytes:
    """One server-sent event; comments, ids and foreign events pass as they are."""
    data = event_data(event)
    if not data or not change.may_concern(data):
        return event
    try:
        changed = change.of(read_json(data))
    except ValueError as error:
        raise BackendBroke("invalid_reply", "the server's event is not valid JSON") from error
    if changed is None:
        return event
    kept = [line for line in event.splitlines() if line and not line.startswith(b"data")]
    return b"\n".join([*kept, b"data: " + _compact(changed)]) + b"\n\n"


def is_last_word(event: bytes) -> bool:
    """Whether ``event`` carries a JSON-RPC response, which ends the exchange it answers, or what we cannot read."""
    try:
        message = read_json(event_data(event) or b"null")
    except ValueError:
        return True
    return isinstance(message, dict) and "method" not in message and ("result" in message or "error" in message)


def event_data(event: bytes) -> bytes:
    """The data lines of one event, joined as the specification of server-sent events says."""
    lines = (line for line in event.splitlines() if line.startswith(b"data"))
    return b"\n".join(line.partition(b":")[2].removeprefix(b" ") for line in lines if line[4:5] in (b":", b""))


async def whole_events(chunks: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """The same bytes, cut where events end; what is left at the end comes last."""
    buffer = bytearray()
    async with aclosing(chunks):
        async for chunk in chunks:
            begin, unsearched = 0, max(0, len(buffer) - LONGEST_END_BYTES)
            buffer += chunk
            while (end := EVENT_END.search(buffer, unsearched)) is not None:
                yield bytes(buffer[begin : end.end()])
                begin = unsearched = end.end()
            del buffer[:begin]
            if len(buffer) > REPLY_LIMIT_BYTES:
                raise BackendBroke("reply_too_large", "one event exceeds the limit")
    if buffer:
        yield bytes(buffer)


async def changed_events(chunks: AsyncGenerator[bytes], change: Change) -> AsyncGenerator[bytes]:
    async with aclosing(whole_events(chunks)) as events:
        async for event in events:
            yield changed_event(event, change)


async def changed_body(chunks: AsyncGenerator[bytes], change: Change) -> AsyncGenerator[bytes]:
    body = bytearray()
    async with aclosing(chunks):
        async for chunk in chunks:
            body += chunk
            if len(body) > REPLY_LIMIT_BYTES:
                raise BackendBroke("reply_too_large", "the list exceeds the limit")
    yield changed_document(bytes(body), change)


async def noted_body(chunks: AsyncGenerator[bytes], change: Change) -> AsyncGenerator[bytes]:
    """The same bytes as they come; ``change`` sees the message before the end does, and what it returns is ignored.

    One that is larger than a message without content, or no JSON, is not seen.
    """
    body = bytearray()
    async with aclosing(chunks):
        async for chunk in chunks:
            if len(body) <= NOTE_LIMIT_BYTES:
                body += chunk
            yield chunk
    if len(body) <= NOTE_LIMIT_BYTES and change.may_concern(body):
        with suppress(ValueError):
            change.of(read_json(body))


async def released_events(chunks: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """The same bytes; every event but a response is followed by an empty chunk.

    The edge holds back the newest chunk of a call with effects until its outcome is durable. That is right for the
    response and wrong for what comes before it: a server that asks the client something in mid-call waits for the
    answer, and a held question is never answered. The empty chunk takes the event's place in the edge's hand.
    """
    async with aclosing(whole_events(chunks)) as events:
        async for event in events:
            yield event
            if not is_last_word(event):
                yield b""


async def unnumbered_events(chunks: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """The same events without their ids, by which a client could ask for them a second time."""
    async with aclosing(whole_events(chunks)) as events:
        async for event in events:
            lines = event.splitlines(keepends=True)
            yield b"".join(line for line in lines if line.rstrip(b"\r\n").partition(b":")[0] != b"id")


def _compact(document: Any) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
