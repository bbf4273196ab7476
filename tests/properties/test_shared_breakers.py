"""Several gateways before one backend: every interleaving of calls, faults, hang-ups, crashes and a store going away.

Two promises: while the store is there, one probe at a time among all of them; and once the backend is well, every
breaker heals.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from controlplane.resilience.breaker import CircuitBreaker, State
from controlplane.resilience.guarded import GuardedBackend
from controlplane.resilience.lessons import LESSONS
from controlplane.resilience.settings import BreakerSettings
from inference.backend import BackendReply, BackendRequest
from inference.errors import BackendBroke, BackendError, BackendRejected, BackendTimeout, BackendUnavailable
from inference.whole import Whole
from tests.unit.resilience.fakes import FakeClock

SETTINGS = BreakerSettings(
    min_calls=3, stretch_calls=5, connect_failures=2, probes=3, probe_success_ratio=0.6, probe_lease_s=20.0
)
LONGEST_OPEN_S = SETTINGS.open_max_s * (1 + SETTINGS.jitter_ratio)
PLAIN = BackendRequest(call_id="1", target="m", operation="Predict")
STREAM = BackendRequest(call_id="1", target="m", operation="chat", streams=True)
GATEWAYS = st.integers(0, 2)
ERRORS = st.one_of(
    st.sampled_from(sorted(LESSONS)).map(BackendUnavailable),
    st.sampled_from(["deadline", "first_byte_timeout", "stalled"]).map(BackendTimeout),
    st.sampled_from(["hung_up", "truncated"]).map(BackendBroke),
    st.just(BackendRejected("bad_signature")),
    st.just(asyncio.CancelledError()),
)
FAULTS = st.one_of(ERRORS, st.sampled_from([404, 429, 500]))


class Waiting:
    """Hands control to the test; resumed by ``send``, failed by ``throw``."""

    def __await__(self) -> Generator[Waiting, Any, Any]:
        return (yield self)


@dataclass
class Store:
    """One lease for all gateways, on the clock that they share."""

    clock: FakeClock
    is_up: bool = True
    holder: str = ""
    ends_s: float = 0.0
    taken: int = 0

    async def take(self, name: str) -> str | None:
        if not self.is_up:
            return ""
        if self.holder and self.clock.now_s < self.ends_s:
            return None
        self.taken += 1
        self.holder, self.ends_s = f"lease {self.taken}", self.clock.now_s + SETTINGS.probe_lease_s
        return self.holder

    def give_back(self, name: str, token: str) -> None:
        if self.is_up and token == self.holder:
            self.holder = ""


@dataclass
class Seat:
    """The store as one gateway has it. The dead say nothing."""

    store: Store
    is_dead: bool = False

    async def take(self, name: str) -> str | None:
        return await self.store.take(name)

    def give_back(self, name: str, token: str) -> None:
        if not self.is_dead:
            self.store.give_back(name, token)


@dataclass(eq=False)
class InFlight:
    """A call that waits for its backend. ``lease`` as it was when it went out, "" without the store's."""

    gateway: Gateway
    work: Coroutine[Any, Any, Any]
    lease: str
    lease_ends_s: float
    is_probe: bool

    def end(self, outcome: Exception | BaseException | int) -> None:
        """Step until it is over: the backend answers with a status or fails; a stream's chunks come at once."""
        try:
            if isinstance(outcome, BaseException):
                self.work.throw(outcome)
            else:
                self.work.send(outcome)
        except (StopIteration, BackendError, asyncio.CancelledError):
            return
        pytest.fail("the call still waits")


@dataclass
class Gateway:
    clock: FakeClock
    store: Store
    jitter: float
    in_flight: list[InFlight] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.breaker = CircuitBreaker("m", SETTINGS, jitter=lambda: self.jitter)
        self.seat = Seat(self.store)
        self.guarded = GuardedBackend(self, self.breaker, self.clock, self.seat)

    @asynccontextmanager
    async def send(self, request: BackendRequest) -> AsyncGenerator[BackendReply]:
        status = await Waiting()
        yield BackendReply(status, (), _chunk() if request.streams else Whole(b"answer"))

    def call(self, request: BackendRequest) -> InFlight | None:
        """None when it was refused."""
        before, probes = self.store.taken, self.breaker._probe_number
        work = _whole(self.guarded, request)
        try:
            while not isinstance(work.send(None), Waiting):
                pass  # a probe lets the loop go round once, for a caller who hung up
        except BackendUnavailable:
            return None
        lease = self.store.holder if self.store.taken > before else ""
        made = InFlight(self, work, lease, self.store.ends_s, self.breaker._probe_number > probes)
        self.in_flight.append(made)
        return made


async def _chunk() -> AsyncGenerator[bytes]:
    yield b"answer"


