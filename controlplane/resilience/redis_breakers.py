"""What several gateways share of their breakers through Redis: what somebody holds, and whose turn it is to probe.

Every gateway counts and decides for itself: its way to a backend may be another's no longer. Transitions are published;
one that closed elsewhere only brings our own next probe forward. Holds are statements ("held", "released") with a time
that only grows, and the latest of a word and a name is true for all. Redis is no memory: what it forgot it is told
again, so that nothing is let go because Redis was restarted.

Redis away: each gateway decides alone, as without it, and says so. Whoever can write to Redis can hold and release; it
belongs behind a password and TLS.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import uuid4

import anyio
import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from audit.unhurried import unhurried
from controlplane.resilience.breaker import State, Transition
from controlplane.resilience.breakers import Breakers
from controlplane.resilience.settings import SharingSettings

PREFIX = "controlplane:breaker:"
HOLDS, EVENTS, PROBE = PREFIX + "holds", PREFIX + "events", PREFIX + "probe:"
SHARED = "breaker.shared"  # kind of the record of a hold that came from another gateway
ALONE = ""  # the token of a probe that nobody else knows of
ELSEWHERE_S = 0.2  # after another gateway was seen to probe, nobody asks Redis for so long
EVENTS_KEPT = 100
MAX_STATEMENTS = 10_000  # names and words that somebody held once; more than this no fleet has
LONGEST_NAME = 300
WORD = re.compile(r"[a-z][a-z0-9_]{0,31}")
FAILURES = (RedisError, OSError, TimeoutError)
SAY = """
local known = redis.call('HGET', KEYS[1], ARGV[1])
if known and cjson.decode(known)['at_ms'] >= tonumber(ARGV[3]) then return 0 end
return redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
"""
GIVE_BACK = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"
log = logging.getLogger(__name__)


class Hold(NamedTuple):
    name: str  # of the breaker
    word: str  # of whoever holds it


class Statement(msgspec.Struct, frozen=True):
    """Whether somebody holds a breaker. ``at_ms`` is wall time, and later than every statement its gateway knew."""

    held: bool
    by: str
    at_ms: int


class Moved(msgspec.Struct, frozen=True):
    """What a gateway publishes: a transition, or that it said something of a hold (``name`` is empty)."""

    by: str
    name: str = ""
    state: str = ""
    reason: str = ""


Append = Callable[[str, Mapping[str, Any]], Awaitable[object]]
"""(kind, body) → durable on return; raises where it cannot be."""


async def _unrecorded(_kind: str, _body: Mapping[str, Any]) -> None:
    """Nobody keeps records."""


class SharedBreakers:
    """Run ``keep`` beside it, and set it as ``breakers.leases``. Owns nothing of ``client``.

    ``lease_s`` bounds the time that one probe keeps the others waiting. ``reached`` hears whether Redis is of use.
    """

    def __init__(
        self,
        client: Redis,
        breakers: Breakers,
        settings: SharingSettings,
        *,
        gateway: str,
        lease_s: float,
        monotonic: Callable[[], float],
        wall: Callable[[], float],
        reached: Callable[[bool], None] = lambda _: None,
        append: Append = _unrecorded,
    ) -> None:
        self._client, self._breakers, self._settings, self._gateway = client, breakers, settings, gateway
        self._lease_ms, self._monotonic, self._wall = max(1, round(lease_s * 1000)), monotonic, wall
        self._reached, self._append, self._deadline_s = reached, append, settings.deadline_ms / 1000
        self._say: Any = client.register_script(SAY)
        self._give_back: Any = client.register_script(GIVE_BACK)
        self._known: dict[Hold, Statement] = {}  # the latest of each
        self._unsaid: set[Hold] = set()  # of those, what Redis may not know yet
        self._events: deque[Moved] = deque(maxlen=EVENTS_KEPT)
        self._due = asyncio.Event()
        self._is_adopting = False
        self._paused_until_s = float("-inf")
        self._elsewhere: dict[str, float] = {}  # breaker → until when another gateway is taken to probe it
        self._giving: dict[str, asyncio.Task[None]] = {}
        self.is_reached = True

    def begin(self, said: Mapping[tuple[str, str], tuple[bool, int]] = MappingProxyType({})) -> None:
        """Before ``keep``. ``said``: of (breaker, word), whether it was held or let go before this start, and when.

        What is held and not in there is held from now on.
        """
        now = dict.fromkeys(self._breakers.holds(), (True, self._now_ms()))
        for (name, word), (is_held, at_ms) in {**now, **said}.items():
            self._know(Hold(name, word), Statement(held=is_held, by=self._gateway, at_ms=at_ms))
        self._breakers.listen(self._moved)
        self._breakers.listen_to_holds(self._held)

    async def keep(self) -> None:
        """Until cancelled: say what changes here, hear what changes elsewhere."""
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._keep_saying)
                tasks.start_soon(self._keep_hearing)
        finally:
            if self._giving:
                with anyio.CancelScope(shield=True):
                    await asyncio.wait(self._giving.values(), timeout=self._deadline_s)

    async def take(self, name: str) -> str | None:
        """See ``ProbeLeases``. Redis away: the probe is ours."""
        now_s = self._monotonic()
        if now_s < self._paused_until_s:
            return ALONE
        if now_s < self._elsewhere.get(name, now_s):
            return None
        if (giving := self._giving.get(name)) is not None:
            await asyncio.wait([giving])
        token = uuid4().hex
        try:
            granted = await unhurried(self._ask(name, token))  # whoever hangs up now must not leave a lease behind
        except FAILURES as error:
            self._trouble(error)
            self.give_back(name, token)  # it may have arrived
            return ALONE
        if granted:
            self._elsewhere.pop(name, None)
            return token
        self._elsewhere[name] = now_s + ELSEWHERE_S
        return None

    async def _ask(self, name: str, token: str) -> bool:
        async with asyncio.timeout(self._deadline_s):
            return bool(await self._client.set(PROBE + name, token, nx=True, px=self._lease_ms))

    def give_back(self, name: str, token: str) -> None:
        if token == ALONE:
            return
        task = asyncio.get_running_loop().create_task(self._gave_back(name, token))
        self._giving[name] = task
        task.add_done_callback(lambda done: self._giving.pop(name) if self._giving.get(name) is done else None)

    async def sync(self) -> bool:
        """Say what was not said, then take over what others said. False when Redis was no use."""
        saying = {hold: self._known[hold] for hold in self._unsaid}
        events = [self._events.popleft() for _ in range(len(self._events))]
        if saying:
            events.append(Moved(self._gateway))
        try:
            async with asyncio.timeout(self._deadline_s), self._client.pipeline(transaction=False) as pipe:
                for hold, said in saying.items():
                    await self._say(keys=[HOLDS], args=[_field(hold), _encode(said), said.at_ms], client=pipe)
                for event in events:
                    pipe.publish(EVENTS, _encode(event))
                pipe.hgetall(HOLDS)
                *_, stored = await pipe.execute()
        except FAILURES as error:
            self._trouble(error)
            return False
        self._unsaid -= {hold for hold, said in saying.items() if self._known[hold] is said}
        await self._adopt(stored)
        self._note_reached(is_reached=True)
        return True

    def _held(self, name: str, word: str, is_held: bool) -> None:
        if self._is_adopting:
            return
        hold = Hold(name, word)
        before = self._known.get(hold)
        at_ms = self._now_ms() if before is None else max(self._now_ms(), before.at_ms + 1)
        self._know(hold, Statement(held=is_held, by=self._gateway, at_ms=at_ms))

    def _know(self, hold: Hold, said: Statement) -> None:
        self._known[hold] = said
        self._unsaid.add(hold)
        self._due.set()

    def _moved(self, moved: Transition) -> None:
        if moved.after is State.CLOSED:
            self._elsewhere.pop(moved.name, None)
        self._events.append(Moved(self._gateway, moved.name, moved.after.value, str(moved.reason)))
        self._due.set()

    async def _adopt(self, stored: Mapping[bytes, bytes]) -> None:
        heard: set[Hold] = set()
        for field, value in list(stored.items())[:MAX_STATEMENTS]:
            hold, said = _hold_in(field), _statement_in(value)
            if hold is None or said is None:
                continue
            heard.add(hold)
            known = self._known.get(hold)
            if hold in self._unsaid or said == known or (known is not None and said.at_ms < known.at_ms):
                continue
            await self._take_over(hold, said)
        forgotten = self._known.keys() - heard - self._unsaid
        if forgotten:
            log.warning("Redis has forgotten holds; it is told again", extra={"holds": len(forgotten)})
            self._unsaid |= forgotten
            self._due.set()

    async def _take_over(self, hold: Hold, said: Statement) -> None:
        """A hold counts at once; letting go is done only when it is on record."""
        is_new = said.held != (hold in map(Hold._make, self._breakers.holds()))
        if is_new and said.held:
            self._switch(hold, said)
        if is_new and not await self._is_recorded(hold, said) and not said.held:
            return
        if is_new and not said.held:
            self._switch(hold, said)
        if self._known.get(hold) is None or hold not in self._unsaid:  # nobody here spoke while it was recorded
            self._known[hold] = said

    def _switch(self, hold: Hold, said: Statement) -> None:
        if hold in self._unsaid:
            return
        self._is_adopting = True
        try:
            (self._breakers.hold if said.held else self._breakers.release)(*hold)
        finally:
            self._is_adopting = False
        facts = {"breaker": hold.name, "word": hold.word, "held": said.held, "gateway": said.by}
        log.warning("another gateway has decided about a hold", extra=facts)

    async def _is_recorded(self, hold: Hold, said: Statement) -> bool:
        what = "breaker.hold" if said.held else "breaker.release"
        body = {"what": what, "breaker": hold.name, "word": hold.word, "gateway": said.by, "at_ms": said.at_ms}
        try:
            await self._append(SHARED, {"change": body})
        except Exception:  # whatever keeps records must not end the sharing
            log.exception("a hold from another gateway could not be recorded", extra={"breaker": hold.name})
            return False
        return True

    async def _keep_saying(self) -> None:
        while True:
            self._due.clear()
            pause_s = self._settings.sync_s
            if not await self.sync():
                await anyio.sleep(self._settings.pause_s)
                continue
            with anyio.move_on_after(pause_s):
                await self._due.wait()

    async def _keep_hearing(self) -> None:
        while True:
            try:
                async with self._client.pubsub(ignore_subscribe_messages=True) as channel:
                    await channel.subscribe(EVENTS)
                    self._due.set()  # what was announced before this is read
                    while True:
                        message = await channel.get_message(timeout=self._settings.sync_s)
                        if message is not None:
                            self._hear(message["data"])
            except FAILURES as error:
                self._trouble(error)
            await anyio.sleep(self._settings.pause_s)

    def _hear(self, data: bytes) -> None:
        try:
            moved = msgspec.json.decode(data, type=Moved)
        except ValueError:
            return
        if moved.by == self._gateway:
            return
        if not moved.name:
            self._due.set()
            return
        facts = {"breaker": moved.name, "state": moved.state, "reason": moved.reason, "gateway": moved.by}
        log.info("a breaker moved at another gateway", extra=facts)
        if moved.state == State.CLOSED:
            self._breakers.hasten(moved.name)

    async def _gave_back(self, name: str, token: str) -> None:
        """What fails ends by itself with the lease."""
        try:
            async with asyncio.timeout(self._deadline_s):
                await self._give_back(keys=[PROBE + name], args=[token])
        except FAILURES as error:
            self._trouble(error)

    def _trouble(self, error: Exception) -> None:
        """After a failure Redis is left alone for a while, so that probes do not wait for it one by one."""
        self._paused_until_s = self._monotonic() + self._settings.pause_s
        self._note_reached(is_reached=False, cause=type(error).__name__)

    def _note_reached(self, *, is_reached: bool, cause: str = "") -> None:
        if is_reached != self.is_reached:
            if is_reached:
                log.warning("breakers are shared again")
            else:
                log.warning("breakers are not shared just now: every gateway decides alone", extra={"cause": cause})
        self.is_reached = is_reached
        self._reached(is_reached)

    def _now_ms(self) -> int:
        return round(self._wall() * 1000)


def _field(hold: Hold) -> str:
    return f"{hold.word} {hold.name}"


def _encode(said: msgspec.Struct) -> bytes:
    return msgspec.json.encode(said)


def _hold_in(field: bytes) -> Hold | None:
    word, _, name = field.decode("utf-8", "replace").partition(" ")
    if not WORD.fullmatch(word) or not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
        return None
    return Hold(name, word)


def _statement_in(value: bytes) -> Statement | None:
    try:
        return msgspec.json.decode(value, type=Statement)
    except ValueError:
        return None
