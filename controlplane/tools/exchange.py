"""One HTTP exchange with an upstream that we do not trust: bounded, without redirects, with our own credential only.

Translates everything aiohttp raises into the ``BackendError`` family, once, for every backend of this room.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Collection, Iterable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
from multidict import CIMultiDict

from controlplane.tools.registry import Credential
from inference.backend import BackendReply
from inference.errors import BackendBroke, BackendError, BackendTimeout, BackendUnavailable

CONNECT_TIMEOUT_S = 5.0
OUR_CREDENTIAL_REFUSED = frozenset({401, 407})
JSON = "application/json"
JSON_TYPE = re.compile(r"application/(?:[a-z0-9.+-]+\+)?json")
REDIRECTS = range(300, 400)
ANSWERS = frozenset({*range(200, 300), *range(400, 600)})  # and not 101, by which a proxy in front would open a tunnel
SILENCED = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")  # aiohttp must not speak for the agent


@dataclass(frozen=True, slots=True, kw_only=True)
class Outbound:
    """What goes to an upstream. ``reply_headers`` names what may come back, in lower case."""

    name: str
    method: str
    url: str
    body: bytes
    timeout_s: float
    headers: tuple[tuple[str, str], ...]
    credential: tuple[str, str] | None = None
    reply_headers: Collection[str] = field(default=frozenset({"content-type"}))
    reply_limit_bytes: int | None = None

    def all_headers(self) -> CIMultiDict[str]:
        headers = CIMultiDict(self.headers)
        if self.body:
            headers["content-type"] = as_json(headers.get("content-type", JSON))
        headers["accept-encoding"] = "identity"  # what we pass on must be what we could have read
        if self.credential is not None:
            headers[self.credential[0]] = self.credential[1]
        return headers


def as_json(content_type: str) -> str:
    """What a body is that was decided on as JSON: an upstream that took it for a form would read other values."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind if JSON_TYPE.fullmatch(kind) else JSON


def open_session() -> aiohttp.ClientSession:
    """A client that remembers nothing between calls: no cookies, no proxy from the environment, no decompression.

    Call it inside the event loop; whoever opens it closes it.
    """
    return aiohttp.ClientSession(
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        connector=aiohttp.TCPConnector(limit=0),
        trust_env=False,
    )


def credential_header(credential: Credential | None) -> tuple[str, str] | None:
    """Raises ``BackendUnavailable`` when our secret cannot be read: without it nothing goes out."""
    try:
        return None if credential is None else credential.as_header()
    except (OSError, ValueError) as error:
        raise BackendUnavailable("credential_unavailable", "our credential for this upstream is missing") from error


@asynccontextmanager
async def exchange(session: aiohttp.ClientSession, outbound: Outbound) -> AsyncGenerator[BackendReply]:
    """Send ``outbound`` and lend out the reply; leaving closes the connection to the upstream if it still speaks."""
    try:
        async with session.request(
            outbound.method,
            outbound.url,
            data=outbound.body or None,
            headers=outbound.all_headers(),
            skip_auto_headers=SILENCED,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=outbound.timeout_s, sock_connect=CONNECT_TIMEOUT_S),
        ) as response:
            _refuse_head(response, outbound)
            async with aclosing(_chunks(response, outbound)) as chunks:
                yield BackendReply(
                    status=response.status,
                    headers=_kept(response.raw_headers, outbound.reply_headers),
                    chunks=chunks,
                    served_by=outbound.name,
                )
    except (aiohttp.ClientError, TimeoutError) as error:
        raise _translated(error) from error


async def _chunks(response: aiohttp.ClientResponse, outbound: Outbound) -> AsyncGenerator[bytes]:
    seen = 0
    try:
        async for chunk in response.content.iter_any():
            seen += len(chunk)
            _refuse_size(seen, outbound)
            yield chunk
    except (aiohttp.ClientError, TimeoutError) as error:
        raise _translated(error) from error


def _refuse_head(response: aiohttp.ClientResponse, outbound: Outbound) -> None:
    if response.status in OUR_CREDENTIAL_REFUSED:  # passed on, it would send the agent to renew its own token
        raise BackendUnavailable("credential_refused", "the upstream does not accept our credential")
    if response.status in REDIRECTS:
        raise BackendBroke("redirect_refused", "the upstream answered with a redirect")
    if response.status not in ANSWERS:
        raise BackendBroke("invalid_reply", f"the upstream answered with the status {response.status}")
    _refuse_size(response.content_length or 0, outbound)


def _refuse_size(size_bytes: int, outbound: Outbound) -> None:
    if outbound.reply_limit_bytes is not None and size_bytes > outbound.reply_limit_bytes:
        raise BackendBroke("reply_too_large", f"the reply exceeds {outbound.reply_limit_bytes} bytes")


def _kept(headers: Iterable[tuple[bytes, bytes]], names: Collection[str]) -> tuple[tuple[str, str], ...]:
    """One character a byte, as every reply has its headers: they leave as they came, whatever their encoding."""
    said = ((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in headers)
    return tuple(header for header in said if header[0] in names)


def _translated(error: aiohttp.ClientError | TimeoutError) -> BackendError:
    match error:
        case aiohttp.ConnectionTimeoutError() | aiohttp.ClientConnectorError():
            return BackendUnavailable("unreachable", "the upstream cannot be reached")
        case TimeoutError():
            return BackendTimeout("timeout", "the upstream did not answer in time")
        case aiohttp.InvalidURL():
            return BackendUnavailable("unreachable", "the upstream's address is not valid")
        case _:
            return BackendBroke("disconnected", "the upstream broke off")
