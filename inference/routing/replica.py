"""One server of a pool as the pool sees it, and one call at it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass, field
from types import TracebackType

from inference.backend import CLIENT_ERRORS, Backend, BackendReply, BackendRequest
from inference.errors import BackendError, BackendRejected
from inference.leaving import leave
from inference.routing.health import Event, ReplicaHealth
from inference.routing.load import SATURATED, Load
from inference.routing.progress import Progress
from inference.routing.settings import RoutingSettings
from inference.whole import Whole

Probe = Callable[[], Awaitable[None]]
"""Makes the replica do the smallest piece of real work. Raises ``BackendError`` when it does not."""

LoadSource = Callable[[], Awaitable[Load]]
"""Reads the replica's own metrics. Raises ``BackendError`` when they cannot be had."""

SATURATION = frozenset({"busy", "rate_limited", "resource_exhausted"})
"""Reasons that say that a replica works, but takes no more just now."""

ELSEWHERE = frozenset({"not_deployed"})
"""Reasons that say that this replica does not serve what was asked for; others may. Its health is another question."""

TOO_MUCH = frozenset({"event_too_long", "reply_too_large"})
"""Reasons that say how much was asked for. That is the caller's choice; nobody is asked for as much a second time."""

LATE = frozenset({"deadline", "deadline_exceeded", "first_byte_timeout", "stalled"})
"""Reasons that say that a limit passed, which may be the caller's own impatience."""

STALLED = "stalled"
"""Reason of the ejection of a replica that owes something and moves nothing."""

SILENT_LOOKS = 4  # so many missed looks, and calls probe instead of the watcher


@dataclass(slots=True, kw_only=True)
class Call:
    """One call on its way through the pool; ``tried`` has a bit for each replica that it was sent to."""

    request: BackendRequest
    deadline_s: float
    keys: list[int]  # of its prompt's leading blocks
    tried: int = 0
    attempts: int = 0


@dataclass(slots=True, kw_only=True, eq=False)
class Attempt:
    """One call waiting for its head at one replica. ``limit`` ends that when another answers or shall be asked.

    ``hedge`` is the same call at a second replica.
    """

    call: Call
    replica: Replica
    started_s: float
    lease: int = 0  # of the one probe that this call is, 0 for an ordinary one
    limit: asyncio.Timeout = field(default_factory=lambda: asyncio.timeout(None))
    was_moved: bool = False
    hedge: asyncio.Task[BackendReply] | None = None

    def hedge_ended(self, hedge: asyncio.Task[BackendReply]) -> None:
        if not hedge.cancelled() and hedge.exception() is None:
            self.interrupt()

    def interrupt(self) -> None:
        """End the wait, once, and only while it is one."""
        if self in self.replica.waiting:
            self.replica.waiting.discard(self)
            self.limit.reschedule(0.0)


@dataclass(slots=True, kw_only=True, eq=False)
class Replica:
    name: str
    number: int
    backend: Backend
    health: ReplicaHealth
    settings: RoutingSettings
    probe: Probe | None = None
    read_load: LoadSource | None = None
    progress: Progress = field(default_factory=Progress)
    in_flight: int = 0
    waiting: set[Attempt] = field(default_factory=set)
    load: Load | None = None
    load_at_s: float = float("-inf")
    others: int = 0  # calls of other gateways, when the metrics were read
    busy_until_s: float = float("-inf")
    retry_at_s: float = float("-inf")
    looked_at_s: float = float("-inf")

    @property
    def pressure(self) -> int:
        """Calls under way: ours as they are now, those of others as they were when last seen."""
        return self.in_flight + self.others

    def is_saturated(self, now_s: float) -> bool:
        """Unknown counts as saturated: a replica that cannot be seen is asked only when all are like that."""
        if now_s < self.busy_until_s:
            return True
        if self.read_load is None:
            return False
        if self.load is None or now_s - self.load_at_s > self.settings.watch.stale_s:
            return True
        return self.load.score(self.settings.waiting_threshold, self.settings.kv_threshold) >= SATURATED

    def is_probed_by_calls(self, now_s: float) -> bool:
        """Whether a call must find out how an ejected replica is, because nobody else does."""
        watch = self.settings.watch
        patience_s = SILENT_LOOKS * watch.every_s + watch.probe_timeout_s
        return self.probe is None or now_s - self.looked_at_s > patience_s

    def sleeps(self, now_s: float) -> bool:
        """Whether it has said so lately."""
        load = self.load
        return load is not None and load.is_asleep and now_s - self.load_at_s <= self.settings.watch.stale_s

    def note_load(self, load: Load, now_s: float) -> None:
        before, self.load, self.load_at_s = self.load, load, now_s
        self.others = max(0, load.running + load.waiting - self.in_flight)
        if before is not None and before.worked is not None and load.worked != before.worked:
            self.progress.note(now_s)

    def note_busy(self, retry_after_s: float | None, now_s: float) -> None:
        retry = self.settings.retry
        self.busy_until_s = max(self.busy_until_s, now_s + retry.busy_s)
        if retry_after_s is not None:
            self.retry_at_s = max(self.retry_at_s, now_s + min(retry_after_s, retry.retry_after_max_s))

    def note_failure(self, error: BackendError, started_s: float, now_s: float) -> None:
        """Judge the replica by a failed call. A limit that passed is its fault only if it moved nothing meanwhile."""
        if error.reason in SATURATION:
            self.note_busy(error.retry_after_s, now_s)
        elif error.reason not in LATE:
            self.health.fail(error.reason, now_s)
        elif self.has_stalled_since(started_s, now_s):
            self.health.eject(STALLED, now_s)

    def has_stalled_since(self, started_s: float, now_s: float) -> bool:
        return self.progress.last_s <= started_s and now_s - started_s >= self.settings.watch.stall_s

    def settle(self, lease: int, event: Event, now_s: float, reason: str = "") -> None:
        if lease:
            self.health.settle(lease, event, now_s, reason)

    def lend(
        self, request: BackendRequest, *, lease: int = 0, judges: bool = True
    ) -> AbstractAsyncContextManager[BackendReply]:
        """``backend.send`` with everything noted that it teaches. ``judges``: failures may eject the replica.

        A 4xx is no progress: vLLM's front refuses a bad request also while nothing behind it moves.
        """
        return _Loan(self, request, lease, judges=judges)