async def _whole(guarded: GuardedBackend, request: BackendRequest) -> None:
    async with guarded.send(request) as reply:
        async for _ in reply.chunks:
            pass


class GatewaysMachine(RuleBasedStateMachine):
    @initialize(jitter=st.floats(0, 1, exclude_max=True))
    def start(self, jitter: float) -> None:
        self.jitter, self.clock = jitter, FakeClock()
        self.store = Store(self.clock)
        self.gateways = [Gateway(self.clock, self.store, jitter) for _ in range(3)]

    @rule(number=GATEWAYS, request=st.sampled_from([PLAIN, STREAM]))
    def call(self, number: int, request: BackendRequest) -> None:
        gateway = self.gateways[number]
        made = gateway.call(request)
        if made is not None:
            assert gateway.breaker.state in (State.CLOSED, State.HALF_OPEN)
            assert made.is_probe == (gateway.breaker.state is State.HALF_OPEN)

    @precondition(lambda self: any(gateway.in_flight for gateway in self.gateways))
    @rule(data=st.data(), fault=st.one_of(st.just(200), FAULTS), seconds=st.sampled_from([0.0, 0.1, 6.0, 40.0]))
    def answer(self, data: st.DataObject, fault: Any, seconds: float) -> None:
        self.clock.now_s += seconds
        gateway = data.draw(st.sampled_from([gateway for gateway in self.gateways if gateway.in_flight]))
        gateway.in_flight.pop(data.draw(st.integers(0, len(gateway.in_flight) - 1))).end(fault)

    @rule(number=GATEWAYS, faults=st.lists(FAULTS, min_size=1, max_size=6))
    def outage(self, number: int, faults: list[Any]) -> None:
        for fault in faults:
            made = self.gateways[number].call(PLAIN)
            if made is not None:
                self.gateways[number].in_flight.remove(made)
                made.end(fault)

    @rule(seconds=st.floats(0, 90))
    def wait(self, seconds: float) -> None:
        self.clock.now_s += seconds

    @rule(is_up=st.booleans())
    def store_comes_or_goes(self, is_up: bool) -> None:
        self.store.is_up = is_up

    @rule(number=GATEWAYS)
    def crash(self, number: int) -> None:
        """It dies without a word: leases stay where they are, nobody reports."""
        dead = self.gateways[number]
        dead.seat.is_dead = True
        for call in dead.in_flight:
            call.work.close()
        self.gateways[number] = Gateway(self.clock, self.store, self.jitter)

    @rule(number=GATEWAYS)
    def seen_to_work_elsewhere(self, number: int) -> None:
        self.gateways[number].breaker.hasten(self.clock.now_s)

    @invariant()
    def one_probe_among_all_by_every_lease_that_counts(self) -> None:
        if not hasattr(self, "gateways"):
            return
        probing = [
            call
            for gateway in self.gateways
            for call in gateway.in_flight
            if call.is_probe and call.lease and self.clock.now_s < call.lease_ends_s
        ]
        assert len(probing) <= 1
        for gateway in self.gateways:
            fresh = [ends_s for ends_s in gateway.breaker._leases.values() if self.clock.now_s < ends_s]
            assert len(fresh) <= 1

    def teardown(self) -> None:
        """The backend is well from now on: whatever is under way ends, and every gateway has callers."""
        if not hasattr(self, "gateways"):
            return
        for gateway in self.gateways:
            for call in gateway.in_flight:
                call.end(200)
        gave_up_s = self.clock.now_s + LONGEST_OPEN_S + 2 * SETTINGS.probe_lease_s + 10
        while any(gateway.breaker.state is not State.CLOSED for gateway in self.gateways):
            self.clock.now_s += 0.5
            assert self.clock.now_s < gave_up_s, "a healed backend must heal every breaker"
            for gateway in self.gateways:
                made = gateway.call(PLAIN)
                if made is not None:
                    made.end(200)


TestGatewaysMachine = GatewaysMachine.TestCase
TestGatewaysMachine.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


@pytest.mark.parametrize("store_is_up", [True, False])
def test_two_hundred_callers_at_three_gateways(store_is_up: bool) -> None:
    """One probe among all with the store, one for each gateway without."""
    clock = FakeClock()
    store = Store(clock, is_up=store_is_up)
    gateways = [Gateway(clock, store, 0.5) for _ in range(3)]
    for gateway in gateways:
        for _ in range(2):
            made = gateway.call(PLAIN)
            assert made is not None
            made.end(BackendUnavailable("connect_failed"))
        assert gateway.breaker.state is State.OPEN
    clock.now_s += 5.0
    out = [made for number in range(201) if (made := gateways[number % 3].call(PLAIN)) is not None]
    assert len(out) == (1 if store_is_up else 3)
    for made in out:
        made.end(200)
