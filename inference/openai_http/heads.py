"""The head of a request to one server, as bytes: which headers go out, and which of an answer's come back. Pure."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from functools import lru_cache

from yarl import URL

from inference.backend import BackendRequest
from inference.openai_http.outgoing import BODILESS
from inference.openai_http.wire import OPERATIONS

FORWARDED = frozenset({"accept", "traceparent", "tracestate", "user-agent"})
STAINLESS = re.compile(r"x-stainless-[!#$%&'*+.^_`|~0-9a-z-]+")
"""The official SDK's own; a retry says so in one of them."""

KEPT_BACK = frozenset(
    {
        "connection",
        "date",
        "keep-alive",
        "proxy-authenticate",
        "server",
        "set-cookie",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
NAMES_KEPT = 256


class Heads:
    """Most of a head is the same for every call of an operation, and made once."""

    def __init__(self, base: str) -> None:
        """``base`` is where the API begins, without a slash at its end."""
        targets = {name: (method, URL(f"{base}/{path}")) for name, (method, path) in OPERATIONS.items()}
        self._starts = {name: _start(method, url) for name, (method, url) in targets.items()}

    def of(self, request: BackendRequest, key: str, length: int) -> bytes:
        """Ours, and of the caller's only those that are known to carry no credential and break no line.

        Raises ``KeyError``: the operation is none of this protocol's.
        """
        start = self._starts[request.operation]
        said = {
            name: value
            for name, value in request.headers
            if (name in FORWARDED or STAINLESS.fullmatch(name)) and value.isprintable()
        }
        said.setdefault("accept", "*/*")
        if request.call_id.isprintable():
            said["x-request-id"] = request.call_id
        if key:
            said["authorization"] = f"Bearer {key}"
        if length or request.operation not in BODILESS:
            said["content-length"] = str(length)
        lines = "".join([f"{name}: {value}\r\n" for name, value in said.items()])
        return f"{start}{lines}\r\n".encode()


def asking(url: URL) -> bytes:
    """The head of a request for ``url`` that says nothing."""
    return f"{_start('GET', url)}\r\n".encode()


def answered(headers: Iterable[tuple[bytes, bytes]], *, is_stream: bool) -> tuple[tuple[str, str], ...]:
    """Without what belongs to one connection alone, and without the length of a stream that we may have shortened."""
    kept = [(shown, value.decode("latin-1")) for name, value in headers if (shown := _shown(name))]
    return tuple([each for each in kept if each[0] != "content-length"] if is_stream else kept)


def _start(method: str, url: URL) -> str:
    """Lines that every request for ``url`` begins with; a user in the URL goes along, as browsers do it."""
    lines = [f"{method} {url.raw_path_qs} HTTP/1.1", f"host: {url.host_port_subcomponent}"]
    lines += ["content-type: application/json", "accept-encoding: identity"]
    if url.user:
        login = base64.b64encode(f"{url.user}:{url.password or ''}".encode()).decode()
        lines.append(f"authorization: Basic {login}")
    return "".join([f"{line}\r\n" for line in lines])


@lru_cache(NAMES_KEPT)
def _shown(name: bytes) -> str:
    """A header's name as callers see it, "" for what they do not."""
    shown = name.decode("latin-1").lower()
    return "" if shown in KEPT_BACK else shown
