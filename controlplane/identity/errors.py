"""Why a credential was not accepted. ``reason`` is a stable word (``expired``, ``bad_signature``), never prose.

IdentityError
├── Unauthenticated       the credential proves nobody; a better credential may
└── IdentityUnavailable   we cannot tell just now (keys stale, revocation list unreadable); fails closed
"""

from __future__ import annotations


class IdentityError(Exception):
    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Unauthenticated(IdentityError):
    """The credential proves nobody."""


class IdentityUnavailable(IdentityError):
    """Whether the credential is good cannot be told now, so it is not."""
