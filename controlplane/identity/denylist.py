"""Who is no longer believed although the token is still good: one JSON file, obeyed from the next call on.

    {"tokens": ["<jti>", …], "subjects": ["agent:x", …], "clients": ["<client_id>", …]}

A revoked subject is refused as the subject and as any actor of a delegation chain. A file that is named but cannot be
read, or says something we do not understand, refuses everybody: revocation unknown is not "not revoked".
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from controlplane.calls import Principal
from controlplane.identity.errors import IdentityUnavailable, Unauthenticated

log = logging.getLogger(__name__)

SETTLED_S = 2.0  # file times tick in milliseconds: a file this young could change again without looking different


class Revocations(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    tokens: frozenset[str] = frozenset()
    subjects: frozenset[str] = frozenset()
    clients: frozenset[str] = frozenset()

    def names(self, principal: Principal) -> bool:
        return (
            principal.token_id in self.tokens
            or principal.client_id in self.clients
            or not self.subjects.isdisjoint((principal.subject, *principal.chain))
        )


class _Stamp(msgspec.Struct, frozen=True):
    """What changes when a file does, also when another file is renamed onto it."""

    inode: int
    size: int
    modified_ns: int
    changed_ns: int


class Denylist:
    """Asks the file system on every call (microseconds) and reads the file only when it has changed."""

    def __init__(self, path: Path | None, *, wall_clock: Callable[[], float] = time.time) -> None:
        self._path, self._wall_clock = path, wall_clock
        self._stamp: _Stamp | None = None
        self._revocations = Revocations()

    def require_not_revoked(self, principal: Principal) -> None:
        """Raises ``Unauthenticated("revoked")`` or ``IdentityUnavailable("revocation_unknown")``."""
        if self._path is None:
            return
        self._reload_if_changed(self._path)
        if self._revocations.names(principal):
            raise Unauthenticated("revoked")

    def _reload_if_changed(self, path: Path) -> None:
        try:
            found = os.stat(path)  # noqa: PTH116  on the path of every call; Path.stat costs twice as much
            stamp = _Stamp(found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
            if stamp == self._stamp:
                return
            self._revocations = msgspec.json.decode(path.read_bytes(), type=Revocations)
        except (OSError, ValueError) as error:
            self._stamp = None
            log.warning("denylist unreadable, everybody is refused", extra={"cause": str(error)})
            raise IdentityUnavailable("revocation_unknown") from error
        settled = self._wall_clock() - stamp.changed_ns / 1e9 > SETTLED_S
        self._stamp = stamp if settled else None
