"""The breaker as a table: what opens it, what heals it, what it ignores. Time is a number here."""

from __future__ import annotations

from itertools import pairwise

import pytest

from controlplane.resilience.breaker import (
    TRANSITIONS,
    CircuitBreaker,
    Event,
    IllegalTransition,
    State,
    Transition,
    Verdict,
)
from controlplane.resilience.settings import BreakerSettings

OK, FAILED, UNREACHABLE = Verdict.SUCCEEDED, Verdict.FAILED, Verdict.UNREACHABLE
FAST_S, SLOW_S = 0.01, 0.9


def breaker(**settings: float) -> CircuitBreaker:
    return CircuitBreaker("risk/2", BreakerSettings(**settings))


def call(tested: CircuitBreaker, verdict: Verdict, now_s: float, elapsed_s: float = FAST_S) -> bool:
    permit = tested.admit(now_s)
    if permit is not None:
        tested.report(permit, verdict, elapsed_s, now_s)
    return permit is not None


def calls(tested: CircuitBreaker, verdicts: list[Verdict], now_s: float, elapsed_s: float = FAST_S) -> int:
    return sum(call(tested, verdict, now_s, elapsed_s) for verdict in verdicts)


def opened(**settings: float) -> CircuitBreaker:
    """Open since 0 s, for 5 s."""
    tested = breaker(**settings)
    calls(tested, [FAILED] * 20, 0.0)
    assert tested.state is State.OPEN
    return tested


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", Event)
def test_every_move_outside_the_table_is_illegal(state: State, event: Event) -> None:
    tested = breaker()
    tested.state = state
    if event in TRANSITIONS[state]:
        tested._apply(event, "test", 0.0)
        assert tested.state is TRANSITIONS[state][event]
    else:
        with pytest.raises(IllegalTransition):
            tested._apply(event, "test", 0.0)


def test_dead_backend_is_given_up_after_twenty_calls() -> None:
    tested = breaker()
    assert calls(tested, [FAILED] * 100, 0.0) == 20
    assert (tested.state, tested.reason) == (State.OPEN, "error_rate")


def test_backend_without_connection_is_given_up_after_five_calls() -> None:
    tested = breaker()
    assert calls(tested, [UNREACHABLE] * 100, 0.0) == 5
    assert tested.reason == "connect_failures"


def test_answer_in_between_restarts_the_count_of_lost_connections() -> None:
    tested = breaker()
    calls(tested, [*[UNREACHABLE] * 4, OK, *[UNREACHABLE] * 4], 0.0)
    assert tested.state is State.CLOSED
    call(tested, UNREACHABLE, 0.0)
    assert tested.state is State.OPEN


def test_error_rate_below_the_threshold_never_opens() -> None:
    tested = breaker()
    for second in range(600):
        calls(tested, [OK, OK, OK, FAILED, FAILED], float(second))
    assert tested.state is State.CLOSED


def test_exactly_half_is_enough() -> None:
    tested = breaker()
    calls(tested, [OK] * 11 + [FAILED] * 10, 0.0)
    assert tested.state is State.CLOSED
    call(tested, FAILED, 0.0)
    assert tested.reason == "error_rate"


def test_few_calls_prove_nothing() -> None:
    tested = breaker()
    calls(tested, [FAILED] * 19, 0.0)
    assert tested.state is State.CLOSED


def test_slow_answers_open_though_every_one_is_right() -> None:
    tested = breaker()
    assert calls(tested, [OK] * 100, 0.0, SLOW_S) == 20
    assert tested.reason == "slow_rate"


def test_slow_and_failed_calls_add_up_and_none_counts_twice() -> None:
    tested = breaker()
    calls(tested, [FAILED] * 5, 0.0, SLOW_S)
    calls(tested, [OK] * 4, 0.0, SLOW_S)
    calls(tested, [OK] * 11, 0.0)
    assert tested.state is State.CLOSED
    assert tested.counts(0.0) == (20, 5, 4)
    calls(tested, [OK] * 2, 0.0, SLOW_S)
    assert tested.reason == "slow_rate"


@pytest.mark.parametrize("verdict", [Verdict.TAUGHT_NOTHING, Verdict.ABANDONED])
def test_calls_that_teach_nothing_change_nothing(verdict: Verdict) -> None:
    tested = breaker()
    calls(tested, [UNREACHABLE] * 4, 0.0)
    before = tested.counts(0.0)
    calls(tested, [verdict] * 100, 0.0)
    assert (tested.state, tested.counts(0.0)) == (State.CLOSED, before)


