"""The fallback ladder: who answers when the primary cannot, who never does, and that the reply says so."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace as replace_field

import pytest
from msgspec.structs import replace

from controlplane.resilience.cache import ENTRY_OVERHEAD_BYTES, AnswerCache, CachedAnswer, cache_key
from controlplane.resilience.deadline import Deadline
from controlplane.resilience.ladder import FallbackLadder
from controlplane.resilience.settings import FallbackSettings
from inference.backend import BackendReply, BackendRequest
from inference.errors import BackendBroke, BackendError, BackendRejected, BackendTimeout, BackendUnavailable
from tests.unit.resilience.fakes import FakeBackend, FakeClock

ASKED = BackendRequest(
    call_id="1", target="risk", operation="Predict", version=2, body=b"\x01\x02", scope="acme:rev1", timeout_s=8.0
)
DOWN = BackendUnavailable("connect_failed")


class Stage:
    """A ladder of three rungs with its parts in reach."""

    def __init__(self, *rungs: str, **settings: float) -> None:
        self.clock = FakeClock(100.0)
        self.settings = FallbackSettings(**settings)
        self.primary = FakeBackend(self.clock, (b"pri", b"mary"))
        self.lighter = FakeBackend(self.clock, (b"lighter",), served_by="")
        self.cache = AnswerCache(self.settings)
        names = rungs or ("cache", "risk-baseline")
        self.ladder = FallbackLadder(
            self.primary, {"risk": names}, {"risk-baseline": self.lighter}, self.cache, self.settings, self.clock
        )

    async def ask(self, request: BackendRequest = ASKED) -> tuple[BackendReply, bytes]:
        async with self.ladder.send(request) as reply, aclosing(reply.chunks) as chunks:
            return reply, b"".join([chunk async for chunk in chunks])


async def test_primary_answers_while_it_can() -> None:
    stage = Stage()
    reply, body = await stage.ask()
    assert (body, reply.rung, reply.served_by) == (b"primary", "primary", "risk/2")
    assert stage.lighter.requests == []


@pytest.mark.parametrize("error", [DOWN, BackendTimeout("deadline"), BackendBroke("hung_up")])
async def test_remembered_answer_comes_before_the_lighter_model(error: BackendError) -> None:
    stage = Stage()
    await stage.ask()
    stage.primary.error, stage.clock.now_s = error, 130.0
    reply, body = await stage.ask()
    assert (body, reply.rung, reply.served_by, reply.status) == (b"primary", "cache", "risk/2", 200)
    assert reply.age_s == 30
    assert stage.lighter.requests == []


async def test_lighter_model_answers_under_its_own_name() -> None:
    stage = Stage()
    stage.primary.error = DOWN
    reply, body = await stage.ask()
    assert (body, reply.rung, reply.served_by) == (b"lighter", "lighter", "risk-baseline")
    (asked,) = stage.lighter.requests
    assert (asked.target, asked.version, asked.label, asked.body) == ("risk-baseline", None, None, ASKED.body)


async def test_last_rung_is_the_primarys_own_refusal() -> None:
    stage = Stage()
    stage.primary.error = BackendUnavailable("breaker_open", retry_after_s=4.0)
    stage.lighter.error = BackendBroke("hung_up")
    with pytest.raises(BackendUnavailable) as caught:
        await stage.ask()
    assert (caught.value.reason, caught.value.retry_after_s) == ("breaker_open", 4.0)


async def test_lighter_model_that_answers_with_an_error_is_no_answer() -> None:
    stage = Stage()
    stage.primary.error, stage.lighter.status = DOWN, 404
    with pytest.raises(BackendUnavailable):
        await stage.ask()
    assert stage.lighter.open_calls == 0


async def test_rungs_are_tried_in_the_order_given() -> None:
    stage = Stage("risk-baseline", "cache")
    await stage.ask()
    stage.primary.error = DOWN
    assert (await stage.ask())[0].rung == "lighter"
    stage.lighter.error = DOWN
    assert (await stage.ask())[0].rung == "cache"


async def test_model_without_rungs_falls_on_nobody() -> None:
    stage = Stage()
    stage.primary.error = DOWN
    with pytest.raises(BackendUnavailable):
        await stage.ask(replace(ASKED, target="other"))
    assert stage.lighter.requests == []


async def test_unknown_rung_is_passed_over() -> None:
    stage = Stage("no-such-model", "risk-baseline")
    stage.primary.error = DOWN
    assert (await stage.ask())[0].rung == "lighter"


@pytest.mark.parametrize("error", [BackendRejected("bad_signature"), asyncio.CancelledError()])
async def test_wrong_request_and_absent_caller_never_fall(error: BaseException) -> None:
    stage = Stage()
    await stage.ask()
    stage.primary.error = error
    with pytest.raises(type(error)):
        await stage.ask()
    assert stage.lighter.requests == []


async def test_nothing_falls_once_a_reply_has_begun() -> None:
    stage = Stage()
    stage.primary.chunks = (b"pri", BackendBroke("cut"))
    with pytest.raises(BackendBroke):
        await stage.ask()
    assert stage.lighter.requests == []
    assert stage.primary.open_calls == 0


async def test_distrusted_model_is_not_believed_from_memory_either() -> None:
    stage = Stage()
    await stage.ask()
    stage.primary.error = BackendUnavailable("breaker_held")
    assert (await stage.ask())[0].rung == "lighter"


@pytest.mark.parametrize(
    "change",
    [
        {"scope": "other:rev1"},
        {"scope": "acme:rev2"},
        {"version": 1},
        {"version": None},
        {"label": "stable", "version": None},
        {"operation": "Classify"},
        {"body": b"\x01\x03"},
    ],
)
async def test_answer_is_remembered_for_the_same_question_alone(change: dict) -> None:
    stage = Stage("cache")
    await stage.ask()
    stage.primary.error = DOWN
    with pytest.raises(BackendUnavailable):
        await stage.ask(replace(ASKED, **change))
    assert (await stage.ask())[0].rung == "cache"


@pytest.mark.parametrize("change", [{"operation": "chat"}, {"streams": True}, {"scope": ""}, {"operation": "call"}])
async def test_generated_streamed_and_unscoped_answers_are_never_remembered(change: dict) -> None:
    stage, request = Stage("cache"), replace(ASKED, **change)
    await stage.ask(request)
    stage.primary.error = DOWN
    with pytest.raises(BackendUnavailable):
        await stage.ask(request)


async def test_unfinished_and_refused_answers_are_never_remembered() -> None:
    stage = Stage("cache")
    async with stage.ladder.send(ASKED) as reply:
        await anext(reply.chunks)
    stage.primary.status = 404
    await stage.ask()
    assert stage.cache.size_bytes == 0


async def test_lighter_answer_is_never_remembered_as_the_primarys() -> None:
    stage = Stage("risk-baseline", "cache")
    stage.primary.error = DOWN
    await stage.ask()
    assert stage.cache.size_bytes == 0


async def test_remembered_answer_grows_too_old() -> None:
    stage = Stage("cache", cache_ttl_s=60.0)
    await stage.ask()
    stage.primary.error, stage.clock.now_s = DOWN, 160.0
    with pytest.raises(BackendUnavailable):
        await stage.ask()
    assert stage.cache.size_bytes == 0


async def test_all_rungs_share_one_deadline() -> None:
    stage = Stage("risk-baseline")
    stage.primary.error, stage.primary.head_s = BackendTimeout("deadline"), 6.0
    await stage.ask()
    assert stage.primary.requests[0].timeout_s == 6.0, "a quarter is kept for the next rung"
    assert stage.lighter.requests[0].timeout_s == 2.0


async def test_rung_without_time_left_is_not_tried() -> None:
    stage = Stage("risk-baseline")
    stage.primary.error, stage.primary.head_s = BackendTimeout("deadline"), 8.0
    with pytest.raises(BackendTimeout):
        await stage.ask()
    assert stage.lighter.requests == []


@pytest.mark.parametrize(("rungs", "streams"), [(("cache",), False), (("risk-baseline",), True)])
async def test_whole_time_is_the_primarys_when_nobody_waits_for_a_share(rungs: tuple[str, ...], streams: bool) -> None:
    stage = Stage(*rungs)
    await stage.ask(replace(ASKED, streams=streams))
    assert stage.primary.requests[0].timeout_s == 8.0


async def test_abandoned_fallback_is_closed() -> None:
    stage = Stage()
    stage.primary.error = DOWN
    async with stage.ladder.send(ASKED):
        assert stage.lighter.open_calls == 1
    assert stage.lighter.open_calls == 0


async def test_what_a_version_said_that_is_held_now_is_not_given_again_when_another_cannot_answer() -> None:
    """After a rollback another version is asked; that one being down makes the distrusted one no better."""
    held: set[str] = set()
    stage = Stage()
    stage.ladder = replace_field(stage.ladder, distrusts=held.__contains__)
    asked = replace(ASKED, version=None)
    await stage.ask(asked)
    stage.primary.error = DOWN
    assert (await stage.ask(asked))[0].rung == "cache"
    held.add("risk/2")
    reply, body = await stage.ask(asked)
    assert (body, reply.rung) == (b"lighter", "lighter")


def test_spacing_and_order_of_json_do_not_change_the_question() -> None:
    one = replace(ASKED, operation="embeddings", body=b'{"model": "m", "input": [1, 2]}')
    assert cache_key(one) == cache_key(replace(one, body=b'{"input":[1,2],"model":"m"}'))
    assert cache_key(one) != cache_key(replace(one, body=b'{"input":[2,1],"model":"m"}'))


@pytest.mark.parametrize("body", [b'{"input":"\xff"}', b'\n"\xff', b"[" * 100_000])
async def test_question_that_is_no_text_is_one_all_the_same(body: bytes) -> None:
    stage = Stage()
    asked = replace(ASKED, operation="embeddings", body=body)
    await stage.ask(asked)
    stage.primary.error = DOWN
    reply, answer = await stage.ask(asked)
    assert (answer, reply.rung) == (b"primary", "cache")


def test_parts_of_the_key_cannot_run_into_each_other() -> None:
    assert cache_key(replace(ASKED, scope="a", target="bc")) != cache_key(replace(ASKED, scope="ab", target="c"))


def test_cache_forgets_the_least_recently_used_to_stay_within_its_bytes() -> None:
    cache = AnswerCache(FallbackSettings(cache_bytes=2 * (ENTRY_OVERHEAD_BYTES + 10)))
    for key in (b"a", b"b"):
        cache.put(key, CachedAnswer((), b"x" * 10, "m", 0.0))
    assert cache.get(b"a", 0.0) is not None
    cache.put(b"c", CachedAnswer((), b"x" * 10, "m", 0.0))
    assert [cache.get(key, 0.0) is not None for key in (b"a", b"b", b"c")] == [True, False, True]
    assert cache.size_bytes == 2 * (ENTRY_OVERHEAD_BYTES + 10)


def test_answer_too_large_is_not_remembered_and_replaces_the_old_one() -> None:
    cache = AnswerCache(FallbackSettings(cache_entry_bytes=10))
    cache.put(b"a", CachedAnswer((), b"x", "m", 0.0))
    cache.put(b"a", CachedAnswer((), b"x" * 11, "m", 0.0))
    assert (cache.get(b"a", 0.0), cache.size_bytes) == (None, 0)


def test_deadline_counts_down_and_keeps_a_share() -> None:
    deadline = Deadline.after(10.0, 5.0)
    assert (deadline.remaining_s(7.0), deadline.remaining_s(7.0, reserve_ratio=0.5)) == (8.0, 4.0)
    assert (deadline.remaining_s(99.0), deadline.has_passed(14.9), deadline.has_passed(15.0)) == (0.0, False, True)
