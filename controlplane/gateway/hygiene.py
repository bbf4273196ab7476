"""What no door should have to think about: ambiguous requests are refused, bodies are bounded, requests have an id.

A plain ASGI class around the whole application. Each header rule closes a case in which two HTTP parsers may read the
same bytes differently, which is how requests are smuggled past a gateway (RFC 9112 §11.2), or in which an upstream may
read another text in the body than we do: ours is UTF-8.
"""

from __future__ import annotations

import json
import re

from starlette.types import ASGIApp, Message, Receive, Scope, Send

SINGLE = frozenset({b"host", b"authorization", b"x-api-key", b"content-type", b"content-length", b"content-encoding"})
IDENTITY, CHUNKED = b"identity", b"chunked"
NO_BODY = frozenset({b"", b"0"})
UPGRADE = "upgrade_with_body"
"""The server's parser ends such a request with its head, and would take the body for the next request."""
BODY_LIMIT_BYTES = 4 * 1024 * 1024
DOT_SEGMENT = re.compile(rb"(^|/)\.{1,2}(/|$)|%2e|%2f|%5c|\\", re.IGNORECASE)
CHARSET = re.compile(rb"charset[ \t]*=[ \t]*\"?([^;,\"\s]*)")
UTF_8 = frozenset({b"utf-8", b"utf8"})
DOT_SEGMENT_MARKS = re.compile(rb"[.%\\]")  # the pattern above needs one of these; most paths have none


class BodyTooLarge(Exception):
    """The request body exceeds the limit; raised from ``receive`` so that reading it stops at once."""


class Hygiene:
    def __init__(self, app: ASGIApp, *, body_limit_bytes: int = BODY_LIMIT_BYTES) -> None:
        self.app, self.body_limit_bytes = app, body_limit_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        fault, length = examined(scope["headers"])
        fault = fault or path_fault(scope.get("raw_path") or scope["path"].encode())
        if fault:
            await refuse(send, 400, fault)
        elif length is None:
            await self._bounded(scope, receive, send)
        elif length > self.body_limit_bytes:
            await refuse(send, 413, "body_too_large")
        else:
            await self.app(scope, receive, send)  # the server holds a body to its declared length

    async def _bounded(self, scope: Scope, receive: Receive, send: Send) -> None:
        seen, started = 0, False

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > self.body_limit_bytes:
                    raise BodyTooLarge
            return message

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, counted, watched)
        except BodyTooLarge:
            if started:
                raise
            await refuse(send, 413, "body_too_large")


def examined(headers: list[tuple[bytes, bytes]]) -> tuple[str, int | None]:
    """The stable word for what is ambiguous about these header fields, "" when nothing is; and the declared length."""
    fields = dict(headers)
    if b"_" in b"".join(fields):
        return "header_with_underscore", None
    if len(fields) < len(headers) and is_single_repeated(headers):
        return "duplicate_header", None
    if b"transfer-encoding" in fields and not all(is_chunked(*header) for header in headers):
        return "transfer_encoding", None
    if b"content-encoding" in fields and fields[b"content-encoding"].strip().lower() != IDENTITY:
        return "content_encoding", None
    if names_foreign_charset(fields.get(b"content-type", b"")):
        return "content_charset", None
    length = fields.get(b"content-length", b"")
    if b"upgrade" in fields and (length not in NO_BODY or b"transfer-encoding" in fields):
        return UPGRADE, None
    return "" if b"host" in fields else "missing_host", int(length) if length.isdigit() else None


def is_single_repeated(headers: list[tuple[bytes, bytes]]) -> bool:
    single = [name for name, _ in headers if name in SINGLE or name.startswith(b"mcp-")]
    return len(set(single)) < len(single)


def names_foreign_charset(content_type: bytes) -> bool:
    """Whether a parser that believes ``content_type`` may read other characters than UTF-8's, as in UTF-7."""
    if b";" not in content_type:
        return False
    parameters = content_type.lower()
    named = CHARSET.findall(parameters)
    return len(named) < parameters.count(b"charset") or not UTF_8.issuperset(named)


def is_chunked(name: bytes, value: bytes) -> bool:
    """Of a transfer coding; any other field has none to object to."""
    return name != b"transfer-encoding" or value.strip().lower() == CHUNKED


def path_fault(path: bytes) -> str:
    raw = path.partition(b"?")[0]
    has_dot_segment = DOT_SEGMENT_MARKS.search(raw) and DOT_SEGMENT.search(raw)
    return "ambiguous_path" if has_dot_segment or b"//" in raw else ""


async def refuse(send: Send, status: int, reason: str) -> None:
    body = json.dumps({"type": "urn:controlplane:bad-request", "status": status, "reason": reason}).encode()
    headers = [(b"content-type", b"application/problem+json"), (b"content-length", str(len(body)).encode())]
    if reason == UPGRADE:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
