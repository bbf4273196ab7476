"""What can go wrong between us and a backend. ``reason`` is a stable word for the ledger and for metrics.

BackendError
├── BackendUnavailable   nothing was done: refused, unreachable, breaker open, no such replica
├── BackendTimeout       it did not answer in time; whether it did anything is unknown
├── BackendRejected      it answered that the request is wrong; the request may be changed, not repeated
└── BackendBroke         it failed while answering, or answered nonsense
"""

from __future__ import annotations


class BackendError(Exception):
    """Root of everything a backend raises; ``reason`` is a stable word, never prose."""

    def __init__(self, reason: str, detail: str = "", *, retry_after_s: float | None = None) -> None:
        super().__init__(detail or reason)
        self.reason, self.detail, self.retry_after_s = reason, detail, retry_after_s


class BackendUnavailable(BackendError):
    """The request did not reach a working backend; nothing was done."""


class BackendTimeout(BackendError):
    """No answer within the deadline; whether anything was done is unknown."""


class BackendRejected(BackendError):
    """The backend says that the request itself is wrong (unknown model or signature, bad tensor)."""


class BackendBroke(BackendError):
    """The backend failed while answering."""
