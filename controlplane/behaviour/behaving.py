"""Behaviour in the path of a call: around the policy that decides and around the ledger that records.

    Behaving     policy decides first; behaviour may turn its allow into a deny, never the other way
    Remembering  a verdict is durable before the call that it is about, and so before it takes effect;
                 what is durable is what the agent did

Fails closed: behaviour that breaks denies, a verdict that cannot be recorded keeps its call from going out.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from msgspec.structs import replace

from controlplane.behaviour.verdicts import DEFECT, KIND, Verdict
from controlplane.behaviour.watch import Watch
from controlplane.calls import Call, Decision, Effect, Principal, Receipt

log = logging.getLogger(__name__)

Record = Callable[[str, Mapping[str, Any]], Awaitable[object]]
"""(kind, body) → durable on return; raises when it cannot be. Whole numbers and words only."""

Admitted_contra = TypeVar("Admitted_contra", contravariant=True)
Outcome_contra = TypeVar("Outcome_contra", contravariant=True)


class DecisionPoint(Protocol):
    """``gateway.DecisionPoint``."""

    def decide(self, principal: Principal, call: Call, now_s: float) -> Decision: ...


class Recorder(Protocol[Admitted_contra, Outcome_contra]):
    """``gateway.Recorder``."""

    async def record_intent(self, call: Call, principal: Principal, decision: Decision) -> Receipt: ...
    async def record_outcome(self, admission: Admitted_contra, outcome: Outcome_contra) -> Receipt: ...


@dataclass(frozen=True, slots=True)
class Behaving:
    """The policy, and what the agent's own behaviour says."""

    inner: DecisionPoint
    watch: Watch

    def decide(self, principal: Principal, call: Call, now_s: float) -> Decision:
        decision = self.inner.decide(principal, call, now_s)
        try:
            return self.watch.judge(principal, call, decision, now_s)
        except Exception as error:  # noqa: BLE001  a defect in here must deny, whatever it is
            log.error("behaviour defect: %s", type(error).__name__)  # noqa: TRY400  a traceback would show arguments
            return (
                replace(decision, effect=Effect.DENY, reason=DEFECT, obligations=()) if decision.permits else decision
            )


class Remembering(Recorder[Admitted_contra, Outcome_contra]):
    """The recorder, and before it the verdicts about each call."""

    def __init__(
        self,
        inner: Recorder[Admitted_contra, Outcome_contra],
        watch: Watch,
        record: Record,
        wall_clock: Callable[[], float],
    ) -> None:
        self._inner, self._watch, self._record, self._wall_clock = inner, watch, record, wall_clock

    async def record_intent(self, call: Call, principal: Principal, decision: Decision) -> Receipt:
        try:
            verdicts = self._watch.owed(call.id)
            if verdicts:
                await self._put_on_record(verdicts)
            receipt = await self._inner.record_intent(call, principal, decision)
        except BaseException:
            self._watch.dropped(call.id)
            raise
        if decision.permits:
            self._watch.recorded(call, principal, self._wall_clock())
        else:
            self._watch.dropped(call.id)
        return receipt

    def record_outcome(self, admission: Admitted_contra, outcome: Outcome_contra) -> Coroutine[Any, Any, Receipt]:
        return self._inner.record_outcome(admission, outcome)

    async def _put_on_record(self, verdicts: list[Verdict]) -> None:
        for place, verdict in enumerate(verdicts):
            try:
                await self._record(KIND, verdict.body())
            except BaseException:
                self._watch.owes(verdicts[place:])
                raise
            log.warning("behaviour", extra=verdict.body()["behaviour"])
