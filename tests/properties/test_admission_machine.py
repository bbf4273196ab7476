"""The gate against a model of it: nobody overtakes a more urgent one, nobody starves, no place is lost or made up."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from controlplane.admission import AdmissionSettings, Gate, QueuedBackend
from controlplane.admission.line import Agent, Standing, Ticket
from tests.unit.admission.test_queued import REQUEST, Clock, Server

AGENTS = [("acme", "a"), ("acme", "b"), ("acme", "c"), ("globex", "a")]
URGENT = 2


class GateMachine(RuleBasedStateMachine):
    """The model keeps who is in, and who waits, in order of arrival."""

    @initialize(limit=st.integers(1, 4), queue=st.integers(0, 6))
    def start(self, limit: int, queue: int) -> None:
        self.now_s = 1000.0
        self.gate = Gate("g", AdmissionSettings(limit_calls=limit, queue_calls=queue, urgent_priority=URGENT))
        self.limit, self.queue = limit, queue
        self.direct = 0
        self.running: list[Ticket] = []
        self.waiting: list[Ticket] = []
        self.admitted = self.left = 0

    def settled(self, ticket: Ticket) -> None:
        self.waiting.remove(ticket)
        if ticket.standing is Standing.SHED:
            return
        assert not [one for one in self.waiting if one.priority < ticket.priority], "a more urgent one still waits"
        self.running.append(ticket)
        self.admitted += 1

    @rule(seconds=st.floats(0, 5))
    def pass_time(self, seconds: float) -> None:
        self.now_s += seconds

    @rule(agent=st.sampled_from(AGENTS), priority=st.integers(0, 9), patience_s=st.sampled_from([-1.0, 3.0, 1e6]))
    def come(self, agent: Agent, priority: int, patience_s: float) -> None:
        if self.gate.enter(priority):
            assert not [one for one in self.waiting if one.priority <= priority], "it overtook somebody"
            self.direct += 1
            self.admitted += 1
            return
        ticket = Ticket(agent, priority, self.now_s + patience_s, self.settled)
        self.waiting.append(ticket)
        before = list(self.waiting)
        self.gate.wait(ticket, self.now_s)
        gone = [one for one in before if one.standing is Standing.SHED]
        assert len(gone) <= 1
        for one in gone:
            assert 1.0 <= one.retry_after_s <= 60.0
            if one.cause in ("queue_full", "displaced"):
                assert one.priority == max(each.priority for each in before), "somebody less urgent stayed"

    @rule(calls=st.integers(2, 6), priority=st.integers(0, 9))
    def burst(self, calls: int, priority: int) -> None:
        for _ in range(calls):
            self.come(AGENTS[0], priority, 1e6)

    @precondition(lambda self: self.direct)
    @rule(took_s=st.floats(0, 20))
    def leave_directly(self, took_s: float) -> None:
        self.direct -= 1
        self.left += 1
        self.gate.leave(took_s, self.now_s)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), took_s=st.floats(0, 20))
    def leave(self, data: st.DataObject, took_s: float) -> None:
        ticket = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.left += 1
        self.gate.leave(took_s, self.now_s, ticket)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def hang_up(self, data: st.DataObject) -> None:
        ticket = self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1)))
        self.gate.abandon(ticket, self.now_s)

    @precondition(lambda self: self.running)
    @rule()
    def hang_up_when_just_admitted(self) -> None:
        self.left += 1
        self.gate.abandon(self.running.pop(), self.now_s)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def ring(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(self.waiting))
        if self.now_s >= ticket.expires_s:
            self.gate.expire(ticket, self.now_s)
            assert ticket.standing is Standing.SHED

    @rule(steps=st.integers(0, 3))
    def throttle(self, steps: int) -> None:
        self.gate.throttle(steps, self.now_s)
        assert (self.gate.room == self.limit) if not steps else (1 <= self.gate.room <= self.limit)

    @invariant()
    def places_neither_leak_nor_multiply(self) -> None:
        if hasattr(self, "gate"):
            assert self.gate.running == self.direct + len(self.running) == self.admitted - self.left
            assert self.gate.running <= self.limit

    @invariant()
    def line_is_what_the_model_says_and_bounded(self) -> None:
        if hasattr(self, "gate"):
            assert len(self.gate.line) == len(self.waiting) <= self.queue
            assert all(one.standing is Standing.WAITING for one in self.waiting)

    @invariant()
    def nobody_waits_while_there_is_room_for_him(self) -> None:
        for one in getattr(self, "waiting", ()):
            room = self.limit if one.priority <= URGENT else self.gate.room
            assert self.gate.running >= room

    def teardown(self) -> None:
        """Whatever has happened: when calls end, everybody who waits gets in, and at the end the gate is empty."""
        if not hasattr(self, "gate"):
            return
        self.gate.throttle(0, self.now_s)
        for _ in range(1000):
            if self.running:
                self.leave_one(self.running.pop())
            elif self.direct:
                self.direct -= 1
                self.leave_one(None)
            else:
                break
        assert (self.gate.running, len(self.gate.line), self.waiting) == (0, 0, [])

    def leave_one(self, ticket: Ticket | None) -> None:
        self.left += 1
        self.gate.leave(1.0, self.now_s, ticket)


TestGateMachine = GateMachine.TestCase
TestGateMachine.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)


@given(
    others=st.integers(1, 6),
    calls_of_each=st.integers(20, 60),
    took_s=st.lists(st.floats(0.01, 100), min_size=8, max_size=8),
)
@settings(deadline=None, max_examples=60)
def test_one_call_among_many_of_others_has_its_turn_in_the_first_round(
    others: int, calls_of_each: int, took_s: list[float]
) -> None:
    """However many calls others have and however long theirs take: at most 16 of each go before it, a turn's worth."""
    gate = Gate("g", AdmissionSettings(limit_calls=1, queue_calls=1000))
    order: list[Ticket] = []
    gate.enter(5)
    for index in range(others):
        for _ in range(calls_of_each):
            gate.wait(Ticket(("acme", str(index)), 5, 1e9, order.append), 0.0)
    mine = Ticket(("acme", "mine"), 5, 1e9, order.append)
    gate.wait(mine, 0.0)
    gate.leave(1.0, 0.0)
    while mine not in order:
        last = order[-1]
        gate.leave(took_s[int(last.agent[1])], 0.0, last)
    assert all(count <= 16 for agent, count in Counter(one.agent for one in order).items() if agent != mine.agent)


