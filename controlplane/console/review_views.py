"""What the console needs to ask humans about a degraded model."""

from __future__ import annotations

from typing import Protocol

from audit import LedgerReceipt
from controlplane.calls import Principal


class ReviewView(Protocol):
    """``answer`` is healthy, fallback or retrain."""

    @property
    def id(self) -> str: ...
    @property
    def answer(self) -> str: ...
    @property
    def by(self) -> str: ...
    @property
    def reason(self) -> str: ...


class ReviewControl(Protocol):
    def review_of(self, model: str) -> ReviewView | None:
        """The newest one since the model became degraded."""
        ...

    async def review(self, model: str, answer: str, by: Principal, reason: str, key: str) -> LedgerReceipt:
        """Recorded, then said. Raises ``ChangeRefused`` or ``audit.AuditUnavailable``."""
        ...
