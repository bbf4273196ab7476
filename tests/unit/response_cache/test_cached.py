"""The cache as a backend: what is given again, what never is, and one call out for many equal ones."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest
from msgspec.structs import replace

from controlplane.response_cache import CachedBackend, MemoryStore, Parts, ResponseCacheSettings
from controlplane.response_cache.answers import Saved
from inference.backend import BackendReply, BackendRequest, Reuse
from inference.errors import BackendBroke, BackendError, BackendTimeout, BackendUnavailable
from inference.whole import Whole
from tests.unit.resilience.fakes import FakeBackend, FakeClock

ASKED = BackendRequest(
    call_id="1",
    target="risk",
    operation="Predict",
    body=b"\x01\x02",
    tenant="acme",
    scope="acme:r1",
    timeout_s=8.0,
    reuse=Reuse(60),
)


class Shelf:
    """A shared store in memory that two stages may hold."""

    def __init__(self) -> None:
        self.entries: dict[bytes, Saved] = {}

    async def get(self, key: bytes) -> Saved | None:
        await asyncio.sleep(0)
        return self.entries.get(key)

    async def put(self, key: bytes, saved: Saved) -> None:
        self.entries[key] = saved


class Gated(FakeBackend):
    """Answers when its gate opens."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.gate = asyncio.Event()

    async def body(self) -> Any:
        await self.gate.wait()
        async for chunk in FakeBackend.body(self):
            yield chunk


class Stage:
    def __init__(
        self, *, backend: type[FakeBackend] = FakeBackend, shared: Shelf | None = None, **settings: Any
    ) -> None:
        self.clock, self.events, self.version = FakeClock(1000.0), [], "2"  # type: tuple[FakeClock, list[str], str | None]
        self.model = backend(self.clock, (b"ans", b"wer"))
        self.settings = ResponseCacheSettings(**settings)
        self.parts = Parts(
            settings=self.settings,
            secret=b"s" * 32,
            memory=MemoryStore(self.settings.memory_bytes, self.settings.memory_entries),
            version_of=lambda request: self.version,
            wall=self.clock,
            monotonic=self.clock,
            shared=shared,
            told=lambda model, event: self.events.append(event),
        )
        self.cache = CachedBackend(self.model, self.parts)

    async def ask(self, request: BackendRequest = ASKED) -> tuple[BackendReply, list[bytes]]:
        async with self.cache.send(request) as reply, aclosing(reply.chunks) as chunks:
            return reply, [chunk async for chunk in chunks]

    @property
    def calls(self) -> int:
        return len(self.model.requests)


async def test_the_same_question_is_answered_once_by_the_model() -> None:
    stage = Stage()
    first, body = await stage.ask()
    stage.clock.now_s += 7.9
    second, again = await stage.ask()
    assert (stage.calls, body, again) == (1, [b"ans", b"wer"], [b"ans", b"wer"])
    assert (first.rung, first.age_s, second.rung, second.age_s) == ("primary", None, "cached", 7)
    assert (second.status, second.served_by, second.headers) == (200, "risk/2", (("content-type", "x/y"),))
    assert stage.events == ["miss", "store", "hit"]


@pytest.mark.parametrize(
    "change",
    [
        {"tenant": "other"},
        {"scope": "acme:r2"},
        {"target": "risk2"},
        {"operation": "Classify"},
        {"body": b"\x01\x03"},
        {"streams": True},
        {"reuse": Reuse(60, shaping="out=card")},
    ],
)
async def test_another_question_goes_to_the_model(change: dict[str, Any]) -> None:
    stage = Stage()
    await stage.ask()
    reply, _ = await stage.ask(replace(ASKED, **change))
    assert (reply.rung, stage.calls) == ("primary", 2)


async def test_another_version_is_another_question_also_when_only_the_label_moved() -> None:
    stage = Stage()
    labelled = replace(ASKED, label="stable")
    await stage.ask(labelled)
    stage.version, stage.model.served_by = "3", "risk/3"
    assert (await stage.ask(labelled))[0].rung == "primary"
    assert (await stage.ask(labelled))[0].served_by == "risk/3"


async def test_a_version_that_cannot_be_told_or_trusted_is_neither_saved_nor_given() -> None:
    stage = Stage()
    await stage.ask()
    stage.version = None
    assert (await stage.ask())[0].rung == "primary"
    assert stage.calls == 2


