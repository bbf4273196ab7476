"""What the console needs to ask humans about a degraded model."""

from __future__ import annotations

from typing import Protocol

from controlplane.calls import Principal


class RecordedReview(Protocol):
    @property
    def event_id(self) -> str: ...
    @property
    def index(self) -> int: ...


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

    async def review(self, model: str, answer: str, by: Principal, reason: str, key: str) -> RecordedReview:
        """Recorded, then said. Raises ``ChangeRefused`` or ``audit.AuditUnavailable``."""
        ...
