"""What goes out and what came back, as bytes. Pure.

The caller's body is forwarded as it is. Two things may be changed, because nobody else can: usage is asked for when a
streamed reply would come without it, and the model is renamed when the server knows it by another name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from inference.backend import Usage
from inference.errors import BackendBroke, BackendError, BackendUnavailable

OPERATIONS: Mapping[str, tuple[str, str]] = {
    "chat": ("POST", "chat/completions"),
    "completions": ("POST", "completions"),
    "embeddings": ("POST", "embeddings"),
    "responses": ("POST", "responses"),
    "models": ("GET", "models"),
}
"""The whole of the server that callers may reach. vLLM serves other paths without asking for its key."""

OPTIONS_ASKED = frozenset({"chat", "completions"})
"""Operations whose streams carry usage only when ``stream_options`` asks for it, and which end with ``[DONE]``."""

ASK_FOR_USAGE = b'"stream_options":{"include_usage":true}'
DETAIL_LIMIT = 500
OK, REDIRECTS, CLIENT_ERRORS, SERVER_ERRORS = 200, 300, 400, 500


class TokenDetails(msgspec.Struct):
    cached_tokens: int | None = None


class UsageFields(msgspec.Struct):
    """Usage in both vocabularies: ``prompt/completion`` of chat and embeddings, ``input/output`` of responses."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: TokenDetails | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: TokenDetails | None = None

    def note_in(self, usage: Usage) -> None:
        details = self.prompt_tokens_details or self.input_tokens_details
        usage.input_tokens = self.input_tokens if self.prompt_tokens is None else self.prompt_tokens
        usage.output_tokens = self.output_tokens if self.completion_tokens is None else self.completion_tokens
        usage.cached_tokens = None if details is None else details.cached_tokens


class Enclosed(msgspec.Struct):
    usage: UsageFields | None = None


class ReplyFields(msgspec.Struct):
    """What we read of a reply or of one event; everything else passes untouched."""

    usage: UsageFields | None = None
    choices: list[msgspec.Raw] | None = None
    response: Enclosed | None = None  # the last event of a streamed ``responses`` call holds the whole response
    error: Any = None

    @property
    def counted(self) -> UsageFields | None:
        return self.usage or (self.response.usage if self.response else None)


read_reply = msgspec.json.Decoder(ReplyFields).decode
_read_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


@dataclass(frozen=True, slots=True)
class Outgoing:
    """``hides_usage``: the caller did not ask for the usage chunk, so he must not see it."""

    body: bytes
    hides_usage: bool = False


def outgoing_of(body: bytes, operation: str, *, streams: bool, model: str = "") -> Outgoing:
    """The body to send. One that is no JSON object goes out as it is: refusing it is the server's business."""
    asks = streams and operation in OPTIONS_ASKED
    if not asks and not model:
        return Outgoing(body)
    try:
        fields = _read_fields(body)
    except msgspec.DecodeError:
        return Outgoing(body)
    changed = {"model": msgspec.Raw(msgspec.json.encode(model))} if model else {}
    if not asks:
        return Outgoing(msgspec.json.encode(fields | changed))
    if "stream_options" not in fields and fields and not changed:
        start = body.index(b"{") + 1
        return Outgoing(body[:start] + ASK_FOR_USAGE + b"," + body[start:], hides_usage=True)
    options, hides_usage = _with_usage(fields.get("stream_options"))
    if options:
        changed["stream_options"] = msgspec.Raw(options)
    return Outgoing(msgspec.json.encode(fields | changed) if changed else body, hides_usage)


def _with_usage(given: msgspec.Raw | None) -> tuple[bytes, bool]:
    """``stream_options`` to send (b"" leaves them) and whether the usage must be hidden again."""
    try:
        options = msgspec.json.decode(given, type=dict[str, Any] | None) if given is not None else None
    except msgspec.DecodeError:
        return b"", False
    options = options or {}
    if options.get("include_usage"):
        return b"", False
    options.pop("continuous_usage_stats", None)  # means nothing without usage, and would put it into every chunk
    return msgspec.json.encode(options | {"include_usage": True}), True


def note_usage(body: bytes, usage: Usage) -> None:
    """Fill ``usage`` from a whole reply; one that does not say leaves it empty."""
    try:
        counted = read_reply(body).counted
    except msgspec.DecodeError:
        return
    if counted is not None:
        counted.note_in(usage)


def fault_of(status: int, headers: Mapping[str, str], body: bytes) -> BackendError | None:
    """The error that an answer with ``status`` means for us; None when the answer is the caller's to read.

    A 401 is ours: it refuses the gateway's key, and an agent that saw it would throw away a good token.
    """
    if OK <= status < REDIRECTS:
        return None
    detail = error_message(body)
    match status:
        case 503:
            return BackendUnavailable("busy", detail, retry_after_s=retry_after_s(headers))
        case 429:
            return BackendUnavailable("rate_limited", detail, retry_after_s=retry_after_s(headers))
        case 401 | 403:
            return BackendUnavailable("credential_refused", detail)
        case _ if CLIENT_ERRORS <= status < SERVER_ERRORS:
            return None
        case _:
            return BackendBroke(f"upstream_{status}", detail)


def error_message(body: bytes) -> str:
    """The words of an error in any of the three shapes of vLLM: ``{"error": {"message"}}``, ``{"error": ""}``
    (its key check) and ``{"detail": ""}`` (its router); "" when it is none of them."""
    try:
        document = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return ""
    if not isinstance(document, dict):
        return ""
    return message_in(document.get("error") or document.get("detail"))


def message_in(error: object) -> str:
    message = error.get("message") if isinstance(error, dict) else error
    if message is None or isinstance(message, str):
        return (message or "")[:DETAIL_LIMIT]
    return msgspec.json.encode(message).decode()[:DETAIL_LIMIT]


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds; a date is not read, the caller then waits as long as he thinks fit."""
    value = headers.get("retry-after", "").strip()
    return float(value) if value.isascii() and value.isdigit() else None
