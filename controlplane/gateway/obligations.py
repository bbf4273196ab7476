"""What an allow may oblige us to do, by name. A table, because every entry has one shape and the set is open.

Fails closed: an unknown obligation, a malformed one or one that cannot be met turns the allow into a deny.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field

from msgspec.structs import replace

from controlplane.calls import Call, Decision, Effect, Obligation, Principal
from inference.backend import BackendReply

Meet = Callable[[Principal, Call, Obligation], Call]
"""Before the call goes out: the call as it may go out. Raises ``ObligationUnmet``."""

Release = Callable[[Call, Obligation, AsyncGenerator[bytes]], AsyncGenerator[bytes]]
"""On the way back: the bytes as the agent may see them."""


class ObligationUnmet(Exception):
    """An obligation that cannot be met; ``reason`` is a stable word such as ``rate_limited``."""

    def __init__(self, reason: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.reason, self.retry_after_s = reason, retry_after_s


@dataclass(frozen=True, slots=True)
class Obligations:
    """The obligations this enforcement point can discharge."""

    before: Mapping[str, Meet]
    after: Mapping[str, Release] = field(default_factory=dict)

    def meet(self, decision: Decision, principal: Principal, call: Call) -> tuple[Decision, Call]:
        """An allow whose obligations are met, with the call they shaped; or a deny, with the call untouched."""
        if not decision.permits:
            return decision, call
        shaped = call
        try:
            for obligation in decision.obligations:
                meet = self.before.get(obligation.name, unknown)
                shaped = meet(principal, shaped, obligation)
        except ObligationUnmet as unmet:
            return denied(decision, unmet.reason, unmet.retry_after_s), call
        except Exception:  # noqa: BLE001  a discharge that breaks has not been met
            return denied(decision, "obligation_failed"), call
        return decision, shaped

    def release(self, decision: Decision, call: Call, reply: BackendReply) -> BackendReply:
        """The reply as the agent may see it. Whoever may change the bytes leaves their number open."""
        chunks = reply.chunks
        for obligation in decision.obligations:
            if obligation.name in self.after:
                chunks = self.after[obligation.name](call, obligation, chunks)
        if chunks is reply.chunks:
            return reply
        headers = tuple(header for header in reply.headers if header[0].lower() != "content-length")
        return replace(reply, headers=headers, chunks=chunks)


def unknown(principal: Principal, call: Call, obligation: Obligation) -> Call:  # noqa: ARG001  the shape of all
    raise ObligationUnmet("unknown_obligation")


def denied(decision: Decision, reason: str, retry_after_s: float | None = None) -> Decision:
    return replace(decision, effect=Effect.DENY, reason=reason, retry_after_s=retry_after_s)


def with_duty(decision: Decision, duty: Obligation) -> Decision:
    """The decision with what has become of its duty of this name."""
    met = tuple(duty if each.name == duty.name else each for each in decision.obligations)
    return replace(decision, obligations=met)