class _Loan(AbstractAsyncContextManager[BackendReply]):
    """One call at one replica; see ``Replica.lend``."""

    __slots__ = ("_chunks", "_judges", "_lease", "_now", "_owes", "_replica", "_request", "_sent", "_started_s")

    def __init__(self, replica: Replica, request: BackendRequest, lease: int, *, judges: bool) -> None:
        self._replica, self._request, self._lease, self._judges = replica, request, lease, judges
        self._chunks: AsyncGenerator[bytes] | None = None

    async def __aenter__(self) -> BackendReply:
        replica = self._replica
        self._now = asyncio.get_running_loop().time
        self._started_s, self._owes = self._now(), True
        replica.in_flight += 1
        replica.progress.owe(self._started_s)
        try:
            self._sent = replica.backend.send(self._request)
            reply = await self._sent.__aenter__()
        except BaseException as error:
            if isinstance(error, BackendError):
                self._learn(error)
            self._end()
            raise
        try:
            return self._lent(reply)
        except BaseException as error:
            await self.__aexit__(type(error), error, error.__traceback__)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        try:
            return await leave(self._sent, self._chunks, error, trace)
        finally:
            self._end()

    def _lent(self, reply: BackendReply) -> BackendReply:
        replica, self._owes = self._replica, False
        if reply.status < CLIENT_ERRORS:
            now_s = self._now()
            replica.progress.pay(now_s)
            if self._lease:
                replica.settle(self._lease, Event.PROBE_SUCCEEDED, now_s)
        else:
            replica.progress.drop()
        if not isinstance(reply.chunks, Whole):
            reply.chunks = self._chunks = self._watched(reply.chunks)
        elif self._judges:  # nothing is owed any more
            replica.health.succeed()
        return reply

    def _learn(self, error: BackendError) -> None:
        """It came before the head of a reply."""
        if teaches_nothing(error) or error.reason in SATURATION:
            self._owes = False
            self._replica.progress.drop()
        self._judge(error)

    def _end(self) -> None:
        if self._owes:
            self._replica.progress.forgive()
        self._replica.in_flight -= 1
        if self._lease:
            self._replica.settle(self._lease, Event.PROBE_ABANDONED, self._now())

    def _judge(self, error: BackendError) -> None:
        if teaches_nothing(error):
            return
        replica, now_s = self._replica, self._now()
        if error.reason not in SATURATION:
            replica.settle(self._lease, Event.PROBE_FAILED, now_s, error.reason)
        if self._judges:
            replica.note_failure(error, self._started_s, now_s)

    async def _watched(self, chunks: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
        """The chunks as they are; each wait for one is a debt of the replica, each one that comes is progress."""
        now, replica, progress = self._now, self._replica, self._replica.progress
        async with aclosing(chunks):
            while True:
                progress.owe(now())
                try:
                    chunk = await anext(chunks, None)
                except BaseException as error:
                    progress.forgive()
                    if self._judges and isinstance(error, BackendError) and not teaches_nothing(error):
                        replica.note_failure(error, self._started_s, now())
                    raise
                progress.pay(now())
                if chunk is None:
                    break
                yield chunk
        if self._judges:
            replica.health.succeed()


def teaches_nothing(error: BackendError) -> bool:
    """The request was wrong, too large, or in the wrong place."""
    return isinstance(error, BackendRejected) or error.reason in ELSEWHERE or error.reason in TOO_MUCH
