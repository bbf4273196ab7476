"""Search over the ledger's calls: read backwards from the newest, as far as one page's patience goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from audit import Record
from controlplane.console.calls import CallHistory, CallPage, Sees

SCAN = 20_000  # records looked at for one page
EFFECTS = ("allow", "deny")
STATUSES = ("ok", "error", "timeout", "cancelled", "unknown", "running")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """``words`` must all stand somewhere in a call; the rest is "" or None for whatever there is."""

    words: tuple[str, ...] = ()
    effect: str = ""
    since_ms: int | None = None
    until_ms: int | None = None

    def fits(self, record: Record) -> bool:
        if self.until_ms is not None and record.time_ms >= self.until_ms:
            return False
        if self.since_ms is not None and record.time_ms < self.since_ms:
            return False
        if self.effect and record.body.get("decision", {}).get("effect") != self.effect:
            return False
        return not self.words or _says(record, self.words)


def wanted_from(query: Mapping[str, str]) -> Wanted:
    """What a form asks for; what makes no sense is left out."""
    until_ms = _day_ms(query.get("until", ""))
    return Wanted(
        words=tuple(query.get("q", "").lower().split()[:8]),
        effect=query.get("effect", "") if query.get("effect") in EFFECTS else "",
        since_ms=_day_ms(query.get("since", "")),
        until_ms=None if until_ms is None else until_ms + int(timedelta(days=1).total_seconds() * 1000),
    )


def _day_ms(day: str) -> int | None:
    try:
        return int(datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC).timestamp() * 1000)
    except ValueError:
        return None


def _says(record: Record, words: tuple[str, ...]) -> bool:
    body = record.body
    principal, action, decision = (body.get(part, {}) for part in ("principal", "action", "decision"))
    parts: list[Any] = [record.event_id, record.index, principal.get("subject"), action.get("name")]
    parts += [action.get("kind"), action.get("operation"), action.get("protocol"), decision.get("reason")]
    parts += [rule.get("id") for rule in decision.get("rules", [])]
    parts += [step.get("agent") for step in principal.get("delegation", [])]
    parts += [body.get("trace", {}).get("traceparent")]
    text = " ".join(str(part) for part in parts if part is not None).lower()
    return all(word in text for word in words)


@dataclass(frozen=True, slots=True)
class Found:
    """``looked_back_to`` is the ledger index down to which every call has been looked at."""

    page: CallPage
    looked_back_to: int


class CallSearch:
    """Blocking: call from a thread. Raises ``audit.AuditUnavailable``."""

    def __init__(self, history: CallHistory) -> None:
        self._history = history

    def find(self, wanted: Wanted, sees: Sees, limit: int, before: int | None) -> Found:
        page = self._history.page(sees, limit, before, fits=wanted.fits, scan=SCAN)
        return Found(page, page.next or 0)
