"""What the monitor gets to see: predictions as they passed, labels as they come back, signals of every model call.

On the call path only references are kept; whoever reads them pays for their encoding. Bounded in number and in bytes:
a request may be large, and nobody may be reading. What never reaches a reader is counted by its reason.
"""

from __future__ import annotations

import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from controlplane.calls import Call
from controlplane.drift.observed import Item, Label, Page, Passed, Signals, encode
from controlplane.drift.ring import ObservationRing
from controlplane.gateway.gateway import Admission
from controlplane.gateway.observers import Bystander
from controlplane.gateway.outcome import Outcome
from controlplane.settings import ObservationSettings

__all__ = ["Label", "Observations"]

PAGE_BYTES = 4 * 1024 * 1024  # of requests and replies in one page; encoding them keeps the event loop busy
OVERWRITTEN, TOO_LARGE, NOT_WHOLE = "overwritten", "too_large", "not_whole"
VERSIONS = 1_000  # whose numbers are remembered
ILL_FORMED = frozenset({"invalid_argument", "rows_out_of_range"})
"""Errors of a prediction whose rows, not whose model, were wrong."""


class Listener(Protocol):
    """Takes calls to language models apart, later and elsewhere (``llm_signals.py``)."""

    def offer(self, admission: Admission, outcome: Outcome) -> None:
        """MUST only keep references."""
        ...


class Deaf:
    def offer(self, admission: Admission, outcome: Outcome) -> None:
        """Nobody listens."""


