"""Doubles with memory for everything that the gateway meets. Assertions are made on what they remember."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from audit.unhurried import Unhurried
from controlplane.calls import Call, Decision, Effect, Principal, Receipt
from controlplane.gateway.gateway import Admission, Gateway
from controlplane.gateway.obligations import Obligations
from controlplane.gateway.outcome import Outcome
from controlplane.identity.errors import Unauthenticated
from inference.backend import BackendReply
from inference.whole import Whole

ALLOW = Decision(effect=Effect.ALLOW, reason="granted", revision="r1")
DENY = Decision(effect=Effect.DENY, reason="no_matching_rule", revision="r1")
AGENT = Principal(subject="agent:seven", tenant="acme")


def a_call(**fields: Any) -> Call:
    return Call(**({"id": "c1", "door": "test", "action": "infer", "resource": "/model/tiny", "body": b"{}"} | fields))


@dataclass
class KnownToken:
    token: str = "good"

    async def authenticate(self, credential: str) -> Principal:
        if credential != self.token:
            raise Unauthenticated("bad_signature")
        return AGENT


@dataclass
class FixedPolicy:
    decision: Decision = ALLOW

    def decide(self, principal: Principal, call: Call, now_s: float) -> Decision:
        return self.decision


@dataclass
class MemoryLedger:
    """Remembers entries in order, and outcomes as they were told; ``broken`` refuses intents, ``forgets`` outcomes.
    ``on_write`` is called while an entry is on its way."""

    entries: list[tuple[str, ...]] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    broken: Exception | None = None
    forgets: Exception | None = None
    on_write: Callable[[], None] = lambda: None

    async def record_intent(self, call: Call, principal: Principal, decision: Decision) -> Receipt:
        if self.broken:
            raise self.broken
        await self._write()
        self.entries.append(("intent" if decision.permits else "deny", decision.reason))
        return Receipt(call.id, len(self.entries) - 1, "checkpoint")

    async def record_outcome(self, admission: Admission, outcome: Outcome) -> Receipt:
        await self._write()
        if self.forgets:
            raise self.forgets
        self.entries.append(("outcome", outcome.status, outcome.error))
        self.outcomes.append(outcome)
        return Receipt(admission.receipt.event_id, len(self.entries) - 1, "checkpoint")

    async def _write(self) -> None:
        """As a real ledger would: other tasks run before the entry is durable, and nothing hurries it."""
        self.on_write()
        written = Unhurried[None]()
        asyncio.get_running_loop().call_soon(written.set_result, None)
        await written.outcome()


@dataclass
class ScriptedBackend:
    """Plays ``script``: bytes are sent, exceptions raised, an Event waited for (``waiting`` says so); or answers with
    ``whole`` at once. Remembers calls and how they ended."""

    script: list[bytes | Exception | asyncio.Event] = field(default_factory=lambda: [b"ab", b"c"])
    whole: bytes = b""
    waiting: asyncio.Event = field(default_factory=asyncio.Event)
    refuses: Exception | None = None
    status: int = 200
    headers: tuple[tuple[str, str], ...] = (("content-type", "text/plain"),)
    calls: list[Admission] = field(default_factory=list)
    breaks_at_the_end: Exception | None = None
    closed: int = 0

    @asynccontextmanager
    async def send(self, admission: Admission) -> AsyncGenerator[BackendReply]:
        self.calls.append(admission)
        if self.refuses:
            raise self.refuses
        try:
            async with aclosing(Whole(self.whole) if self.whole else self._play()) as chunks:
                yield BackendReply(self.status, self.headers, chunks, served_by="tiny/1")
        finally:
            self.closed += 1
        if self.breaks_at_the_end:
            raise self.breaks_at_the_end

    async def _play(self) -> AsyncGenerator[bytes]:
        for step in self.script:
            if isinstance(step, Exception):
                raise step
            if isinstance(step, asyncio.Event):
                self.waiting.set()
                await step.wait()
            else:
                yield step


@dataclass
class Watcher:
    seen: list[tuple[Any, ...]] = field(default_factory=list)

    def refused(self, call: Call, principal: Principal, decision: Decision, receipt: Receipt) -> None:
        self.seen.append(("refused", decision.reason))

    def admitted(self, admission: Admission) -> None:
        self.seen.append(("admitted",))

    def observe(self, admission: Admission, outcome: Outcome, *, recorded: bool) -> None:
        self.seen.append(("observed", outcome.status, recorded))


@dataclass
class Rig:
    identity: KnownToken = field(default_factory=KnownToken)
    policy: FixedPolicy = field(default_factory=FixedPolicy)
    obligations: Obligations = field(default_factory=lambda: Obligations({}))
    ledger: MemoryLedger = field(default_factory=MemoryLedger)
    backend: ScriptedBackend = field(default_factory=ScriptedBackend)
    watcher: Watcher = field(default_factory=Watcher)

    @property
    def gateway(self) -> Gateway:
        return Gateway(self.identity, self.policy, self.obligations, self.ledger, self.backend, self.watcher)

    async def admit(self, call: Call | None = None, credential: str = "good") -> Admission:
        async def read_call() -> Call:
            return call or a_call()

        return await self.gateway.admit(credential, read_call)

    async def relay(self, admission: Admission) -> list[bytes]:
        async with self.gateway.relay(admission) as reply, aclosing(reply.chunks) as chunks:
            return [chunk async for chunk in chunks]


@pytest.fixture
def rig() -> Rig:
    return Rig()