def test_callers_who_lose_patience_with_a_frozen_backend_open_it() -> None:
    tested = breaker()
    calls(tested, [Verdict.ABANDONED] * 20, 0.0, SLOW_S)
    assert tested.reason == "slow_rate"


def test_no_good_answer_opens_a_breaker() -> None:
    """Nineteen of nineteen failed, too few to tell; the twentieth is good news."""
    tested = breaker()
    calls(tested, [FAILED] * 19 + [OK], 0.0)
    assert tested.state is State.CLOSED
    call(tested, FAILED, 0.0)
    assert tested.state is State.OPEN


@pytest.mark.parametrize(
    ("verdicts", "word"),
    [
        ([Verdict.SILENT] * 20, "first_token_late"),
        ([Verdict.STALLED] * 20, "stalled"),
        ([Verdict.SILENT, Verdict.STALLED] * 10, "error_rate"),
        ([Verdict.SILENT] * 9 + [FAILED] * 11, "error_rate"),
        ([Verdict.SILENT] * 11 + [OK] * 9, ""),
        ([OK] * 9 + [Verdict.SILENT] * 11, "first_token_late"),
    ],
)
def test_word_for_too_many_failures_says_what_most_of_them_were(verdicts: list[Verdict], word: str) -> None:
    tested = breaker()
    calls(tested, verdicts, 0.0)
    assert tested.reason == word


def test_passed_deadline_counts_by_how_long_it_was() -> None:
    tested = breaker()
    calls(tested, [Verdict.LATE] * 100, 0.0, FAST_S)
    assert tested.counts(0.0).calls == 0
    assert calls(tested, [Verdict.LATE] * 100, 0.0, SLOW_S) == 20
    assert tested.reason == "error_rate"


def test_call_seen_to_work_elsewhere_brings_the_next_probe_forward_and_closes_nothing() -> None:
    tested = opened()
    tested.hasten(1.0)
    assert tested.state is State.OPEN
    assert sum(tested.admit(1.0) is not None for _ in range(200)) == 1
    tested.hold("operator", 1.0)
    tested.hasten(2.0)
    assert tested.admit(2.0) is None


def test_old_failures_leave_the_window() -> None:
    tested = breaker()
    calls(tested, [FAILED] * 19, 0.0)
    assert tested.counts(59.0).failed == 19, "a window with few calls reaches back to its longest"
    assert tested.counts(60.0).calls == 0
    call(tested, FAILED, 61.0)
    assert tested.state is State.CLOSED


def test_window_stretches_only_while_it_holds_too_few_calls() -> None:
    tested = breaker()
    calls(tested, [FAILED] * 9, 0.0)
    calls(tested, [OK] * 50, 11.0)
    assert tested.counts(11.0) == (50, 0, 0)
    assert tested.counts(30.0) == (50, 0, 0)
    edge = breaker()
    calls(edge, [FAILED] * 9, 0.0)
    calls(edge, [OK] * 50, 9.9)
    assert edge.counts(9.9).failed == 9
    assert edge.counts(10.0).failed == 0
    quiet = breaker()
    calls(quiet, [FAILED] * 9, 0.0)
    calls(quiet, [OK] * 49, 11.0)
    assert quiet.counts(11.0) == (58, 9, 0)


def test_open_breaker_refuses_and_says_when_to_come_back() -> None:
    tested = opened()
    assert tested.admit(4.9) is None
    assert tested.retry_after_s(1.0) == 4.0
    assert tested.admit(5.0) is not None
    assert tested.state is State.HALF_OPEN


def test_two_hundred_callers_at_once_send_one_probe() -> None:
    tested = opened()
    assert sum(tested.admit(5.0) is not None for _ in range(200)) == 1


def test_who_comes_while_a_probe_is_under_way_is_told_to_come_back_soon() -> None:
    tested = opened()
    assert tested.admit(5.0) is not None
    assert (tested.admit(5.0), tested.retry_after_s(5.0)) == (None, 1.0)
    healed = opened()
    calls(healed, [OK], 5.0)
    assert (healed.state, healed.retry_after_s(5.0)) == (State.HALF_OPEN, None), "nothing is in the way"


def test_round_of_good_probes_closes_with_a_clean_window() -> None:
    tested = opened()
    assert calls(tested, [OK] * 4, 5.0) == 4
    assert (tested.state, tested.reason) == (State.CLOSED, "probes_succeeded")
    assert tested.counts(5.0).calls == 0


