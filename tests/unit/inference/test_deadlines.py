"""Many waits, one timer, on a clock that passes when it is told to."""

from __future__ import annotations

import asyncio

import pytest

from inference.openai_http.deadlines import Deadlines


class Clock:
    """The running loop's clock, moved on by hand; ``timers`` are those that were set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._loop = asyncio.get_running_loop()
        self._time, self._call_at, self._passed_s = self._loop.time, self._loop.call_at, 0.0
        self.timers: list[asyncio.TimerHandle] = []
        monkeypatch.setattr(self._loop, "time", self.now)
        monkeypatch.setattr(self._loop, "call_at", self._noted)

    def now(self) -> float:
        return self._time() + self._passed_s

    async def pass_by(self, seconds: float) -> None:
        self._passed_s += seconds
        for _ in range(5):  # the timer rings, the wait is interrupted, its task ends
            await asyncio.sleep(0)

    def _noted(self, *given):
        self.timers.append(self._call_at(*given))
        return self.timers[-1]


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


async def silent() -> str:
    return await asyncio.get_running_loop().create_future()


def waiting(deadlines: Deadlines, clock: Clock, span_s: float) -> asyncio.Task[str]:
    return asyncio.ensure_future(deadlines.within(clock.now() + span_s, silent()))


def is_late(task: asyncio.Task[str]) -> bool:
    return task.done() and not task.cancelled() and isinstance(task.exception(), TimeoutError)


async def test_each_wait_ends_at_its_own_instant_whenever_it_began(clock: Clock) -> None:
    deadlines = Deadlines()
    first, second, third = (waiting(deadlines, clock, span_s) for span_s in (100.0, 50.0, 70.0))
    await clock.pass_by(49.0)
    assert not any(task.done() for task in (first, second, third))
    await clock.pass_by(2.0)
    assert (first.done(), is_late(second), third.done()) == (False, True, False)
    await clock.pass_by(20.0)
    assert (first.done(), is_late(third)) == (False, True)
    await clock.pass_by(30.0)
    assert is_late(first)


async def test_an_answer_in_time_is_given_and_those_who_wait_on_are_still_not_forgotten(clock: Clock) -> None:
    deadlines = Deadlines()
    answer = asyncio.get_running_loop().create_future()
    answered = asyncio.ensure_future(deadlines.within(clock.now() + 50.0, answer))
    other = waiting(deadlines, clock, 90.0)
    await clock.pass_by(10.0)
    answer.set_result("here")
    assert await answered == "here"
    await clock.pass_by(50.0)
    assert not other.done()
    await clock.pass_by(40.0)
    assert is_late(other)


async def test_one_timer_serves_any_number_of_waits_that_follow_each_other(clock: Clock) -> None:
    deadlines = Deadlines()
    for _ in range(100):
        assert await deadlines.within(clock.now() + 60.0, asyncio.sleep(0, "here")) == "here"
        await clock.pass_by(0.1)
    assert len(clock.timers) == 1


async def test_when_nobody_waits_any_more_the_next_wait_has_its_timer_again(clock: Clock) -> None:
    deadlines = Deadlines()
    first = waiting(deadlines, clock, 50.0)
    await clock.pass_by(51.0)
    assert is_late(first)
    later = waiting(deadlines, clock, 50.0)
    await clock.pass_by(51.0)
    assert is_late(later)


async def test_a_hang_up_is_a_hang_up_and_no_lateness(clock: Clock) -> None:
    deadlines = Deadlines()
    task = waiting(deadlines, clock, 50.0)
    await clock.pass_by(1.0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    await clock.pass_by(60.0)


async def test_closed_deadlines_leave_no_timer(clock: Clock) -> None:
    deadlines = Deadlines()
    await deadlines.within(clock.now() + 60.0, asyncio.sleep(0))
    deadlines.close()
    assert all(timer.cancelled() for timer in clock.timers)
