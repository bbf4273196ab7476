"""Too often, by an agent's own habit: false alarms inside their budget, and a way back that does not flap."""

from __future__ import annotations

from math import exp, fsum
from pathlib import Path

import numpy as np
import pytest

from benchmarks.behaviour_traffic import BEGINS_S, KINDS, MINUTES_A_DAY
from controlplane.behaviour.past import load, save
from controlplane.behaviour.rates import Change, Hour, Rate, kept, prior_limit, restored
from controlplane.behaviour.tails import limit_of, log_pmf, tail_bound
from controlplane.policy.behaviour import RateRule
from tests.unit.behaviour.rig import REFUSED, Rig, agent, bundle
from tests.unit.behaviour.traffic import false_alarms

RULE = RateRule(id="rate.habit")
SIGMA = RateRule(id="rate.sigma", limit="mean_sigma")
DAYS, BUDGET = 7, 0.05
STEADY = ("Poisson, 20 a minute", "Poisson, 0.5 a minute", "bursty")
UNSTEADY = ("runs", "office hours", "overdispersed")


@pytest.mark.parametrize("mean", [0.01, 0.5, 5.0, 20.0, 300.0])
@pytest.mark.parametrize("spread", [0.0, 0.01, 0.3, 1.0, 11.0])
def test_the_tail_is_bounded_and_nearly_met(mean: float, spread: float) -> None:
    limit = limit_of(mean, spread, 1e-5)
    width = int(mean + 60 * (mean + spread * mean**2) ** 0.5 * (1 + spread)) + 200
    terms = [exp(log_pmf(count, mean, spread)) for count in range(limit + width)]
    assert fsum(terms) == pytest.approx(1, abs=1e-6)
    beyond = fsum(terms[limit + 1 :])
    assert beyond <= 1e-5
    assert beyond <= tail_bound(limit + 1, mean, spread) + 1e-12
    assert fsum(terms[int(limit * 0.9) - 1 :]) > 1e-5, "a tenth lower would be exceeded more often"


@pytest.mark.parametrize("kind", STEADY)
def test_seven_days_of_an_agent_from_its_first_call_on_stay_inside_the_budget(kind: str) -> None:
    """Several agents, because a budget of a twentieth of an alarm a day is not seen in seven days."""
    agents = 3
    counts = [KINDS[kind](np.random.default_rng(seed), DAYS * MINUTES_A_DAY) for seed in range(agents)]
    begins = sum(false_alarms(RULE, each)[0] for each in counts)
    assert begins <= BUDGET * DAYS * agents


@pytest.mark.parametrize("kind", UNSTEADY)
def test_habits_that_are_no_poisson_stay_inside_it_too(kind: str) -> None:
    begins, _ = false_alarms(RULE, KINDS[kind](np.random.default_rng(7), DAYS * MINUTES_A_DAY))
    assert begins <= BUDGET * DAYS


def test_a_rate_that_wanders_stays_inside_it_though_it_is_no_model_of_ours() -> None:
    """Ten agents: with the tail of the estimated spread alone it was near three times the budget."""
    agents = 10
    counts = [KINDS["swaying"](np.random.default_rng(seed), DAYS * MINUTES_A_DAY) for seed in range(agents)]
    begins = sum(false_alarms(RULE, each)[0] for each in counts)
    assert begins <= BUDGET * DAYS * agents


def test_every_kind_of_traffic_is_held_against_the_budget_here() -> None:
    assert set(KINDS) == {*STEADY, *UNSTEADY, "swaying"}


def test_plain_mean_and_sigmas_cry_wolf() -> None:
    """Why it is an option and not the default."""
    counts = KINDS["Poisson, 0.5 a minute"](np.random.default_rng(1), DAYS * MINUTES_A_DAY)
    begins, _ = false_alarms(SIGMA, counts)
    assert begins > 5 * DAYS


def settled(kind: str = "Poisson, 20 a minute", days: int = 4) -> Rate:
    rate = Rate()
    false_alarms(RULE, KINDS[kind](np.random.default_rng(3), days * MINUTES_A_DAY), rate)
    return rate


def minute_of(rate: Rate, minute: int, count: int) -> tuple[int, list[Change]]:
    """How many of so many calls were let through, and what changed."""
    answers = [rate.ask(RULE, BEGINS_S + minute * 60 + 59.0 * call / max(1, count)) for call in range(count)]
    return sum(not too_many for too_many, _ in answers), [c for _, c in answers if c not in (None, Change.HOLDS)]


def test_five_times_the_habit_is_throttled_within_a_minute() -> None:
    rate, minute = settled(), 4 * MINUTES_A_DAY
    passed, changes = minute_of(rate, minute, 100)
    assert changes == [Change.BEGINS]
    assert passed <= 45


def test_a_throttled_agent_gets_less_than_its_limit_and_the_way_back_takes_quiet_minutes() -> None:
    rate, minute = settled(), 4 * MINUTES_A_DAY
    minute_of(rate, minute, 100)
    passed, changes = minute_of(rate, minute + 1, 100)
    assert changes == []
    assert passed == int(RULE.back_ratio * rate.limit)
    for quiet in range(2, 4):
        assert minute_of(rate, minute + quiet, 20)[1] == []
        assert rate.is_throttled
    minute_of(rate, minute + 4, 20)
    _, changes = minute_of(rate, minute + 5, 20)
    assert changes == [Change.ENDS]
    assert not rate.is_throttled


