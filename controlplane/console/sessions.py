"""People who signed in: a random cookie stands for the token they brought, which never leaves the server again.

The token is proven anew at every request, so an expired or revoked one ends the session at once.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from controlplane.console.settings import ConsoleSettings


@dataclass(frozen=True, slots=True)
class Session:
    """``csrf`` must come back with every change, which a foreign page cannot read."""

    credential: str
    csrf: str
    ends_s: float

    def accepts(self, csrf: str) -> bool:
        return secrets.compare_digest(self.csrf.encode(), csrf.encode())


class Sessions:
    def __init__(self, settings: ConsoleSettings, now: Callable[[], float]) -> None:
        self._settings, self._now = settings, now
        self._known: OrderedDict[bytes, Session] = OrderedDict()
        self._cookie = "__Host-controlplane" if settings.secure_cookie else "controlplane"

    def open(self, credential: str, response: Response) -> Session:
        """A session for a credential that has been proven, its cookie on ``response``."""
        key = secrets.token_urlsafe(32)
        session = Session(credential, secrets.token_urlsafe(32), self._now() + self._settings.session_s)
        self._known[_digest(key)] = session
        while len(self._known) > self._settings.max_sessions:
            self._known.popitem(last=False)
        response.set_cookie(
            self._cookie, key, path="/", httponly=True, samesite="strict", secure=self._settings.secure_cookie
        )
        return session

    def find(self, request: Request) -> Session | None:
        key = request.cookies.get(self._cookie)
        session = self._known.get(_digest(key)) if key else None
        return session if session is not None and self._now() < session.ends_s else None

    def close(self, request: Request, response: Response) -> None:
        self._known.pop(_digest(request.cookies.get(self._cookie, "")), None)
        response.delete_cookie(
            self._cookie, path="/", httponly=True, samesite="strict", secure=self._settings.secure_cookie
        )


def _digest(key: str) -> bytes:
    """Whoever reads our memory finds no cookie to use."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