@given(st.lists(st.floats(0.01, 10), min_size=2, max_size=5), st.integers(0, 2**32))
@settings(deadline=None, max_examples=40)
def test_agents_who_always_wait_get_the_same_seconds_of_service(cost_s: list[float], seed: int) -> None:
    """Long calls or short ones: what is shared is the server's time, as far as debts reach."""
    chance = random.Random(seed)
    cost_s = [min(one, 8 * min(cost_s)) for one in cost_s]
    gate, order = Gate("g", AdmissionSettings(limit_calls=1, queue_calls=1000)), []
    gate.enter(5)

    def join(agent: str) -> None:
        gate.wait(Ticket(("acme", agent), 5, 1e12, order.append), 0.0)

    for index in range(len(cost_s)):
        for _ in range(20):
            join(str(index))
    gate.leave(sum(cost_s) / len(cost_s), 0.0)
    used: Counter[str] = Counter()
    for _ in range(4000):
        one, agent = order[-1], order[-1].agent[1]
        took_s = cost_s[int(agent)] * chance.uniform(0.8, 1.2)
        used[agent] += took_s
        join(agent)
        gate.leave(took_s, 0.0, one)
    assert max(used.values()) < 1.25 * min(used.values())


@given(
    limit=st.integers(1, 3),
    steps=st.lists(
        st.tuples(st.sampled_from(["come", "finish", "hang_up"]), st.integers(0, 50), st.integers(0, 9)), max_size=60
    ),
)
@settings(deadline=None, max_examples=60)
def test_whatever_callers_do_every_place_comes_back(limit: int, steps: list[tuple[str, int, int]]) -> None:
    """Real tasks on a real loop: hang-ups in the line, while served, and in the very moment of admission."""

    async def run() -> None:
        server, gate = Server(), Gate("g", AdmissionSettings(limit_calls=limit, queue_calls=5))
        backend, tasks = QueuedBackend(server, gate, Clock()), []

        async def call(agent: int, over: asyncio.Event) -> None:
            async with backend.send(REQUEST):
                await over.wait()

        for what, number, pause in steps:
            if what == "come":
                over = asyncio.Event()
                tasks.append((asyncio.create_task(call(number, over)), over))
            elif tasks and what == "finish":
                tasks[number % len(tasks)][1].set()
            elif tasks:
                tasks[number % len(tasks)][0].cancel()
            for _ in range(pause % 3):
                await asyncio.sleep(0)
            assert server.running <= gate.running <= limit
        for _, over in tasks:
            over.set()
        await asyncio.gather(*(task for task, _ in tasks), return_exceptions=True)
        assert (gate.running, len(gate.line), server.running) == (0, 0, 0)

    asyncio.run(run())
