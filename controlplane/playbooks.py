"""Self-healing by the book: a fault that lasts gets its answer, recorded before it is given, and not too often.

The ledger is the memory. A run is a ``playbook.run`` record, then the deed, then a ``playbook.done`` record; who died
in between finds the run, counts it, and does not repeat it: the fault itself, if it lasts, asks again after the pause.
So a restart in a loop is impossible by counting. Dry by default: then the record is all there is. Fails closed: not
recorded, therefore not done. A deed that fails is recorded as failed and hurts nobody.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import anyio
import anyio.to_thread

from audit import AuditUnavailable, ReadableLedger, Record
from controlplane.playbook_settings import Deed, Playbook, PlaybookSettings, Trigger

RUN, DONE = "playbook.run", "playbook.done"
DAY_MS, PAGE = 24 * 3600 * 1000, 1000
log = logging.getLogger(__name__)


class Fault(NamedTuple):
    """Something that is wrong just now; ``subject`` is the breaker or the replica."""

    when: Trigger
    model: str
    subject: str


class DeedFailed(Exception):
    """``reason`` is a stable word for the ledger."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(detail or reason)
        self.reason = reason


Perform = Callable[[Playbook, Fault], Awaitable[None]]
"""Does a deed, which MUST be harmless when it was done before. Raises ``DeedFailed`` and nothing else."""


class Ran(NamedTuple):
    playbook: str
    subject: str
    at_ms: int


class Last(NamedTuple):
    """The latest run of a playbook. ``result`` is ``dry_run``, ``done``, the word of what failed, or "": it is being
    done, or whoever did it died of it."""

    run: Ran
    result: str


class Observe(Protocol):
    """``telemetry.Metrics``."""

    def observe_playbook(self, *, playbook: str, result: str) -> None: ...
    def observe_playbook_left(self, *, playbook: str, left: int) -> None: ...


@dataclass(slots=True)
class Playbooks:
    """``faults`` says what is wrong just now; it must not wait for anything."""

    settings: PlaybookSettings
    ledger: ReadableLedger
    faults: Callable[[], Iterable[Fault]]
    perform: Mapping[Deed, Perform]
    monotonic: Callable[[], float] = time.monotonic
    wall_clock: Callable[[], float] = time.time
    metrics: Observe | None = None
    _since: dict[tuple[str, Fault], float] = field(default_factory=dict)
    _ran: list[Ran] = field(default_factory=list)
    _last: dict[str, Last] = field(default_factory=dict)

    def resume(self) -> None:
        """Take the last day's runs, and each playbook's latest, from the ledger. Blocking; call before ``run``."""
        after = -1
        while records := self.ledger.read(after, PAGE, kinds=[RUN, DONE]):
            after = records[-1].index
            for record in records:
                self._take(record)
        self._forget_old()

    def _take(self, record: Record) -> None:
        said = record.body["playbook"]
        if record.kind == RUN:
            run = Ran(said["id"], said["subject"], record.time_ms)
            self._ran.append(run)
            self._last[run.playbook] = Last(run, "dry_run" if said["dry_run"] else "")
        elif said["id"] in self._last:
            self._last[said["id"]] = self._last[said["id"]]._replace(result=said["outcome"])

    def left(self, book: Playbook) -> int:
        """How often it may still run, of what it may in a day."""
        self._forget_old()
        return max(0, book.per_day - sum(ran.playbook == book.id for ran in self._ran))

    def last(self, book: Playbook) -> Last | None:
        return self._last.get(book.id)

    def lasting(self, book: Playbook) -> Mapping[str, float]:
        """What is at fault just now, as of the latest look: subject to seconds."""
        now_s = self.monotonic()
        return {fault.subject: now_s - since_s for (name, fault), since_s in self._since.items() if name == book.id}

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self.turn()
            except AuditUnavailable as error:
                log.warning("no playbook is followed while nothing can be recorded: %s", error)
            await anyio.sleep(self.settings.check_s)

    async def turn(self) -> None:
        """Look once. Raises ``AuditUnavailable``: what could not be recorded was not done."""
        faults, now_s = list(self.faults()), self.monotonic()
        lasting = {
            (book.id, fault): self._since.get((book.id, fault), now_s)
            for book in self.settings.playbooks
            for fault in faults
            if (book.when, book.model) == (fault.when, fault.model)
        }
        self._since = lasting  # what is gone must last anew
        for book in self.settings.playbooks:
            for (name, fault), since_s in lasting.items():
                if name == book.id and now_s - since_s >= book.for_s and self._may_run(book, fault):
                    await self._follow(book, fault)
            if self.metrics is not None:
                self.metrics.observe_playbook_left(playbook=book.id, left=self.left(book))

    def _may_run(self, book: Playbook, fault: Fault) -> bool:
        left, now_ms = self.left(book), self._now_ms()
        mine = [ran for ran in self._ran if (ran.playbook, ran.subject) == (book.id, fault.subject)]
        return left > 0 and all(now_ms - ran.at_ms >= book.pause_s * 1000 for ran in mine)

    def _forget_old(self) -> None:
        now_ms = self._now_ms()
        self._ran = [ran for ran in self._ran if now_ms - ran.at_ms < DAY_MS]

    async def _follow(self, book: Playbook, fault: Fault) -> None:
        said: dict[str, Any] = {"id": book.id, "model": book.model, "subject": fault.subject, "when": fault.when}
        said |= {"do": book.do, "dry_run": int(book.dry_run)}
        run = Ran(book.id, fault.subject, self._now_ms())
        self._ran.append(run)  # also when the record fails: it may have landed
        receipt = await self.ledger.append(RUN, {"playbook": said})
        log.warning("playbook", extra=said)
        self._last[book.id] = Last(run, "")
        if book.dry_run:
            self._ended(run, "dry_run")
            return
        outcome = "done"
        try:
            await self.perform[book.do](book, fault)
        except DeedFailed as failure:
            outcome = failure.reason
            log.warning("a playbook's deed failed: %s", failure, extra={"playbook": book.id})
        self._ended(run, outcome)
        await self.ledger.append(DONE, {"playbook": {"run": receipt.event_id, "id": book.id, "outcome": outcome}})

    def _ended(self, run: Ran, result: str) -> None:
        self._last[run.playbook] = Last(run, result)
        if self.metrics is not None:
            self.metrics.observe_playbook(playbook=run.playbook, result=result)

    def _now_ms(self) -> int:
        return int(self.wall_clock() * 1000)
