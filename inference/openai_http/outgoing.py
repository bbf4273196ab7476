"""The body that goes out for a request: the caller's, made safe for the server that gets it. Pure.

Most bodies keep every byte and get a few fields of ours in front. Only one that says what is ours to say, or says it in
old words, is written anew, each value as the caller wrote it.
"""

from __future__ import annotations

import base64
import hmac
import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from inference.backend import BackendRequest
from inference.errors import BackendRejected
from inference.openai_http import parameters
from inference.openai_http.media import check_media, points_somewhere
from inference.openai_http.parameters import Fields

OPTIONS_ASKED = frozenset({"chat", "completions"})
"""Operations whose streams carry usage only when ``stream_options`` asks for it."""

SALTED = frozenset({"chat", "completions", "responses", "messages", "embeddings", "rerank", "score"})
QUEUED = SALTED - {"messages"}
"""Operations that vLLM takes a priority for."""

BODILESS = frozenset({"models"})
SALTS_KEPT = 4096
MOST_URGENT, LEAST_URGENT = 0, 9
DIGEST = "sha256"
SALT_KEY_BYTES = 32

_read_fields = msgspec.json.Decoder(Fields).decode


class Outgoing(msgspec.Struct, frozen=True):
    """``hides_usage``: the caller asked for no usage and must see none. ``hides_running``: he asked for the final count
    alone, not for one in every chunk."""

    body: bytes
    hides_usage: bool = False
    hides_running: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What one server is told. ``salt_key`` makes the tenants' salts; whoever knows it could reach their prefixes.

    ``model`` is the server's own name for what callers ask for, "" when it is theirs; never for one of ``adapters``.
    """

    salt_key: bytes
    speaks_vllm: bool = True
    schedules_by_priority: bool = False
    strict_tools: bool = True
    media_hosts: tuple[str, ...] = ()
    model: str = ""
    adapters: Callable[[], Collection[str]] = tuple

    def name_of(self, target: str) -> str:
        """What the server knows ``target`` by."""
        return self.model if self.model and target not in self.adapters() else target


class Preparer:
    """Prepares requests for one server."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._salt = lru_cache(SALTS_KEPT)(self._made_salt)
        self._front = lru_cache(SALTS_KEPT)(self._made_front)
        self._looked_at = {name: parameters.looked_at(name) for name in (*SALTED, "count_tokens")}

    def prepare(self, request: BackendRequest) -> Outgoing:
        """Raises ``BackendRejected`` with the reason why a request must not go out as it is."""
        body, operation = request.body, request.operation
        looked_at = self._looked_at.get(operation)
        if looked_at is None or operation in BODILESS:
            return Outgoing(body)
        try:
            fields = _read_fields(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise BackendRejected("invalid_body", "the body is not a JSON object") from None
        if points_somewhere(body):
            check_media(fields, self._rules.media_hosts)
        asks = request.streams and operation in OPTIONS_ASKED
        named = _written(self._rules.name_of(request.target))
        if fields.get("model", named) != named:  # by another name, or a lighter model answers in its place
            fields["model"] = named
        elif looked_at.isdisjoint(fields) and not (asks and "stream_options" in fields):
            return self._with_ours_in_front(request, asks=asks, is_empty=not fields)
        return self._anew(fields, request, asks=asks)

    def _with_ours_in_front(self, request: BackendRequest, *, asks: bool, is_empty: bool) -> Outgoing:
        front = self._front(request.operation, request.tenant, request.priority, asks)
        if not front:
            return Outgoing(request.body)
        before, brace, after = request.body.partition(b"{")
        body = b"".join((before, brace, front, b"" if is_empty else b",", after))
        return Outgoing(body, hides_usage=asks, hides_running=asks)

    def _made_front(self, operation: str, tenant: str, priority: int, asks: bool) -> bytes:
        ours = self._ours(operation, tenant, priority)
        if asks:
            ours["stream_options"] = self._usage_options({})
        return b",".join([b'"%b":%b' % (name.encode(), value) for name, value in ours.items()])

    def _anew(self, fields: Fields, request: BackendRequest, *, asks: bool) -> Outgoing:
        rules, operation = self._rules, request.operation
        parameters.refuse(fields, operation)
        for name in parameters.OURS & fields.keys():
            del fields[name]
        parameters.translate_guided(fields, speaks_vllm=rules.speaks_vllm)
        if operation == "messages" and "output_format" in fields:
            parameters.translate_output_format(fields)
        if "tools" in fields and operation in parameters.SCHEMA_OF:
            if operation == "responses":
                parameters.check_tools(fields)
            if rules.strict_tools and rules.speaks_vllm:
                parameters.make_strict(fields, operation)
        hides_usage = hides_running = False
        if asks:
            hides_usage, hides_running = self._ask_for_usage(fields)
        ours = self._ours(operation, request.tenant, request.priority)
        fields |= {name: msgspec.Raw(value) for name, value in ours.items()}
        return Outgoing(msgspec.json.encode(fields), hides_usage, hides_running)

    def _ours(self, operation: str, tenant: str, priority: int) -> dict[str, bytes]:
        rules, ours = self._rules, {}
        if rules.speaks_vllm and operation in SALTED:
            ours["cache_salt"] = self._salt(tenant)
        if rules.speaks_vllm and rules.schedules_by_priority and operation in QUEUED:
            ours["priority"] = b"%d" % min(max(priority, MOST_URGENT), LEAST_URGENT)
        if operation == "responses":
            ours["store"] = b"false"  # a server that keeps answers keeps them for whoever asks next
        return ours

    def _ask_for_usage(self, fields: Fields) -> tuple[bool, bool]:
        """Sets ``stream_options`` in place; whether usage, and running usage, must be hidden again."""
        try:
            given = msgspec.json.decode(fields.get("stream_options", b"null"), type=dict[str, Any] | None) or {}
        except msgspec.DecodeError:
            return False, False  # refusing it is the server's business
        hides_usage = not given.get("include_usage")
        hides_running = hides_usage or not given.get("continuous_usage_stats")
        fields["stream_options"] = msgspec.Raw(self._usage_options(given))
        return hides_usage, hides_running

    def _usage_options(self, given: dict[str, Any]) -> bytes:
        """Running counts, too: of a stream that is left early they are all that is ever known."""
        wanted = {"include_usage": True} | ({"continuous_usage_stats": True} if self._rules.speaks_vllm else {})
        return msgspec.json.encode(given | wanted)

    def _made_salt(self, tenant: str) -> bytes:
        """JSON. A keyed digest: nobody can make another tenant's, and 43 characters are within vLLM's limits."""
        digest = hmac.digest(self._rules.salt_key, tenant.encode("utf-8", "surrogatepass"), DIGEST)
        return b'"%b"' % base64.urlsafe_b64encode(digest).rstrip(b"=")


def salt_key_in(file: Path | None) -> bytes:
    """The secret in ``file``, or one of this process alone.

    Raises:
        OSError, ValueError: there is no secret worth the name; a gateway that cannot salt must not start.
    """
    if file is None:
        return secrets.token_bytes(SALT_KEY_BYTES)
    key = file.read_bytes().strip()
    if len(key) < SALT_KEY_BYTES:
        raise ValueError(f"{file} holds fewer than {SALT_KEY_BYTES} bytes of secret")
    return key


@lru_cache(SALTS_KEPT)
def _written(model: str) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(model))
