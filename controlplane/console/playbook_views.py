"""Playbooks as the console shows them: what each answers, what it may still do, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaybookShown:
    """``program`` without its arguments, which may be nobody's business. ``lasting``: what is at fault now, and for how
    many seconds. ``last_result``: ``dry_run``, ``done``, the word of what failed, "" while it is not known."""

    id: str
    model: str
    when: str
    for_s: float
    do: str
    program: str = ""
    dry_run: bool = True
    per_day: int = 1
    left: int = 1
    pause_s: float = 0.0
    lasting: Mapping[str, float] = field(default_factory=dict)
    last_at_ms: int | None = None
    last_subject: str = ""
    last_result: str = ""


class PlaybooksView(Protocol):
    def status(self) -> Sequence[PlaybookShown]: ...
