"""The one shape in which everything behind the gateway is called: model servers, tools and MCP servers alike.

Structs of msgspec, because several are made on every call and a frozen dataclass of so many fields costs ten times as
much.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from msgspec import Struct, field

FRESH_RUNGS = frozenset({"primary", "cached"})
"""Rungs whose answer is as good as the primary's own; every other one is degraded, and the caller is told."""

OK, CLIENT_ERRORS, SERVER_ERRORS = 200, 400, 500
"""The status of a good reply, and those with which the others begin. Plain numbers, because every call is held against
them several times and a name of ``HTTPStatus`` takes 0.2 us to look up."""


class Reuse(Struct, frozen=True):
    """Policy's leave to give an answer again.

    For ``ttl_s`` seconds; ``sampled`` lets text that was drawn by chance be given again as well. ``shaping`` names the
    duties that change what a caller sees, and separates answers as ``scope`` does.
    """

    ttl_s: int
    sampled: bool = False
    shaping: str = ""


class BackendRequest(Struct, frozen=True, kw_only=True):
    """What goes out. ``body`` is forwarded as it is.

    ``operation`` is the protocol's verb: ``chat``, ``completions``, ``embeddings``, ``models`` (OpenAI HTTP);
    ``Predict``, ``Classify``, ``Regress``, ``GetModelMetadata`` (TF Serving, ``body`` is the serialized
    request message); ``call`` (HTTP tool); ``message`` and ``listen``, which stays open (MCP). ``timeout_s`` bounds the
    whole exchange.
    """

    call_id: str
    target: str  # backend or model name
    operation: str
    body: bytes = b""
    version: int | None = None
    label: str | None = None
    streams: bool = False
    headers: tuple[tuple[str, str], ...] = ()
    timeout_s: float = 60.0
    tenant: str = ""  # whose call it is; "" when nobody said
    agent: str = ""  # who calls, for fairness and for staying with one version or replica
    priority: int = 5  # 0 is the most urgent, 9 the least
    scope: str = ""  # what separates caches: tenant and policy revision; "" must never be cached
    reuse: Reuse | None = None  # None: this answer must not be kept to be given again
    http_method: str = "POST"


class Usage(Struct):
    """Tokens as the backend counted them; None where it did not say."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None


class BackendReply(Struct):
    """What comes back: the head is known, the body is still to be read.

    ``status`` is the HTTP status (200 for gRPC answers). ``chunks`` must be iterated inside ``aclosing``; closing it
    early cancels the work upstream. ``usage`` fills while chunks are read. ``rung`` says which step of the fallback
    ladder answered: ``primary``; ``cached`` (saved, and as fresh as policy wants it); ``cache`` (saved, and given
    because nobody else could answer); ``lighter``.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    chunks: AsyncGenerator[bytes]
    served_by: str = ""  # backend, model or version that really answered, e.g. "risk/2"
    rung: str = "primary"
    usage: Usage = field(default_factory=Usage)
    age_s: int | None = None  # seconds since a saved answer was first given; None for one made just now


class Backend(Protocol):
    def send(self, request: BackendRequest) -> AbstractAsyncContextManager[BackendReply]:
        """Call the backend; entering waits for the head of the reply, leaving cancels what is still running.

        MUST raise only ``BackendError`` and its family, on entering or from ``chunks``. MUST NOT retry.
        MUST release every connection and task when the context is left, however it is left.
        """
        ...