async def test_without_leave_nothing_is_kept_and_the_backend_is_handed_on_as_it_is() -> None:
    stage = Stage()
    await stage.ask(replace(ASKED, reuse=None))
    await stage.ask(replace(ASKED, reuse=None))
    assert (stage.calls, len(stage.parts.memory), stage.events) == (2, 0, [])


async def test_an_answer_grows_too_old() -> None:
    stage = Stage()
    await stage.ask()
    stage.clock.now_s += 30
    assert (await stage.ask(replace(ASKED, reuse=Reuse(30))))[0].rung == "primary"
    stage.clock.now_s += 60
    assert (await stage.ask())[0].rung == "primary"


@pytest.mark.parametrize(
    "change",
    [
        {"status": 400},
        {"served_by": "risk/3"},
        {"chunks": ()},
        {"chunks": (b"a", BackendBroke("cut"))},
    ],
)
async def test_errors_other_versions_and_halves_are_never_saved(change: dict[str, Any]) -> None:
    stage = Stage()
    for name, value in change.items():
        setattr(stage.model, name, value)
    for _ in range(2):
        try:
            await stage.ask()
        except BackendError:
            assert stage.model.open_calls == 0
    assert (stage.calls, len(stage.parts.memory), len(stage.parts.flights)) == (2, 0, 0)


async def test_abandoned_reply_is_not_saved_and_is_closed() -> None:
    stage = Stage()
    async with stage.cache.send(ASKED) as reply:
        assert await anext(reply.chunks) == b"ans"
    assert (len(stage.parts.memory), stage.model.open_calls, len(stage.parts.flights)) == (0, 0, 0)


async def test_answer_over_the_size_bound_passes_whole_and_is_not_saved() -> None:
    stage = Stage(entry_bytes=50)
    assert b"".join((await stage.ask())[1]) == b"answer"
    assert (len(stage.parts.memory), stage.events) == (0, ["miss"])


async def test_lighter_models_answer_is_not_saved_for_the_one_asked_for() -> None:
    stage = Stage()
    stage.model.rung = "lighter"
    for _ in range(2):
        reply, pieces = await stage.ask()
        assert (reply.rung, b"".join(pieces)) == ("lighter", b"answer")
    assert stage.calls == 2


async def test_stream_is_given_again_as_a_stream() -> None:
    stage = Stage()
    events = (b'data: {"choices":[1]}\n\n', b'data: {"choices":[2]}\n\n', b"data: [DONE]\n\n")
    stage.model.chunks = events
    asked = replace(ASKED, operation="chat", streams=True, body=b'{"temperature":0,"stream":true}')
    await stage.ask(asked)
    reply, pieces = await stage.ask(asked)
    assert (reply.rung, tuple(pieces), stage.calls) == ("cached", events, 1)


async def started(*asking: Any) -> list[asyncio.Task[Any]]:
    tasks = [asyncio.create_task(each) for each in asking]
    for _ in range(10):
        await asyncio.sleep(0)
    return tasks


async def test_a_stampede_of_equal_calls_is_one_call_out() -> None:
    stage = Stage(backend=Gated)
    tasks = await started(*(stage.ask() for _ in range(50)))
    assert stage.calls == 1
    stage.model.gate.set()
    answers = await asyncio.gather(*tasks)
    assert {b"".join(pieces) for _, pieces in answers} == {b"answer"}
    assert sorted(reply.rung for reply, _ in answers) == ["cached"] * 49 + ["primary"]
    assert (stage.calls, stage.events.count("joined"), len(stage.parts.flights)) == (1, 49, 0)


async def test_calls_that_only_look_alike_do_not_wait_for_each_other() -> None:
    stage = Stage(backend=Gated)
    tasks = await started(stage.ask(), stage.ask(replace(ASKED, tenant="other")))
    assert stage.calls == 2
    stage.model.gate.set()
    await asyncio.gather(*tasks)


@pytest.mark.parametrize("failure", [BackendBroke("cut"), None])
async def test_leaders_failure_is_its_own_and_the_others_call_themselves(failure: BackendBroke | None) -> None:
    """It breaks, or its caller hangs up."""
    stage = Stage(backend=Gated)
    leader, *followers = await started(*(stage.ask() for _ in range(3)))
    if failure is None:
        leader.cancel()
    else:
        stage.model.chunks = (failure,)
        stage.model.gate.set()
    with pytest.raises((BackendBroke, asyncio.CancelledError)):
        await leader
    stage.model.chunks = (b"answer",)
    stage.model.gate.set()
    assert [b"".join(pieces) for _, pieces in await asyncio.gather(*followers)] == [b"answer"] * 2
    assert (stage.calls, len(stage.parts.flights), stage.model.open_calls) == (3, 0, 0)


