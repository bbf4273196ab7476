"""When rows are called broken, and how long it must be quiet before that or a suspicion is taken back. Pure.

Rows come in blocks. A block that shows something acts at once; only a run of quiet blocks takes it back, and the run
that is asked for doubles each time that the trouble comes back soon. So a feed that flaps is told a few times and not
every minute. One principal fills a few places of a block at most: alone it cannot make most of a block broken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import BaseModel, Field

from controlplane.drift.states import Event, Serving, State

PERCENT = 100


class BlockSettings(BaseModel, frozen=True, extra="forbid"):
    """What blocks of rows must show, and for how long they must be quiet."""

    rows: int = Field(default=50, ge=10, description="Counted rows that close a block.")
    offered_rows: int = Field(default=200, ge=10, description="Rows, counted or not, that close a block at the latest.")
    rows_per_principal: int = Field(default=5, ge=1, description="Rows of one principal that count in a block.")
    broken_percent: int = Field(
        default=5, ge=0, lt=100, description="Above this share of broken rows in a block, such rows get the fallback."
    )
    mostly_broken_percent: int = Field(
        default=50, ge=1, lt=100, description="Above this share of broken rows in a block, all rows get the fallback."
    )
    quiet_blocks: int = Field(default=10, ge=1, description="Blocks in a row that must be quiet before it is over.")
    longest_hold: int = Field(
        default=32, ge=1, description="Each relapse doubles the quiet blocks asked for, up to so many times of them."
    )


@dataclass(slots=True)
class Hysteresis:
    """The blocks of one model. Feed it every row; it says what happened, once, and when it is over."""

    settings: BlockSettings
    counted: Counter[str] = field(default_factory=Counter)
    offered: int = 0
    broken: int = 0
    suspected: bool = False  # something was told of this block
    quiet: int = 0  # quiet blocks in a row
    hold: int = 1  # how many times ``quiet_blocks`` is asked for
    has_fallen: bool = False  # it has been in trouble before: the next time may be a relapse

    def suspect(self, state: State) -> None:
        """Somebody else (a detector of inputs, the watch over labels) found something; this block is not quiet."""
        if not self.suspected:
            self._fall(state, self.quiet)
        self.suspected, self.quiet = True, 0

    def take(
        self, principal: str, broken: Iterable[bool], state: State, serving: Serving
    ) -> list[tuple[Event, Mapping[str, int | str]]]:
        """Rows of one call; the events they cause, each with what the ledger shall know of it."""
        events: list[tuple[Event, Mapping[str, int | str]]] = []
        for is_broken in broken:
            self.offered += 1
            if self.counted[principal] < self.settings.rows_per_principal:
                self.counted[principal] += 1
                self.broken += is_broken
            if self.counted.total() >= self.settings.rows or self.offered >= self.settings.offered_rows:
                event = self._event(state, serving)
                if event is not None:
                    events.append((event, self._evidence()))
                self._next_block()
        return events

    @property
    def needed(self) -> int:
        """Quiet blocks in a row that end the trouble."""
        return self.settings.quiet_blocks * self.hold

    def _event(self, state: State, serving: Serving) -> Event | None:
        is_broken = self._exceeds(self.settings.broken_percent)
        is_mostly = self._exceeds(self.settings.mostly_broken_percent)
        was_quiet = self.quiet
        self.quiet = 0 if is_broken or self.suspected else self.quiet + 1
        if state in (State.HEALTHY, State.WARN) and is_broken:
            self._fall(state, was_quiet)
            return Event.ROWS_MOSTLY_BROKEN if is_mostly else Event.ROWS_BROKEN
        if state is State.DATA_FAULT and is_mostly and serving is not Serving.FALLBACK:
            return Event.ROWS_MOSTLY_BROKEN
        if state in (State.WARN, State.DATA_FAULT) and self.quiet >= self.needed:
            return Event.QUIET if state is State.WARN else Event.ROWS_SOUND
        return None

    def _exceeds(self, percent: int) -> bool:
        """Of a whole block: a block of few counted rows proves little."""
        return self.broken * PERCENT > percent * self.settings.rows

    def _fall(self, state: State, was_quiet: int) -> None:
        """A relapse is what comes back before it was quiet twice as long as was asked for."""
        if state is not State.HEALTHY:
            return
        is_relapse = self.has_fallen and was_quiet < 2 * self.needed
        self.hold = min(self.settings.longest_hold, self.hold * 2) if is_relapse else 1
        self.has_fallen = True

    def _evidence(self) -> dict[str, int | str]:
        return {
            "block_rows": self.counted.total(),
            "broken_rows": self.broken,
            "principals": len(self.counted),
            "quiet_blocks": self.quiet,
            "quiet_blocks_needed": self.needed,
        }

    def _next_block(self) -> None:
        self.counted.clear()
        self.offered = self.broken = 0
        self.suspected = False

    def snapshot(self) -> dict[str, Any]:
        """Plain values from which ``resumed_hysteresis`` makes an equal one."""
        return {**asdict(self), "settings": None, "counted": dict(self.counted)}


def resumed_hysteresis(snapshot: Mapping[str, Any] | None, settings: BlockSettings) -> Hysteresis:
    if snapshot is None:
        return Hysteresis(settings)
    return Hysteresis(**{**snapshot, "settings": settings, "counted": Counter(snapshot["counted"])})
