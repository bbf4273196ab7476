"""When did nobody watch? Calls go on without the monitor; that it was away is a fact for the ledger. Pure.

A gap is decided and kept in the transaction that moves the cursor past it, and told after that until the gateway has
recorded it. Losses that go on grow one gap and not many; once it was told it is closed, since nobody knows any more
whether its record is on disk.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from controlplane.monitor.client import Page

OVERWRITTEN, RESTARTED, AWAY = "overwritten", "gateway_restarted", "monitor_away"
TOLD_EVERY_MS = 30_000


def new_key() -> str:
    return uuid.uuid4().hex


@dataclass(slots=True)
class Gap:
    key: str
    reason: str
    lost: int
    from_ms: int
    to_ms: int
    boot: str

    def as_document(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(slots=True)
class Gaps:
    """``away_ms`` without a reading are a gap even when nothing was lost: verdicts came that much later."""

    away_ms: int
    seen_ms: int = 0  # when something was last read; 0 before the first time
    open: Gap | None = None
    told: list[Gap] = field(default_factory=list)  # under way to the ledger
    told_ms: int = 0
    key: Callable[[], str] = new_key

    def saw(self, page: Page, boot_before: str, now_ms: int) -> bool:
        """Note a page that was read; whether there was a gap before it."""
        reason, since_ms = self._reason(page, boot_before, now_ms), self.seen_ms
        self.seen_ms = now_ms
        if not reason:
            return False
        if self.open is not None and self.open.reason == reason == OVERWRITTEN:
            self.open.lost += page.lost
            self.open.to_ms = now_ms
        else:
            self._close()
            self.open = Gap(self.key(), reason, page.lost, since_ms or now_ms, now_ms, page.boot)
        return True

    def _reason(self, page: Page, boot_before: str, now_ms: int) -> str:
        if boot_before and page.boot != boot_before:
            return RESTARTED
        if page.lost:
            return OVERWRITTEN
        return AWAY if self.seen_ms and now_ms - self.seen_ms > self.away_ms else ""

    def due(self, now_ms: int) -> list[Gap]:
        """What is to be told now, oldest first; it no longer grows."""
        if self.open is not None and abs(now_ms - self.told_ms) >= TOLD_EVERY_MS:  # a clock may be set back
            self._close()
            self.told_ms = now_ms
        return list(self.told)

    def recorded(self, gap: Gap) -> None:
        self.told.remove(gap)

    def _close(self) -> None:
        if self.open is not None:
            self.told.append(self.open)
            self.open = None

    def snapshot(self) -> dict[str, Any]:
        return {
            "seen_ms": self.seen_ms,
            "open": None if self.open is None else self.open.as_document(),
            "told": [gap.as_document() for gap in self.told],
        }

    def resume(self, kept: Mapping[str, Any]) -> None:
        self.seen_ms = kept["seen_ms"]
        self.open = None if kept["open"] is None else Gap(**kept["open"])
        self.told = [Gap(**each) for each in kept["told"]]
