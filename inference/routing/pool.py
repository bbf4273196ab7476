"""Replicas as one backend. See the room's docstring for what decides.

A call that waits for its first byte at a replica which stopped moving is taken from there and given to another. What
one replica is asked, and what is learnt from it, stands in ``replica.py``.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager, suppress
from types import MappingProxyType

from msgspec.structs import replace

from inference.backend import Backend, BackendReply, BackendRequest
from inference.errors import BackendError, BackendTimeout, BackendUnavailable
from inference.routing.again import REPEATABLE, Again
from inference.routing.choice import Choice, Serves, serves_everything
from inference.routing.health import ReplicaHealth, State, Transition
from inference.routing.hedging import Hedging
from inference.routing.replica import Attempt, Call, LoadSource, Probe, Replica
from inference.routing.settings import RoutingSettings
from inference.routing.status import ReplicaStatus, status_of
from inference.routing.watcher import Watcher
from inference.whole import Whole

log = logging.getLogger(__name__)


class ReplicaPool:
    """``probes`` and ``loads`` are those of replicas by name; ``watch`` uses them and must run for them to matter.

    A pool of one refuses only what its probe or its metrics condemn: failed calls are the business of the breaker
    around it. ``draw`` gives numbers in [0, 1).
    """

    def __init__(
        self,
        replicas: Mapping[str, Backend],
        settings: RoutingSettings | None = None,
        *,
        probes: Mapping[str, Probe] = MappingProxyType({}),
        loads: Mapping[str, LoadSource] = MappingProxyType({}),
        serves: Serves = serves_everything,
        draw: Callable[[], float] = random.random,
    ) -> None:
        if not replicas:
            raise ValueError("a pool needs a replica")
        self._settings = settings = settings or RoutingSettings()
        self._replicas = [
            Replica(
                name=name,
                number=number,
                backend=backend,
                health=ReplicaHealth(name, settings.ejection, self._announce, draw),
                settings=settings,
                probe=probes.get(name),
                read_load=loads.get(name),
            )
            for number, (name, backend) in enumerate(replicas.items())
        ]
        self._by_name = {replica.name: replica for replica in self._replicas}
        self._only = self._replicas[0] if len(self._replicas) == 1 else None
        self._all_ready = True
        self._choice = Choice(self._replicas, settings, serves, draw)
        self._again = Again(settings.retry, self._choice)
        self._hedging = Hedging(settings.hedge)
        self._watcher = Watcher(self._replicas, settings.watch, draw, self._rescue)
        self._listeners: list[Callable[[Transition], None]] = []

    def listen(self, listener: Callable[[Transition], None]) -> None:
        """Tell ``listener`` of every transition. One that raises is logged and hurts no call."""
        self._listeners.append(listener)

    async def watch(self) -> None:
        """Read metrics and probe until cancelled. Calls go on without it, and then find out for themselves."""
        await self._watcher.run()

    def snapshot(self) -> list[ReplicaStatus]:
        """Inside the running event loop."""
        now_s = asyncio.get_running_loop().time()
        return [status_of(replica, now_s) for replica in self._replicas]

    def send(self, request: BackendRequest) -> AbstractAsyncContextManager[BackendReply]:
        """See ``Backend.send``. Of all replicas' errors the last one is raised.

        Raises:
            BackendUnavailable: ``no_replica`` when all are ejected, ``busy`` when all asked to be left alone; both
                with the time to come back.
        """
        if self._only is None:
            return self._spread(request)
        if self._only.health.state is State.READY:  # the only one there is: no timer, no task, no choice
            return self._only.lend(request, judges=False)
        return self._probing(request, self._only)

    def _probing(self, request: BackendRequest, replica: Replica) -> AbstractAsyncContextManager[BackendReply]:
        """To the only replica, which is out: if this call is the one to try it."""
        now_s = asyncio.get_running_loop().time()
        lease = replica.health.lease_probe(now_s) if replica.is_probed_by_calls(now_s) else 0
        return replica.lend(request, lease=lease, judges=False) if lease else _refused(self._nobody(now_s))

    @asynccontextmanager
    async def _spread(self, request: BackendRequest) -> AsyncGenerator[BackendReply]:
        now_s = asyncio.get_running_loop().time()
        self._again.budget.note_call()
        call = Call(request=request, deadline_s=now_s + request.timeout_s, keys=self._choice.keys(request))
        async with AsyncExitStack() as opened:
            yield await self._first_that_answers(call, opened)

    async def _first_that_answers(self, call: Call, opened: AsyncExitStack) -> BackendReply:
        now, failure = asyncio.get_running_loop().time, None
        while (attempt := self._next(call, now())) is not None:
            try:
                return await self._answered(attempt, opened)
            except BackendError as error:
                if not attempt.was_moved and not self._again.after(error, call, now()):
                    raise
                failure = error
        raise failure or self._nobody(now())

    def _next(self, call: Call, now_s: float) -> Attempt | None:
        """Where to go now: an ejected replica that needs a call to be tried, a ready one, any that may be tried."""
        found = None
        if not self._all_ready and call.request.operation in REPEATABLE:
            found = self._choice.probeable(call, now_s, nobody_else=False)
        if found is None:
            chosen = self._choice.choose(call, now_s)
            found = (chosen, 0) if chosen else self._choice.probeable(call, now_s, nobody_else=True)
        if found is None:
            return None
        replica, lease = found
        call.tried |= 1 << replica.number
        call.attempts += 1
        return Attempt(call=call, replica=replica, started_s=now_s, lease=lease)

    async def _answered(self, attempt: Attempt, opened: AsyncExitStack) -> BackendReply:
        """Wait for the head until it comes, or until another replica has answered or shall be asked instead."""
        replica, timers = attempt.replica, self._timers(attempt)
        try:
            try:
                async with attempt.limit:
                    replica.waiting.add(attempt)
                    asked = replica.lend(_within(attempt), lease=attempt.lease)
                    reply = await opened.enter_async_context(asked)
            except (TimeoutError, BackendError) as error:
                reply = await self._answer_of_hedge(attempt, error)
            if self._hedging.hedges(attempt.call.request):
                span_s = asyncio.get_running_loop().time() - attempt.started_s
                self._hedging.note(attempt.call.request, span_s)
        finally:
            replica.waiting.discard(attempt)
            for timer in timers:
                timer.cancel()
            if attempt.hedge is not None:
                await _ended(attempt.hedge)
        return reply

    async def _answer_of_hedge(self, attempt: Attempt, error: TimeoutError | BackendError) -> BackendReply:
        """The second replica's answer where there is one; else the error of the first."""
        attempt.replica.waiting.discard(attempt)
        if attempt.hedge is not None:
            with suppress(BackendError):
                return await attempt.hedge
        if isinstance(error, BackendError):
            raise error
        late = f"{attempt.replica.name} did not begin to answer in time"
        raise BackendTimeout("first_byte_timeout", late) from None

    def _timers(self, attempt: Attempt) -> list[asyncio.TimerHandle]:
        loop, timers = asyncio.get_running_loop(), []
        due_s = self._again.first_byte_due_s(attempt)
        if due_s is not None:
            timers.append(loop.call_at(due_s, self._again.overdue, attempt))
        request = attempt.call.request
        if self._hedging.hedges(request) and not attempt.lease:
            self._hedging.budget.note_call()
            delay_s = self._hedging.delay_s(request)
            if delay_s < request.timeout_s:
                timers.append(loop.call_at(attempt.started_s + delay_s, self._hedge, attempt))
        return timers

    def _hedge(self, attempt: Attempt) -> None:
        """Ask a second replica for a prediction that is late. Whoever answers first wins."""
        loop, call = asyncio.get_running_loop(), attempt.call
        now_s = loop.time()
        if attempt not in attempt.replica.waiting or not self._hedging.budget.take(now_s):
            return
        second = self._choice.choose(call, now_s)
        if second is None or second.is_saturated(now_s) or not self._again.permits(call, now_s):
            self._hedging.budget.give_back()
            return
        call.tried |= 1 << second.number
        call.attempts += 1
        timeout_s = call.deadline_s - now_s
        attempt.hedge = loop.create_task(_whole(second, replace(call.request, timeout_s=timeout_s)))
        attempt.hedge.add_done_callback(attempt.hedge_ended)

    def _announce(self, transition: Transition) -> None:
        replica = self._by_name[transition.replica]
        self._all_ready = all(one.health.state is State.READY for one in self._replicas)
        if transition.before is State.READY:
            self._choice.forget(replica)
            self._rescue(replica, transition.at_s)
        for listener in self._listeners:
            try:
                listener(transition)
            except Exception:
                log.exception("a listener to replica transitions failed")

    def _rescue(self, replica: Replica, now_s: float) -> None:
        """Move the calls that wait at a replica which is out, the oldest first, as far as the budget goes."""
        for attempt in sorted(replica.waiting, key=lambda one: one.started_s):
            self._again.move(attempt, now_s)

    def _nobody(self, now_s: float) -> BackendUnavailable:
        left_alone = [one.retry_at_s - now_s for one in self._replicas if one.health.state is State.READY]
        if waits_s := [wait_s for wait_s in left_alone if wait_s > 0]:
            return BackendUnavailable("busy", "every replica asked to be left alone", retry_after_s=min(waits_s))
        reasons = ", ".join(f"{one.name}: {one.health.reason}" for one in self._replicas if one.health.reason)
        known_s = [one.health.retry_after_s(now_s) for one in self._replicas]
        soonest_s = min((wait_s for wait_s in known_s if wait_s is not None), default=None)
        return BackendUnavailable("no_replica", reasons, retry_after_s=soonest_s)


def _within(attempt: Attempt) -> BackendRequest:
    """The request with what is left of its time."""
    call = attempt.call
    return call.request if call.attempts == 1 else replace(call.request, timeout_s=call.deadline_s - attempt.started_s)


async def _whole(replica: Replica, request: BackendRequest) -> BackendReply:
    """A prediction's answer, complete, so that nothing of its replica is held any more."""
    async with replica.lend(request) as reply, aclosing(reply.chunks) as chunks:
        body = b"".join([chunk async for chunk in chunks])
        return replace(reply, chunks=Whole(body))


async def _ended(task: asyncio.Task[BackendReply]) -> None:
    """Cancel the loser and see it go."""
    task.cancel()
    await asyncio.wait([task])


@asynccontextmanager
async def _refused(error: BackendError) -> AsyncGenerator[BackendReply]:
    raise error
    yield  # makes this a generator
