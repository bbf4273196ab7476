"""Many waits, one timer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from inference.openai_http.deadlines import Deadlines


class Timer:
    def __init__(self, at_s: float, ring: Callable[[], None]) -> None:
        self.at_s, self.ring, self.is_set = at_s, ring, True

    def cancel(self) -> None:
        self.is_set = False


class Loop(asyncio.AbstractEventLoop):
    """As much of a loop as a timer needs; time stands until it is told to pass."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.timers: list[Timer] = []

    def time(self) -> float:
        return self.now_s

    def call_at(self, when, callback, *_, **__):
        self.timers.append(Timer(when, callback))
        return self.timers[-1]

    def pass_until(self, now_s: float) -> None:
        while due := [timer for timer in self.timers if timer.is_set and timer.at_s <= now_s]:
            timer = min(due, key=lambda one: one.at_s)
            timer.is_set, self.now_s = False, timer.at_s
            timer.ring()
        self.now_s = now_s


class Wait:
    def __init__(self) -> None:
        self.errors: list[BaseException] = []

    def set_exception(self, error: BaseException, /) -> None:
        self.errors.append(error)

    @property
    def is_late(self) -> bool:
        return [type(error) for error in self.errors] == [TimeoutError]


def test_a_wait_ends_at_its_own_instant_whenever_it_began() -> None:
    loop = Loop()
    deadlines, first, second, third = Deadlines(loop), Wait(), Wait(), Wait()
    deadlines.add(first, 10.0)
    deadlines.add(second, 5.0)
    deadlines.add(third, 7.0)
    loop.pass_until(5.0)
    assert (first.is_late, second.is_late, third.is_late) == (False, True, False)
    loop.pass_until(7.0)
    assert (first.is_late, third.is_late) == (False, True)
    loop.pass_until(10.0)
    assert first.is_late


def test_a_wait_that_was_discarded_never_fails_and_those_after_it_still_do() -> None:
    loop = Loop()
    deadlines, answered, silent = Deadlines(loop), Wait(), Wait()
    deadlines.add(answered, 5.0)
    deadlines.add(silent, 9.0)
    deadlines.discard(answered)
    loop.pass_until(8.9)
    assert not answered.errors
    assert not silent.errors
    loop.pass_until(9.0)
    assert silent.is_late
    deadlines.discard(silent)  # as whoever waited does in any case


def test_one_timer_serves_any_number_of_waits_that_follow_each_other() -> None:
    loop = Loop()
    deadlines = Deadlines(loop)
    for number in range(100):
        wait = Wait()
        deadlines.add(wait, 60.0 + number)
        deadlines.discard(wait)
    assert len(loop.timers) == 1


def test_when_all_are_gone_the_next_wait_has_its_timer_again() -> None:
    loop = Loop()
    deadlines, first, later = Deadlines(loop), Wait(), Wait()
    deadlines.add(first, 5.0)
    loop.pass_until(6.0)
    deadlines.add(later, 8.0)
    loop.pass_until(8.0)
    assert later.is_late


def test_a_timer_that_rings_a_little_early_ends_its_wait_all_the_same() -> None:
    loop = Loop()
    deadlines, wait = Deadlines(loop), Wait()
    deadlines.add(wait, 5.0)
    loop.now_s = 4.9999
    loop.timers[0].ring()
    assert wait.is_late


def test_closed_deadlines_leave_no_timer() -> None:
    loop = Loop()
    deadlines = Deadlines(loop)
    deadlines.add(Wait(), 5.0)
    deadlines.close()
    assert not any(timer.is_set for timer in loop.timers)
