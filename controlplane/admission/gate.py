"""One gate before one model server: counts who is in, lets the line move, says when to come back. Pure.

    enter     the quiet path: in, or not
    wait      a place in the line; perhaps somebody less urgent has to go for it
    leave     a call is over, whoever's turn it is goes in
    abandon   the caller hung up, waiting or just admitted
    expire    the place in the line was held as long as it may be

Every call that was let in leaves exactly once. Time is monotonic seconds and comes in as an argument. Use from one
thread: nothing here waits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Protocol

from controlplane.admission.limit import ConcurrencyLimit
from controlplane.admission.line import LEAST_URGENT, Agent, Standing, Ticket, WaitingLine
from controlplane.admission.settings import AdmissionSettings

MEAN_LEARNT = 0.1  # how much of the mean time of a call the newest one decides
TURN_LEARNT = 0.01  # slower: a turn that changed within one round would favour whoever comes after the long calls
PEAK_S = 30.0  # how far back a throttle looks for how busy it was
STALL = 4.0  # so many times the usual pause without a call leaving is a server that has slowed down
RETRY_LEAST_S, RETRY_MOST_S = 1.0, 60.0


class Watcher(Protocol):
    """Whoever counts. MUST NOT raise and MUST NOT block."""

    def waited(self, gate: str, seconds: float) -> None: ...
    def shed(self, gate: str, cause: str) -> None: ...


class Nobody:
    def waited(self, gate: str, seconds: float) -> None: ...
    def shed(self, gate: str, cause: str) -> None: ...


@dataclass(frozen=True, slots=True)
class GateStatus:
    """``limit`` is for urgent calls, ``room`` for all others: less than the limit while throttled."""

    name: str
    limit: int
    room: int
    running: int
    waiting: int
    throttle: int  # steps


class Gate:
    """Causes of shedding: ``queue_full``, ``displaced``, ``waited_too_long``, ``deadline``."""

    __slots__ = (
        "_base",
        "_full_s",
        "_left_s",
        "_peak",
        "_peak_before",
        "_peak_until_s",
        "_settings",
        "_watcher",
        "limit",
        "line",
        "mean_s",
        "name",
        "room",
        "running",
        "throttle_steps",
    )

    def __init__(self, name: str, settings: AdmissionSettings, watcher: Watcher | None = None) -> None:
        self.name, self._settings, self._watcher = name, settings, watcher or Nobody()
        self.limit, self.line = ConcurrencyLimit(settings), WaitingLine()
        self.running = self.throttle_steps = 0
        self.room = self._base = self.limit.calls
        self.mean_s = 0.0  # of a call, from entering to leaving; 0.0 while nothing is known
        self._left_s = self._full_s = 0.0  # when a call last left, when the line last began
        self._peak = self._peak_before = 0
        self._peak_until_s = float("-inf")

    def enter(self, priority: int) -> bool:
        """Whether the call is in. Whoever waits is always less urgent than the room allows, so nobody is overtaken."""
        if self.running < (self.limit.calls if priority <= self._settings.urgent_priority else self.room):
            self.running += 1
            return True
        return False

    def wait(self, ticket: Ticket, now_s: float) -> None:
        """A call that could not enter takes its place, or is shed here and now."""
        if not self.line:
            self._full_s = now_s
            self.line.turn_s = self.mean_s or self.line.turn_s
        if now_s >= ticket.expires_s:
            self._shed(ticket, "deadline", now_s)
            return
        if len(self.line) >= self._settings.queue_calls:
            last = self.line.last(ticket) if self.line else ticket
            if last is ticket:
                self._shed(ticket, "queue_full", now_s)
                return
            self.line.remove(last)
            self._shed(last, "displaced", now_s)
        self.line.add(ticket)

    def leave(self, took_s: float, now_s: float, ticket: Ticket | None = None) -> None:
        """A call that was in is over after ``took_s``; ``ticket`` when it had waited."""
        self._note_peak(now_s)
        self.running -= 1
        self._left_s = now_s
        self.mean_s += (took_s - self.mean_s) * (MEAN_LEARNT if self.mean_s else 1.0)
        if ticket is not None:
            self.line.settle(ticket.agent, ticket.charged_s, took_s)
        if self.line:
            self.line.turn_s += (self.mean_s - self.line.turn_s) * TURN_LEARNT
            self._move(now_s)

    def answered(self, latency_s: float, now_s: float) -> None:
        """The server's first byte came ``latency_s`` after it was asked."""
        self.limit.saw(latency_s, self.running, now_s)
        self._set_room()
        if self.line:
            self._move(now_s)

    def complained(self, now_s: float) -> None:
        """The server said that it has too much, or did not answer in time."""
        self.limit.complained(now_s)
        self._set_room()

    def abandon(self, ticket: Ticket, now_s: float) -> None:
        """The caller hung up before it began."""
        if ticket.standing is Standing.WAITING:
            self.line.remove(ticket)
        elif ticket.standing is Standing.ADMITTED:
            self.running -= 1
            self.line.settle(ticket.agent, ticket.charged_s, 0.0)
            self._move(now_s)
        ticket.standing = Standing.GONE

    def expire(self, ticket: Ticket, now_s: float) -> None:
        if ticket.standing is Standing.WAITING:
            self.line.remove(ticket)
            self._shed(ticket, "waited_too_long", now_s)

    def throttle(self, steps: int, now_s: float) -> None:
        """Leave to calls that are not urgent a share of what was running, smaller with every step; 0 lifts it."""
        if steps and not self.throttle_steps:
            self._note_peak(now_s)
            self._base = max(1, self._peak, self._peak_before)
        self.throttle_steps = steps
        self._set_room()
        self._move(now_s)

    def patience_s(self, timeout_s: float) -> float:
        """How long a call may wait and still be answered in its time, as far as is known."""
        return min(self._settings.queue_wait_s, timeout_s - self.limit.baseline_s)

    def retry_after_s(self, priority: int, now_s: float) -> float:
        """When a call of ``priority`` would have its turn, from how fast the line really moves."""
        room = self.limit.calls if priority <= self._settings.urgent_priority else self.room
        pause_s, silent_s = self.mean_s / room, now_s - max(self._left_s, self._full_s)
        if silent_s > pause_s * STALL:
            pause_s = silent_s
        return min(RETRY_MOST_S, max(RETRY_LEAST_S, (self.line.ahead_of(priority) + 1) * pause_s))

    def note_wait(self, seconds: float) -> None:
        self._watcher.waited(self.name, seconds)

    def status(self) -> GateStatus:
        return GateStatus(self.name, self.limit.calls, self.room, self.running, len(self.line), self.throttle_steps)

    def _move(self, now_s: float) -> None:
        """Everybody whose turn it is goes in."""
        while self.line and self.running < self.limit.calls:
            urgent_only = self.running >= self.room
            ticket = self.line.next(self._settings.urgent_priority if urgent_only else LEAST_URGENT)
            if ticket is None:
                return
            if now_s >= ticket.expires_s:
                self.line.settle(ticket.agent, ticket.charged_s, 0.0)
                self._shed(ticket, "waited_too_long", now_s)
                continue
            self.running += 1
            ticket.standing = Standing.ADMITTED
            ticket.settled(ticket)

    def _shed(self, ticket: Ticket, cause: str, now_s: float) -> None:
        ticket.standing, ticket.cause = Standing.SHED, cause
        ticket.retry_after_s = self.retry_after_s(ticket.priority, now_s)
        self._watcher.shed(self.name, cause)
        ticket.settled(ticket)

    def _set_room(self) -> None:
        if not self.throttle_steps:
            self.room = self.limit.calls
            return
        share = ceil(self._base * self._settings.throttle_ratio**self.throttle_steps)
        self.room = min(self.limit.calls, max(1, share))

    def _note_peak(self, now_s: float) -> None:
        if now_s >= self._peak_until_s:
            self._peak_before, self._peak = self._peak, 0
            self._peak_until_s = now_s + PEAK_S
        self._peak = max(self._peak, self.running)


def ticket_for(agent: Agent, priority: int, expires_s: float, settled: Callable[[Ticket], None]) -> Ticket:
    """Priorities are 0 to 9, whatever a caller of ours believes."""
    return Ticket(agent, min(LEAST_URGENT, max(0, priority)), expires_s, settled)
