"""Self-healing by the book: a fault that lasts gets its answer, recorded before it is given, and not too often.

The ledger is the memory. A run is a ``playbook.run`` record, then the deed, then a ``playbook.done`` record; who died
in between finds the run, counts it, and does not repeat it: the fault itself, if it lasts, asks again after the pause.
So a restart in a loop is impossible by counting. Dry by default: then the record is all there is. Fails closed: not
recorded, therefore not done. A deed that fails is recorded as failed and hurts nobody.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import anyio
import anyio.to_thread

from audit import AuditUnavailable, Record
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


class Ledger(Protocol):
    """``audit.SqliteLedger``."""

    async def append(self, kind: str, body: Mapping[str, Any]) -> Any: ...
    def read(self, after: int = -1, limit: int = PAGE, *, kinds: Sequence[str] | None = None) -> list[Record]: ...


Perform = Callable[[Playbook, Fault], Awaitable[None]]
"""Does a deed, which MUST be harmless when it was done before. Raises ``DeedFailed`` and nothing else."""


class Ran(NamedTuple):
    playbook: str
    subject: str
    at_ms: int


@dataclass(slots=True)
class Playbooks:
    """``faults`` says what is wrong just now; it must not wait for anything."""

    settings: PlaybookSettings
    ledger: Ledger
    faults: Callable[[], Iterable[Fault]]
    perform: Mapping[Deed, Perform]
    monotonic: Callable[[], float] = time.monotonic
    wall_clock: Callable[[], float] = time.time
    _since: dict[tuple[str, Fault], float] = field(default_factory=dict)
    _ran: list[Ran] = field(default_factory=list)

    def resume(self) -> None:
        """Take the last day's runs from the ledger. Blocking; call before ``run``."""
        after = -1
        while records := self.ledger.read(after, PAGE, kinds=[RUN]):
            after = records[-1].index
            said = [(record.body["playbook"], record.time_ms) for record in records]
            self._ran += [Ran(run["id"], run["subject"], at_ms) for run, at_ms in said]
        self._forget_old()

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

    def _may_run(self, book: Playbook, fault: Fault) -> bool:
        self._forget_old()
        now_ms, mine = self._now_ms(), [ran for ran in self._ran if ran.playbook == book.id]
        rested = all(now_ms - ran.at_ms >= book.pause_s * 1000 for ran in mine if ran.subject == fault.subject)
        return rested and len(mine) < book.per_day

    def _forget_old(self) -> None:
        now_ms = self._now_ms()
        self._ran = [ran for ran in self._ran if now_ms - ran.at_ms < DAY_MS]

    async def _follow(self, book: Playbook, fault: Fault) -> None:
        said: dict[str, Any] = {"id": book.id, "model": book.model, "subject": fault.subject, "when": fault.when}
        said |= {"do": book.do, "dry_run": int(book.dry_run)}
        self._ran.append(Ran(book.id, fault.subject, self._now_ms()))  # also when the record fails: it may have landed
        receipt = await self.ledger.append(RUN, {"playbook": said})
        log.warning("playbook", extra=said)
        if book.dry_run:
            return
        outcome = "done"
        try:
            await self.perform[book.do](book, fault)
        except DeedFailed as failure:
            outcome = failure.reason
            log.warning("a playbook's deed failed: %s", failure, extra={"playbook": book.id})
        await self.ledger.append(DONE, {"playbook": {"run": receipt.event_id, "id": book.id, "outcome": outcome}})

    def _now_ms(self) -> int:
        return int(self.wall_clock() * 1000)