class Observations(Bystander):
    """An observer of calls. ``version_of`` gives the version that a call to a model means just now, 0 for none."""

    def __init__(
        self,
        settings: ObservationSettings,
        version_of: Callable[[Call], int],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._ring: ObservationRing[Item] = ObservationRing(settings.capacity, settings.capacity_bytes)
        self._capacity_bytes, self._read, self._counted = settings.capacity_bytes, 0, 0
        self._version_of, self._wall_clock = version_of, wall_clock
        self._boot = uuid.uuid4().hex  # sequence numbers mean something only within one life of this process
        self._skipped: Mapping[str, Mapping[str, int]] = {}
        self._asked_s = wall_clock()
        self.guarded: Callable[[], Mapping[str, Mapping[str, int]]] = dict
        self._versions: dict[str, int] = {}  # by who answered; 0 for who says none
        self._dropped: Counter[str] = Counter({OVERWRITTEN: 0, TOO_LARGE: 0, NOT_WHOLE: 0})
        self.listener: Listener = Deaf()

    def observe(self, admission: Admission, outcome: Outcome, *, recorded: bool) -> None:  # noqa: ARG002  protocol
        call = admission.call
        if call.operation != "Predict":
            self.listener.offer(admission, outcome)
        elif outcome.status != "ok":
            self._keep_failed(admission, outcome)
        elif outcome.kept_bytes != outcome.byte_count:
            self._dropped[NOT_WHOLE] += 1
        else:
            self._keep(self._passed(call, admission, outcome), len(call.body) + outcome.byte_count)

    def _passed(self, call: Call, admission: Admission, outcome: Outcome) -> Passed:
        return Passed(
            admission.receipt.event_id,
            int(self._wall_clock() * 1000),
            call.resource.rpartition("/")[2],
            self.version(call, outcome),
            admission.principal.subject,
            outcome.rung,
            int((outcome.ended_s - outcome.started_s) * 1e6),
            outcome.cost.get("micro_usd", 0),
            call.body,
            tuple(outcome.kept),
        )

    def _keep_failed(self, admission: Admission, outcome: Outcome) -> None:
        """Who hung up says nothing about the model."""
        values = {"timeout": float(outcome.status == "timeout")}
        if outcome.error in ILL_FORMED:
            values["schema"] = 1.0
        if outcome.status == "timeout" or len(values) > 1:
            self.keep(self.signals(admission, outcome, values))

    def signals(self, admission: Admission, outcome: Outcome, values: dict[str, float]) -> Signals:
        call = admission.call
        return Signals(
            admission.receipt.event_id,
            int(self._wall_clock() * 1000),
            call.resource.rpartition("/")[2],
            self.version(call, outcome),
            admission.principal.subject,
            outcome.rung,
            values,
        )

    def version(self, call: Call, outcome: Outcome) -> int:
        """The version that answered; on a lower rung the one that should have."""
        if outcome.rung != "primary":
            return self._version_of(call)
        number = self._versions.get(outcome.served_by)
        if number is None:
            number = self._learn_version(outcome.served_by)
        return number or self._version_of(call)

    def _learn_version(self, served_by: str) -> int:
        said = served_by.rpartition("/")[2]
        if len(self._versions) >= VERSIONS:
            self._versions.clear()
        return self._versions.setdefault(served_by, int(said) if said.isdigit() else 0)

    def take_labels(self, labels: Sequence[Label]) -> None:
        for label in labels:
            self.keep(label)

    def keep(self, item: Item) -> None:
        self._keep(item, item.size_bytes)

    def _keep(self, item: Item, size: int) -> None:
        if size > self._capacity_bytes:
            self._dropped[TOO_LARGE] += 1
        else:
            self._ring.append(item, size)

    @property
    def dropped(self) -> int:
        """Observations that are gone and that nobody has read."""
        return sum(self.dropped_by_reason.values())

    def status(self) -> dict[str, Any]:
        """What is held and what was lost, for people."""
        return {
            "boot": self._boot,
            "newest": self._ring.newest,
            "read": self._read,
            "unread_s": round(self.unread_s, 1),
            "held": len(self._ring),
            "held_bytes": self._ring.held_bytes,
            "dropped": dict(self.dropped_by_reason),
            "skipped": self._skipped,
            "guarded": self.guarded(),
        }

    def note_skipped(self, said: Mapping[str, Mapping[str, int]]) -> None:
        """What the monitor says that it read and did not count, by model and reason."""
        self._skipped = said

    @property
    def unread_s(self) -> float:
        """How long ago somebody last asked for observations; since the start where nobody has."""
        return max(0.0, self._wall_clock() - self._asked_s)

    @property
    def dropped_by_reason(self) -> Mapping[str, int]:
        self._count_overwritten()
        return self._dropped

    def _count_overwritten(self) -> None:
        """What left the ring since the last time and is newer than what had been read then.

        Not counted where it happens: that is on the path of a call.
        """
        gone = self._ring.overwritten
        self._dropped[OVERWRITTEN] += max(0, gone - max(self._counted, self._read))
        self._counted = gone

    def page(self, after: int, limit: int) -> dict[str, Any]:
        """At most ``limit`` observations that follow sequence number ``after``, and how many before them are lost.

        Fewer when they are large, but at least one while there is one.
        """
        page = self._page(after, limit)
        listed = [{"seq": seq, **item.as_json()} for seq, item in enumerate(page.items, page.first)]
        return {"observations": listed, "next": page.next, "lost": page.lost, "boot": page.boot}

    def packed(self, after: int, limit: int) -> bytes:
        """The same as msgpack of ``drift.observed.Page``."""
        return encode(self._page(after, limit))

    def _page(self, after: int, limit: int) -> Page:
        self._asked_s = self._wall_clock()
        if self._read < after <= self._ring.newest:
            self._read = after  # who asks for what follows has got what was before
        self._count_overwritten()
        found, lost = self._ring.after(after, limit)
        found = found[: _fitting(item for _, item in found)]
        first, newest = (found[0][0], found[-1][0]) if found else (after + 1, after)
        return Page([item for _, item in found], first, newest, lost, self._boot)


def _fitting(items: Iterable[Item]) -> int:
    """How many of ``items`` go into one page."""
    total = 0
    for count, item in enumerate(items):
        total += item.size_bytes
        if total > PAGE_BYTES:
            return max(count, 1)
    return sys.maxsize
