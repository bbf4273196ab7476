"""Reads one MCP message (JSON-RPC over streamable HTTP) as far as a decision needs it. Pure; the bytes go on untouched.

Two rules carry the room. Decide on the body, since that is what the server executes, and refuse headers that say
otherwise. Refuse every body that two JSON parsers may read differently (duplicate keys, names that differ in case, lone
surrogates, batches): what we decided on must be what the server sees.

Revisions up to 2025-11-25 are the *legacy* era (``initialize``, sessions), 2026-07-28 and later the *modern* one
(everything in each request's ``_meta``, mirrored in ``Mcp-*`` headers).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from controlplane.strict_json import Ambiguous, parse

LEGACY_REVISIONS = frozenset({"2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"})
VERSION_KEY = "io.modelcontextprotocol/protocolVersion"
CAPABILITIES_KEY = "io.modelcontextprotocol/clientCapabilities"
SENTINEL = re.compile(r"^=\?base64\?(.*)\?=$")

PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS = -32700, -32600, -32601, -32602
HEADER_MISMATCH = -32020

ENVELOPE_KEYS = {key.casefold(): key for key in ("jsonrpc", "id", "method", "params", "result", "error")}
PARAMETER_KEYS = {
    key.casefold(): key for key in ("name", "uri", "arguments", "_meta", "taskId", "taskIds", "notifications")
}
"""What we look for, by what other parsers take for it."""
NAMED_BY = {  # method → the parameter that Mcp-Name repeats
    "tools/call": "name",
    "prompts/get": "name",
    "resources/read": "uri",
    "tasks/get": "taskId",
    "tasks/update": "taskId",
    "tasks/cancel": "taskId",
}
METHOD_HEADER, NAME_HEADER, VERSION_HEADER = "mcp-method", "mcp-name", "mcp-protocol-version"
ROUTING_HEADERS = frozenset({METHOD_HEADER, NAME_HEADER})

UNHEARD_OF = "write"
ACTIONS = {
    "tools/call": "call",
    "tools/list": "list",
    "prompts/list": "list",
    "resources/list": "list",
    "resources/templates/list": "list",
    "resources/read": "read",
    "prompts/get": "read",
    "completion/complete": "read",
    "initialize": "connect",
    "ping": "connect",
    "server/discover": "connect",
    "logging/setLevel": "connect",
    "resources/subscribe": "connect",
    "resources/unsubscribe": "connect",
    "subscriptions/listen": "connect",
}


class MessageRefused(Exception):
    """The message cannot be decided on; ``code`` is the JSON-RPC code, ``reason`` a stable word.

    ``id`` is the message's own, as far as it could be read: an error must carry it.
    """

    def __init__(self, code: int, reason: str, detail: str, status: int = HTTPStatus.BAD_REQUEST) -> None:
        super().__init__(detail)
        self.code, self.reason, self.detail, self.status = code, reason, detail, status
        self.id: str | int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class McpMessage:
    """``method`` is "" for a posted response. ``id`` is None for notifications and responses, which get no answer."""

    method: str = ""
    id: str | int | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    is_modern: bool = False

    @property
    def action(self) -> str:
        """What policy is asked for.

        A method that we have never heard of (extensions, ``tasks/*``) is ``write`` on the server: it may do anything,
        so it must not ride on the right to connect, nor on a tool's. Denied unless a policy grants just that.
        """
        if not self.method or self.method.startswith("notifications/"):
            return "connect"
        return ACTIONS.get(self.method, UNHEARD_OF)

    def resource(self, server: str) -> str:
        return tool_resource(server, self.params["name"]) if self.method == "tools/call" else f"/mcp/{server}"

    def arguments(self) -> Mapping[str, Any]:
        """What policy conditions may read: a tool's arguments, or the parameters of any other method."""
        if self.method == "tools/call":
            return self.params.get("arguments") or {}
        plain = {name: value for name, value in self.params.items() if name != "_meta"}
        return plain if self.action != UNHEARD_OF else {**plain, "method": self.method}

    @property
    def traceparent(self) -> str:
        meta = self.params.get("_meta")
        found = meta.get("traceparent") if isinstance(meta, dict) else None
        return found if isinstance(found, str) else ""


def tool_resource(server: str, tool: str) -> str:
    """The resource path of a tool: one segment a tool, so that no name can reach into another's path."""
    return f"/mcp/{server}/{quote(tool, safe='')}"


def is_modern_revision(revision: str) -> bool:
    """Every revision but the four that are known to be old: what we have not heard of is held to the stricter rules."""
    return revision not in LEGACY_REVISIONS


def read_message(body: bytes, headers: Mapping[str, str]) -> McpMessage:
    """Parse ``body`` and hold it against ``headers`` (lower-case names).

    Raises:
        MessageRefused: it is malformed, ambiguous, or its headers contradict it.
    """
    envelope = _parse(body)
    try:
        return _read_envelope(envelope, headers)
    except MessageRefused as refused:
        identity = envelope.get("id")
        refused.id = identity if _is_id(identity) else None
        raise


def _read_envelope(envelope: dict[str, Any], headers: Mapping[str, str]) -> McpMessage:
    _refuse_lookalikes(envelope, ENVELOPE_KEYS)
    if envelope.get("jsonrpc") != "2.0":
        raise MessageRefused(INVALID_REQUEST, "invalid_message", "jsonrpc must be 2.0")
    if "method" not in envelope:
        return _response(envelope)
    method, params = envelope["method"], envelope.get("params", {})
    if not isinstance(method, str) or not method or not isinstance(params, dict):
        raise MessageRefused(INVALID_REQUEST, "invalid_message", "method must be a string and params an object")
    if "id" in envelope and not _is_id(envelope["id"]):
        raise MessageRefused(INVALID_REQUEST, "invalid_message", "id must be a string or an integer")
    _refuse_lookalikes(params, PARAMETER_KEYS)
    if isinstance(asked_for := params.get("notifications"), dict):
        _refuse_lookalikes(asked_for, PARAMETER_KEYS)
    is_modern = _is_modern(params, headers.get(VERSION_HEADER))
    message = McpMessage(method=method, id=envelope.get("id"), params=params, is_modern=is_modern)
    if is_modern:
        _check_modern_envelope(message, headers)
    if method == "tools/call":
        _check_tool_call(params)
    return message


def _is_id(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


def _parse(body: bytes) -> dict[str, Any]:
    try:
        document = parse(body, in_any_case=True)
    except Ambiguous as fault:
        code = PARSE_ERROR if fault.reason == "parse_error" else INVALID_REQUEST
        raise MessageRefused(code, fault.reason, fault.detail) from None
    if isinstance(document, list):
        raise MessageRefused(INVALID_REQUEST, "batch", "one message a request: batches are not served")
    if not isinstance(document, dict):
        raise MessageRefused(INVALID_REQUEST, "invalid_message", "the body must be a JSON object")
    return document


def _refuse_lookalikes(document: Mapping[str, Any], known: Mapping[str, str]) -> None:
    """Some parsers match keys without regard to case; a ``Method`` would speak to them and not to us."""
    for key in document:
        spelt = known.get(key.casefold(), key)
        if spelt != key:
            raise MessageRefused(INVALID_REQUEST, "ambiguous_key", f"{key!r} must be written {spelt!r}")


def _response(envelope: Mapping[str, Any]) -> McpMessage:
    if ("result" in envelope) == ("error" in envelope):
        raise MessageRefused(INVALID_REQUEST, "invalid_message", "neither a request nor a response")
    return McpMessage()


def _is_modern(params: Mapping[str, Any], version_header: str | None) -> bool:
    meta = params.get("_meta")
    claimed = meta.get(VERSION_KEY) if isinstance(meta, dict) else None
    return any(is_modern_revision(str(named)) for named in (version_header, claimed) if named is not None)


def _check_modern_envelope(message: McpMessage, headers: Mapping[str, str]) -> None:
    if message.id is None:  # notifications need carry neither, but what they carry must be true
        if headers.get(METHOD_HEADER, message.method) != message.method:
            raise _mismatch(METHOD_HEADER)
        return
    meta = message.params.get("_meta")
    missing = [key for key in (VERSION_KEY, CAPABILITIES_KEY) if not isinstance(meta, dict) or key not in meta]
    if missing or not isinstance(meta, dict):
        raise MessageRefused(INVALID_PARAMS, "missing_meta", f"params._meta lacks {', '.join(missing)}")
    if headers.get(VERSION_HEADER) != meta[VERSION_KEY]:
        raise _mismatch(VERSION_HEADER)
    if headers.get(METHOD_HEADER) != message.method:
        raise _mismatch(METHOD_HEADER)
    name = message.params.get(NAMED_BY.get(message.method, ""))
    if name is not None and decoded(headers.get(NAME_HEADER, "")) != name:
        raise _mismatch(NAME_HEADER)


def _check_tool_call(params: Mapping[str, Any]) -> None:
    name, arguments = params.get("name"), params.get("arguments")
    if not isinstance(name, str) or not name:
        raise MessageRefused(INVALID_PARAMS, "invalid_params", "tools/call needs the tool's name")
    if arguments is not None and not isinstance(arguments, dict):
        raise MessageRefused(INVALID_PARAMS, "invalid_params", "the tool's arguments must be an object")


def _mismatch(header: str) -> MessageRefused:
    return MessageRefused(HEADER_MISMATCH, "header_mismatch", f"the {header} header does not match the body")


def decoded(value: str) -> str | None:
    """A mirrored header's value without its Base64 wrapping; None when the wrapping is damaged."""
    wrapped = SENTINEL.match(value)
    if wrapped is None:
        return value
    try:
        raw = base64.b64decode(wrapped[1], validate=True)
        return raw.decode("utf-8") if base64.b64encode(raw).decode() == wrapped[1] else None
    except (binascii.Error, UnicodeDecodeError):
        return None
