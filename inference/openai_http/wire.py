"""What a server serves and what it answered, as bytes: paths, usage, errors. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from inference.backend import CLIENT_ERRORS, OK, SERVER_ERRORS, Usage
from inference.errors import BackendBroke, BackendError, BackendRejected, BackendUnavailable

OPERATIONS: Mapping[str, tuple[str, str]] = {
    "chat": ("POST", "chat/completions"),
    "completions": ("POST", "completions"),
    "embeddings": ("POST", "embeddings"),
    "responses": ("POST", "responses"),
    "rerank": ("POST", "rerank"),
    "score": ("POST", "score"),
    "messages": ("POST", "messages"),
    "count_tokens": ("POST", "messages/count_tokens"),
    "models": ("GET", "models"),
}
"""The whole of the server that callers may reach. vLLM serves other paths without asking for its key."""

DETAIL_LIMIT = 500
REDIRECTS = 300
LONGEST_WAIT_DIGITS = 9  # thirty years in seconds

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What reading JSON of a server's raises: it may be no JSON, no UTF-8, or nested deeper than anybody can follow."""

MOST_TOKENS = 2**32
"""More than any call takes. A count beyond it, or below zero, is a mistake, and must not become money."""

Tokens = Annotated[int, msgspec.Meta(ge=0, le=MOST_TOKENS)]


class TokenDetails(msgspec.Struct):
    cached_tokens: Tokens | None = None


class UsageFields(msgspec.Struct):
    """Usage in three vocabularies: ``prompt/completion`` of chat, embeddings and ranks, ``input/output`` of responses,
    and that of messages, which counts what came from the cache beside ``input`` and not in it."""

    prompt_tokens: Tokens | None = None
    completion_tokens: Tokens | None = None
    prompt_tokens_details: TokenDetails | None = None
    input_tokens: Tokens | None = None
    output_tokens: Tokens | None = None
    input_tokens_details: TokenDetails | None = None
    cache_read_input_tokens: Tokens | None = None
    cache_creation_input_tokens: Tokens | None = None

    def note_in(self, usage: Usage) -> None:
        self.note_input_in(usage)
        usage.output_tokens = self.output_tokens if self.completion_tokens is None else self.completion_tokens

    def note_input_in(self, usage: Usage) -> None:
        details = self.prompt_tokens_details or self.input_tokens_details
        usage.cached_tokens = self.cache_read_input_tokens if details is None else details.cached_tokens
        usage.input_tokens = self.prompt_tokens
        if self.input_tokens is not None:
            beside = (self.cache_read_input_tokens or 0) + (self.cache_creation_input_tokens or 0)
            usage.input_tokens = self.input_tokens + beside


class Enclosed(msgspec.Struct):
    usage: UsageFields | None = None


class Choice(msgspec.Struct):
    index: int = 0


class ReplyFields(msgspec.Struct):
    """What we read of a reply or of one event; everything else passes untouched."""

    usage: UsageFields | None = None
    choices: list[Choice] | None = None
    response: Enclosed | None = None  # the last event of a streamed ``responses`` call holds the whole response
    message: Enclosed | None = None  # the first event of a streamed ``messages`` call knows the input alone
    error: Any = None

    @property
    def counted(self) -> UsageFields | None:
        return self.usage or (self.response.usage if self.response else None)


read_reply = msgspec.json.Decoder(ReplyFields).decode


def note_usage(body: bytes, usage: Usage) -> None:
    """Fill ``usage`` from a whole reply; one that does not say, or counts what cannot be, leaves it empty."""
    try:
        counted = read_reply(body).counted
    except UNREADABLE:
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
        case 501:  # says nothing about the server's health, and any caller can bring it about
            return BackendRejected("not_supported", detail)
        case _ if CLIENT_ERRORS <= status < SERVER_ERRORS:
            return None
        case _:
            return BackendBroke(f"upstream_{status}", detail)


def error_message(body: bytes) -> str:
    """The words of an error in any of the three shapes of vLLM: ``{"error": {"message"}}``, ``{"error": ""}``
    (its key check) and ``{"detail": ""}`` (its router); "" when it is none of them."""
    try:
        document = msgspec.json.decode(body)
    except UNREADABLE:
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
    is_known = value.isascii() and value.isdigit() and len(value) <= LONGEST_WAIT_DIGITS
    return float(value) if is_known else None