async def test_leader_that_cannot_connect_does_not_fail_the_others() -> None:
    stage = Stage(shared=Shelf())  # the leader waits there, and the others behind it
    stage.model.error = BackendUnavailable("connect_failed")
    tasks = await started(*(stage.ask() for _ in range(3)))
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(each) for each in outcomes] == [BackendUnavailable] * 3
    assert stage.calls == 3, "each asked for itself and got its own answer"


async def test_one_who_leaves_while_waiting_does_not_end_it_for_the_others() -> None:
    stage = Stage(backend=Gated)
    _leader, leaving, staying = tasks = await started(*(stage.ask() for _ in range(3)))
    leaving.cancel()
    await asyncio.wait([leaving])
    stage.model.gate.set()
    assert (await staying)[0].rung == "cached"
    assert stage.calls == 1
    assert all(task.done() for task in tasks if task is not leaving)


async def test_nobody_waits_for_an_answer_that_has_grown_too_large() -> None:
    stage = Stage(backend=Gated, entry_bytes=50)
    tasks = await started(stage.ask(), stage.ask())
    stage.model.gate.set()
    assert [b"".join(pieces) for _, pieces in await asyncio.gather(*tasks)] == [b"answer"] * 2
    assert stage.calls == 2


async def test_patience_ends_and_the_rest_of_the_deadline_is_the_calls_own() -> None:
    stage = Stage(backend=Gated, follow_ratio=0.0)
    leader, follower = await started(stage.ask(), stage.ask())
    assert stage.calls == 2, "no patience at all: it went out itself"
    stage.model.gate.set()
    await asyncio.gather(leader, follower)
    assert stage.model.requests[1].timeout_s == 8.0


async def test_no_time_left_after_waiting_is_a_timeout() -> None:
    stage = Stage(backend=Gated)
    leader, follower = await started(stage.ask(), stage.ask())
    stage.clock.now_s += 8.0
    leader.cancel()
    with pytest.raises(BackendTimeout):
        await follower


async def test_another_gateways_answer_is_found_in_the_shared_store() -> None:
    shelf = Shelf()
    one, other = Stage(shared=shelf), Stage(shared=shelf)
    await one.ask()
    reply, pieces = await other.ask()
    assert (reply.rung, b"".join(pieces), other.calls) == ("cached", b"answer", 0)
    shelf.entries.clear()
    assert (await other.ask())[0].rung == "cached", "kept in this process too"
    assert other.events == ["shared_hit", "hit"]


async def test_stale_answer_of_the_shared_store_is_not_given() -> None:
    shelf = Shelf()
    await Stage(shared=shelf).ask()
    other = Stage(shared=shelf)
    other.clock.now_s += 61
    assert (await other.ask())[0].rung == "primary"


class AtOnce(FakeBackend):
    """Has its whole answer with its head."""

    def body(self) -> Any:
        return Whole(b"answer")


@pytest.mark.parametrize("shared", [None, Shelf()])
async def test_an_answer_that_is_here_whole_stays_whole_when_it_is_saved_and_when_it_is_given_again(
    shared: Shelf | None,
) -> None:
    stage = Stage(backend=AtOnce, shared=shared)
    for rung in ("primary", "cached"):
        async with stage.cache.send(ASKED) as reply:
            assert isinstance(reply.chunks, Whole)
            assert (reply.rung, reply.chunks.take()) == (rung, b"answer")
    assert stage.events == ["miss", "store", "hit"]
    assert shared is None or len(shared.entries) == 1


async def test_a_whole_answer_too_large_to_save_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(backend=AtOnce, entry_bytes=1024)
    monkeypatch.setattr(AtOnce, "body", lambda _: Whole(b"x" * 2000))
    for _ in range(2):
        async with stage.cache.send(ASKED) as reply:
            assert isinstance(reply.chunks, Whole)
            assert len(reply.chunks.take()) == 2000
    assert stage.events == ["miss", "miss"]