def test_one_bad_probe_is_forgiven_and_two_reopen_for_twice_as_long() -> None:
    tested = opened()
    calls(tested, [OK, OK, FAILED], 5.0)
    assert tested.state is State.HALF_OPEN
    call(tested, FAILED, 5.0)
    assert (tested.state, tested.reason) == (State.OPEN, "probes_failed")
    assert tested.retry_after_s(5.0) == 10.0


def test_slow_probe_is_no_success() -> None:
    tested = opened()
    calls(tested, [OK] * 2, 5.0, SLOW_S)
    assert tested.state is State.OPEN


def test_open_time_doubles_to_its_limit_and_starts_anew_once_healed() -> None:
    tested, now_s, spans = opened(), 0.0, []
    for _ in range(6):
        spans.append(tested.retry_after_s(now_s))
        now_s += spans[-1]
        calls(tested, [FAILED] * 2, now_s)
    assert spans == [5, 10, 20, 40, 60, 60]
    now_s += 60
    calls(tested, [OK] * 4, now_s)
    calls(tested, [FAILED] * 20, now_s)
    assert tested.retry_after_s(now_s) == 5


@pytest.mark.parametrize(("random", "seconds"), [(0.0, 4.0), (0.5, 5.0), (1.0, 6.0)])
def test_jitter_spreads_the_open_time(random: float, seconds: float) -> None:
    tested = CircuitBreaker("risk/2", BreakerSettings(), jitter=lambda: random)
    calls(tested, [FAILED] * 20, 0.0)
    assert tested.retry_after_s(0.0) == pytest.approx(seconds)


def test_abandoned_probe_gives_its_place_back_at_once() -> None:
    tested = opened()
    permit = tested.admit(5.0)
    assert tested.admit(5.0) is None
    tested.report(permit, Verdict.ABANDONED, FAST_S, 5.1)
    assert tested.state is State.HALF_OPEN
    assert tested.admit(5.1) is not None


def test_probe_that_never_reports_gives_its_place_back_after_its_lease() -> None:
    tested = opened()
    tested.admit(5.0)
    assert tested.admit(34.9) is None
    assert tested.admit(35.0) is not None


def test_late_answer_of_an_older_round_does_not_count() -> None:
    tested = breaker()
    from_before = tested.admit(0.0)
    calls(tested, [FAILED] * 20, 0.0)
    first_round = tested.admit(5.0)
    tested.hold("operator", 5.0)
    tested.release("operator", 5.0)
    for late in (from_before, first_round):
        for _ in range(10):
            tested.report(late, FAILED, FAST_S, 6.0)
    assert tested.state is State.HALF_OPEN
    assert calls(tested, [OK] * 4, 6.0) == 4
    tested.report(from_before, FAILED, FAST_S, 6.0)
    assert tested.counts(6.0).calls == 0


def test_held_breaker_refuses_until_its_last_holder_lets_go() -> None:
    tested = breaker()
    assert tested.hold("drift_verdict", 0.0)
    assert not tested.hold("drift_verdict", 0.0)
    assert tested.hold("operator", 1.0)
    assert tested.release("drift_verdict", 2.0)
    assert tested.admit(1e9) is None
    assert (tested.state, tested.holds, tested.retry_after_s(1e9)) == (State.HELD, ("operator",), None)
    assert not tested.release("nobody", 3.0)
    assert tested.release("operator", 3.0)
    assert tested.state is State.HALF_OPEN
    assert calls(tested, [OK] * 4, 3.0) == 4
    assert tested.state is State.CLOSED


def test_transitions_are_announced_with_their_reasons() -> None:
    told: list[Transition] = []
    tested = CircuitBreaker("risk/2", BreakerSettings(), listener=told.append)
    calls(tested, [FAILED] * 20, 1.0)
    calls(tested, [OK] * 4, 6.0)
    tested.hold("drift_verdict", 7.0)
    tested.release("drift_verdict", 8.0)
    assert [(move.after.value, move.reason, move.at_s) for move in told] == [
        ("open", "error_rate", 1.0),
        ("half_open", "cooled_down", 6.0),
        ("closed", "probes_succeeded", 6.0),
        ("held", "drift_verdict", 7.0),
        ("half_open", "drift_verdict", 8.0),
    ]
    assert all(earlier.after is later.before for earlier, later in pairwise(told))