def test_noise_around_the_limit_does_not_flap() -> None:
    rate, minute = settled(), 4 * MINUTES_A_DAY
    limit = rate.limit_in(RULE, BEGINS_S // 60 + minute)
    moves = [change for step in range(60) for change in minute_of(rate, minute + step, limit - 3 + 6 * (step % 2))[1]]
    assert moves == [Change.BEGINS]


def test_retry_after_is_the_end_of_the_window() -> None:
    assert Rate().left_s(RULE, BEGINS_S + 15.0) == 45.0
    assert Rate().left_s(RULE, BEGINS_S + 59.9) == 1.0


def test_a_new_agent_has_the_priors_limit_until_its_hour_was_seen_on_enough_days() -> None:
    rate = Rate()
    counts = np.full(MINUTES_A_DAY + 61, 2)
    false_alarms(RULE, counts, rate)
    assert rate.limit == prior_limit(RULE)
    assert rate.limit_in(RULE, BEGINS_S // 60) < prior_limit(RULE) / 10


def test_an_hour_that_was_never_seen_does_not_have_the_limit_of_the_others() -> None:
    rate = Rate()
    for day in range(5):
        false_alarms(RULE, np.full(60, 1), rate, day * MINUTES_A_DAY)
    rate.ask(RULE, BEGINS_S + (5 * MINUTES_A_DAY + 12 * 60) * 60)
    assert rate.limit < 60, "noon was seen, and it was silent"


def test_silence_is_learnt_up_to_a_week() -> None:
    rate = settled()
    before = rate.mean
    rate.ask(RULE, BEGINS_S + 40 * MINUTES_A_DAY * 60)
    assert before / 10 < rate.mean < before / 2


def test_silence_is_learnt_like_so_many_empty_windows() -> None:
    one, other = Hour(), Hour()
    for count in (3, 5, 0, 2):
        one.learn(count, 1, 1e9)
        other.learn(count, 1, 1e9)
    for _ in range(10):
        one.learn(0, 1, 1e9)
    other.learn_silence(10, 1, 1e9)
    assert (one.weight, one.mean, one.square) == pytest.approx((other.weight, other.mean, other.square))


def test_a_burst_teaches_no_more_than_the_limit() -> None:
    rate, minute = settled(), 4 * MINUTES_A_DAY
    limit = rate.limit_in(RULE, BEGINS_S // 60 + minute)
    minute_of(rate, minute, 5000)
    minute_of(rate, minute + 1, 1)
    assert rate.limit_in(RULE, BEGINS_S // 60 + minute) < limit * 1.2


def test_what_was_learnt_survives_and_nonsense_does_not() -> None:
    rate = settled()
    again = restored(kept(rate))
    noon = BEGINS_S // 60 + 4 * MINUTES_A_DAY + 720
    again.spread = rate.spread
    assert again.limit_in(RULE, noon) == rate.limit_in(RULE, noon)
    for nonsense in ([], [60, 1, 2, []], [60, 1, 2, [[0] * 5]]):
        with pytest.raises(ValueError):
            restored(nonsense)


def test_too_many_calls_are_answered_with_429_and_told_when_it_begins_and_ends() -> None:
    rig = Rig(bundle(rates=[{"id": "rate.habit", "prior": {"mean": 1.0}}]))
    rig.now_s = float(BEGINS_S)
    reasons = [rig.ask("look") for _ in range(60)]
    assert reasons[-1] == "behaviour_throttled"
    assert 1 <= (rig.decision.retry_after_s or 0) <= 60
    assert [(one["change"], one["facts"]["limit"]) for one in rig.records] == [("begins", reasons.count("granted"))]
    for _ in range(5):
        rig.now_s += 60
        assert rig.ask("look") == "granted"
    assert rig.rules_told()[-1] == ("rate.habit", "throttle", "ends")


def test_what_policy_denies_is_counted_and_stays_policys_answer() -> None:
    rig = Rig(bundle(rates=[{"id": "rate.habit", "prior": {"mean": 1.0}}]))
    for _ in range(60):
        rig.judge(rig.call("look"), agent(), REFUSED)
    assert rig.decision is REFUSED
    assert rig.ask("look") == "behaviour_throttled"


def test_windows_of_another_length_are_learnt_anew(tmp_path: Path) -> None:
    """Ten calls a minute are a hundred in ten minutes, and nothing that an agent of ten calls may not do."""
    rig = Rig(bundle(rates=[{"id": "rate.habit", "settled_days": 0, "window_s": 60}]))
    for _ in range(300):
        for _ in range(10):
            assert rig.ask("look") == "granted"
        rig.now_s += 60
    save(rig.watch.agents(), tmp_path / "rates.json")
    restarted = Rig(bundle(rates=[{"id": "rate.habit", "settled_days": 0, "window_s": 600}]), now_s=rig.now_s)
    load(restarted.watch, tmp_path / "rates.json", rig.now_s)
    rig.served = restarted.served
    for one in (rig, restarted):
        for _ in range(100):
            assert one.ask("look") == "granted"


def test_agents_are_counted_apart() -> None:
    rig = Rig(bundle(rates=[{"id": "rate.habit", "prior": {"mean": 1.0}}]))
    for _ in range(60):
        rig.ask("look")
    assert rig.ask("look", who=agent("agent:b")) == "granted"
