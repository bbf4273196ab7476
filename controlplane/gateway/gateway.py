"""The policy enforcement point: the product's sentence, in two acts.

    admit   authenticate → authorize → record the intent     (may still answer with a status code)
    relay   call → record the outcome → observe              (the first byte is out; it can only end)

Every door ends here; there is no other way to a backend. Fails closed: no proven identity, no decision or no
durable intent means that no byte leaves. Knows no HTTP, JWT, YAML or file format; see ``wiring.py`` for who is who.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from msgspec import Struct
from msgspec.structs import replace

from audit import AuditUnavailable
from controlplane.calls import Call, Decision, Obligation, Principal, Receipt
from controlplane.gateway.obligations import Obligations, denied
from controlplane.gateway.outcome import Outcome
from inference.backend import BackendReply
from inference.errors import BackendError, BackendTimeout
from inference.leaving import leave
from inference.whole import Whole

BUDGET, APPROVAL = "budget", "require_approval"
"""The duties that are met after all others, in this order: they look at the call as those have shaped it, and may have
to wait. Nobody is asked to approve what cannot be paid."""


class Denied(Exception):
    """Policy refused; the refusal is already in the ledger. Not a failure."""

    def __init__(self, decision: Decision, receipt: Receipt) -> None:
        super().__init__(decision.reason)
        self.decision, self.receipt = decision, receipt


class Admission(Struct, frozen=True):
    """A call that may go out: decided, its obligations met, its intent durable."""

    call: Call
    principal: Principal
    decision: Decision
    receipt: Receipt
    arrived_at_s: float  # monotonic seconds, as admitted_at_s
    admitted_at_s: float


class Identity(Protocol):
    async def authenticate(self, credential: str) -> Principal:
        """MUST raise ``Unauthenticated`` or ``IdentityUnavailable`` unless the credential proves someone."""
        ...


class DecisionPoint(Protocol):
    def decide(self, principal: Principal, call: Call, now_s: float) -> Decision:
        """Pure; MUST NOT raise: whatever goes wrong inside is a deny with its reason."""
        ...


class Recorder(Protocol):
    """A cancellation MUST NOT cut recording short, only follow it: an agent that hangs up meanwhile must not leave us
    unsure what is on disk. Both answer within two seconds (the ledger's stall limit), by raising ``AuditUnavailable``
    when it could not be made durable.
    """

    async def record_intent(self, call: Call, principal: Principal, decision: Decision) -> Receipt: ...
    async def record_outcome(self, admission: Admission, outcome: Outcome) -> Receipt: ...


class Dispatch(Protocol):
    def send(self, admission: Admission) -> AbstractAsyncContextManager[BackendReply]:
        """Find the backend for an admitted call and send it there (see ``inference.backend.Backend``)."""
        ...


class Observer(Protocol):
    """Whoever watches: metrics, traces, drift. MUST NOT raise and MUST NOT block."""

    def refused(self, call: Call, principal: Principal, decision: Decision, receipt: Receipt) -> None: ...
    def admitted(self, admission: Admission) -> None: ...
    def observe(self, admission: Admission, outcome: Outcome, *, recorded: bool) -> None: ...


class Budget(Protocol):
    """Money held back for a call before it goes out. What it cost after all is settled by whoever observes it."""

    async def hold(self, decision: Decision, principal: Principal, call: Call) -> Decision:
        """An allow with what is held back for it, or a deny. MUST NOT raise: what cannot be told is a deny."""
        ...

    def give_back(self, decision: Decision, principal: Principal) -> None:
        """The call never goes out. MUST NOT raise."""
        ...


class NoBudget:
    """Nobody counts money here, so a rule that sets a budget allows nothing."""

    async def hold(self, decision: Decision, principal: Principal, call: Call) -> Decision:  # noqa: ARG002  protocol
        return without(BUDGET, decision)

    def give_back(self, decision: Decision, principal: Principal) -> None:
        """Nothing was held."""


class Approvals(Protocol):
    """What people have agreed to."""

    async def hold(self, decision: Decision, principal: Principal, call: Call) -> Decision:
        """An allow with the approval that this call has used up, or a deny that says whom to ask.

        Raises ``AuditUnavailable``: an approval that cannot be recorded as used is not used.
        """
        ...


class NoApprovals:
    """Nobody can be asked here, so a rule that wants an approval allows nothing."""

    async def hold(self, decision: Decision, principal: Principal, call: Call) -> Decision:  # noqa: ARG002  protocol
        return without(APPROVAL, decision)


def duty_in(decision: Decision, name: str) -> Obligation | None:
    for each in decision.obligations:
        if each.name == name:
            return each
    return None


def without(duty: str, decision: Decision) -> Decision:
    """The decision where nobody can meet this duty."""
    if decision.permits and duty_in(decision, duty) is not None:
        return denied(decision, "unknown_obligation")
    return decision


NO_BUDGET, NO_APPROVALS = NoBudget(), NoApprovals()


def as_asked(principal: Principal, call: Call) -> Call:  # noqa: ARG001  the shape of every choice
    return call


def free(admission: Admission, outcome: Outcome) -> Mapping[str, int]:  # noqa: ARG001  the shape of every price list
    return {}


@dataclass(frozen=True, slots=True)
class Gateway:
    """``choose`` names the model where the caller asked for a task, before policy decides; a call that it cannot choose
    for it stays as it is. ``price`` says what a finished call cost, in whole numbers for the ledger. Neither raises.
    """

    identity: Identity
    policy: DecisionPoint
    obligations: Obligations
    ledger: Recorder
    backends: Dispatch
    observer: Observer
    choose: Callable[[Principal, Call], Call] = as_asked
    price: Callable[[Admission, Outcome], Mapping[str, int]] = free
    budget: Budget = NO_BUDGET
    approvals: Approvals = NO_APPROVALS
    wall_clock: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic

    async def admit(self, credential: str, read_call: Callable[[], Awaitable[Call]]) -> Admission:
        """Decide whether a call may go out, and make the decision durable before saying so.

        ``read_call`` parses the request; it is awaited only for a proven caller, so strangers cannot make us parse.

        Raises:
            Unauthenticated: the credential proves nobody. Not in the ledger, or strangers could fill it.
            Denied: policy refused, or an obligation could not be met; the refusal is in the ledger.
            LedgerUnavailable: the intent could not be made durable, so nothing may happen.
        """
        principal = await self.identity.authenticate(credential)
        call = await read_call()
        return await self.admit_call(principal, call)

    async def admit_call(self, principal: Principal, call: Call) -> Admission:
        """``admit`` from the point where the caller is proven (an MCP batch holds several calls)."""
        arrived_at_s = self.monotonic()
        call = self.choose(principal, call)
        decision = self.policy.decide(principal, call, self.wall_clock())
        decision, call = self.obligations.meet(decision, principal, call)
        decision = await self.budget.hold(decision, principal, call)
        try:
            decision = await self.approvals.hold(decision, principal, call)
            receipt = await self.ledger.record_intent(call, principal, decision)
        except BaseException:
            self.budget.give_back(decision, principal)
            raise
        if not decision.permits:
            self.budget.give_back(decision, principal)  # there was room, and nobody has approved it
            self.observer.refused(call, principal, decision, receipt)
            raise Denied(decision, receipt)
        admission = Admission(call, principal, decision, receipt, arrived_at_s, self.monotonic())
        self.observer.admitted(admission)
        return admission

    def relay(self, admission: Admission) -> AbstractAsyncContextManager[BackendReply]:
        """Call the backend and lend out its reply; on leaving, record exactly one outcome for the intent.

        A context manager and not a bare generator: a generator that nobody ever starts runs no ``finally``, and an
        agent can hang up before the first byte is asked for.

        Raises:
            BackendError: before the head of the reply, or from its ``chunks``.
            AuditUnavailable: on leaving, when a call with effects has no durable outcome: its answer is not whole.
        """
        return _Relay(self, admission)


class _Relay(AbstractAsyncContextManager[BackendReply]):
    """One admitted call on its way; see ``Gateway.relay``."""

    __slots__ = ("_admission", "_chunks", "_gateway", "_outcome", "_sent")

    def __init__(self, gateway: Gateway, admission: Admission) -> None:
        self._gateway, self._admission = gateway, admission
        self._outcome = Outcome(started_s=admission.admitted_at_s)
        self._chunks: AsyncGenerator[bytes] | None = None

    async def __aenter__(self) -> BackendReply:
        try:
            self._sent = self._gateway.backends.send(self._admission)
            reply = await self._sent.__aenter__()
            try:
                return self._lent(reply)
            except BaseException as error:
                await leave(self._sent, self._chunks, error, error.__traceback__)
                raise
        except BaseException as error:
            await self._end(error)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        try:
            await leave(self._sent, self._chunks, error, trace)
        except BaseException as broken:
            await self._end(broken)
            raise
        recorded = await self._end(error)
        if error is None and not recorded and is_strict(self._admission.call):
            raise AuditUnavailable("outcome_unrecorded")
        return None

    def _lent(self, reply: BackendReply) -> BackendReply:
        gateway, admission, outcome = self._gateway, self._admission, self._outcome
        outcome.answers(reply)
        released = gateway.obligations.release(admission.decision, admission.call, reply)
        if isinstance(released.chunks, Whole):
            outcome.saw(released.chunks.body, gateway.monotonic())
            outcome.completes()
            return released
        self._chunks = chunks = self._passed(released.chunks)
        return replace(released, chunks=chunks)

    async def _passed(self, inner: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
        monotonic, outcome = self._gateway.monotonic, self._outcome
        async with aclosing(inner):
            async for chunk in inner:
                outcome.saw(chunk, monotonic())
                yield chunk
                await asyncio.sleep(0)  # notice a hang-up even when nothing else makes us wait
        outcome.completes()

    async def _end(self, error: BaseException | None) -> bool:
        """Record what came of it, once. False: an intent without a durable outcome, which the observer counts."""
        gateway, admission, outcome = self._gateway, self._admission, self._outcome
        match error:
            case None:
                pass
            case BackendError():
                outcome.fails("timeout" if isinstance(error, BackendTimeout) else "error", error.reason)
            case asyncio.CancelledError() | GeneratorExit():
                pass  # the agent hung up: "cancelled" is what an outcome says until it knows better
            case Exception():
                outcome.fails("error", "internal")
        outcome.ended_s = gateway.monotonic()
        outcome.cost = gateway.price(admission, outcome)
        try:
            await gateway.ledger.record_outcome(admission, outcome)
            recorded = True
        except Exception:  # noqa: BLE001  whatever the ledger's trouble is, it is counted and someone is woken
            recorded = False
        gateway.observer.observe(admission, outcome, recorded=recorded)
        return recorded


def is_strict(call: Call) -> bool:
    """Whether the last byte of the answer waits for the durable outcome: for tools, which change the world."""
    return call.action == "call"
