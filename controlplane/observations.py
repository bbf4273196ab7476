"""What the monitor gets to see: successful predictions as they passed, and labels as they come back.

On the call path only references are kept; whoever reads them pays for their encoding. Bounded in number and in bytes:
a request may be large, and nobody may be reading.
"""

from __future__ import annotations

import base64
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from controlplane.calls import Call, Decision, Principal, Receipt
from controlplane.drift.ring import ObservationRing
from controlplane.gateway.gateway import Admission
from controlplane.gateway.outcome import Outcome
from controlplane.settings import ObservationSettings

PAGE_BYTES = 4 * 1024 * 1024  # of requests and replies in one page; encoding them keeps the event loop busy


@dataclass(frozen=True, slots=True)
class Prediction:
    call_id: str
    at_ms: int
    model: str
    version: int
    principal: str
    rung: str
    request: bytes
    reply: bytes

    @property
    def size_bytes(self) -> int:
        return len(self.request) + len(self.reply)

    def as_json(self) -> dict[str, Any]:
        return {
            "kind": "prediction",
            "call_id": self.call_id,
            "at_ms": self.at_ms,
            "model": self.model,
            "version": self.version,
            "principal": self.principal,
            "rung": self.rung,
            "request": base64.b64encode(self.request).decode(),
            "reply": base64.b64encode(self.reply).decode(),
        }


@dataclass(frozen=True, slots=True)
class Label:
    """Ground truth for row ``row`` of the prediction with id ``call_id``."""

    call_id: str
    row: int
    label: int
    size_bytes: ClassVar[int] = 0

    def as_json(self) -> dict[str, Any]:
        return {"kind": "label", "call_id": self.call_id, "row": self.row, "label": self.label}


class Observations:
    """An observer of calls. ``version_of`` gives the version that a call to a model means just now, 0 for none."""

    def __init__(
        self,
        settings: ObservationSettings,
        version_of: Callable[[Call], int],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._ring: ObservationRing[Prediction | Label] = ObservationRing(settings.capacity)
        self._settings, self._bytes, self._too_large = settings, 0, 0
        self._version_of, self._wall_clock = version_of, wall_clock
        self._boot = uuid.uuid4().hex  # sequence numbers mean something only within one life of this process

    def refused(self, call: Call, principal: Principal, decision: Decision, receipt: Receipt) -> None:
        """A refused call predicted nothing."""

    def admitted(self, admission: Admission) -> None:
        """Nothing is known yet."""

    def observe(self, admission: Admission, outcome: Outcome, *, recorded: bool) -> None:  # noqa: ARG002  protocol
        call = admission.call
        if call.operation != "Predict" or outcome.status != "ok" or len(outcome.body) != outcome.byte_count:
            return
        prediction = Prediction(
            call_id=admission.receipt.event_id,
            at_ms=int(self._wall_clock() * 1000),
            model=call.resource.rpartition("/")[2],
            version=self._version(call, outcome),
            principal=admission.principal.subject,
            rung=outcome.rung,
            request=call.body,
            reply=bytes(outcome.body),
        )
        self._keep(prediction)

    def _version(self, call: Call, outcome: Outcome) -> int:
        """The version that answered; on a lower rung the one that should have."""
        answered = outcome.served_by.rpartition("/")[2]
        return int(answered) if outcome.rung == "primary" and answered.isdigit() else self._version_of(call)

    def take_labels(self, labels: Sequence[Label]) -> None:
        for label in labels:
            self._keep(label)

    def _keep(self, item: Prediction | Label) -> None:
        if item.size_bytes > self._settings.capacity_bytes:
            self._too_large += 1
            return
        self._bytes += item.size_bytes
        while self._bytes > self._settings.capacity_bytes or len(self._ring) >= self._settings.capacity:
            forgotten = self._ring.forget_oldest()
            self._bytes -= forgotten.size_bytes if forgotten else 0
        self._ring.append(item)

    @property
    def dropped(self) -> int:
        """Observations that are gone so far, read or not."""
        return self._ring.overwritten + self._too_large

    def page(self, after: int, limit: int) -> dict[str, Any]:
        """At most ``limit`` observations that follow sequence number ``after``, and how many before them are lost.

        Fewer when they are large, but at least one while there is one.
        """
        found, lost = self._ring.after(after, limit)
        found = found[: _fitting(item for _, item in found)]
        listed = [{"seq": seq, **item.as_json()} for seq, item in found]
        return {"observations": listed, "next": found[-1][0] if found else after, "lost": lost, "boot": self._boot}


def _fitting(items: Iterable[Prediction | Label]) -> int:
    """How many of ``items`` go into one page."""
    total = 0
    for count, item in enumerate(items):
        total += item.size_bytes
        if total > PAGE_BYTES:
            return max(count, 1)
    return sys.maxsize
