"""What the monitor gets to see: successful predictions as they passed, and labels as they come back.

On the call path only references are kept; whoever reads them pays for their encoding.
"""

from __future__ import annotations

import base64
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from controlplane.calls import Call, Decision, Principal, Receipt
from controlplane.drift.ring import ObservationRing
from controlplane.gateway.gateway import Admission
from controlplane.gateway.outcome import Outcome


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

    def as_json(self) -> dict[str, Any]:
        return {"kind": "label", "call_id": self.call_id, "row": self.row, "label": self.label}


class Observations:
    """An observer of calls. ``version_of`` gives the version that a call to a model means just now, 0 for none."""

    def __init__(
        self,
        capacity: int,
        version_of: Callable[[Call], int],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._ring: ObservationRing[Prediction | Label] = ObservationRing(capacity)
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
        self._ring.append(prediction)

    def _version(self, call: Call, outcome: Outcome) -> int:
        """The version that answered; on a lower rung the one that should have."""
        answered = outcome.served_by.rpartition("/")[2]
        return int(answered) if outcome.rung == "primary" and answered.isdigit() else self._version_of(call)

    def take_labels(self, labels: Sequence[Label]) -> None:
        for label in labels:
            self._ring.append(label)

    @property
    def dropped(self) -> int:
        """Observations overwritten so far, read or not."""
        return self._ring.overwritten

    def page(self, after: int, limit: int) -> dict[str, Any]:
        """At most ``limit`` observations that follow sequence number ``after``, and how many before them are lost."""
        found, lost = self._ring.after(after, limit)
        listed = [{"seq": seq, **item.as_json()} for seq, item in found]
        return {"observations": listed, "next": found[-1][0] if found else after, "lost": lost, "boot": self._boot}
