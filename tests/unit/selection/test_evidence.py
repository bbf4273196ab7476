"""What answers teach, and how it fades."""

from __future__ import annotations

import json
from random import Random
from statistics import pstdev

import pytest

from inference.selection import Evidence
from tests.unit.selection.models import NOW_S, TENANT, a_candidate, judge, settings

ONE = a_candidate("one", quality=0.8)


def quality(evidence: Evidence, tenant: str = TENANT) -> float:
    return evidence.qualities(tenant, [ONE])[0]


def test_a_card_is_believed_until_answers_say_otherwise() -> None:
    evidence = Evidence(settings(prior_weight=20))
    assert quality(evidence) == 0.8
    judge(evidence, ONE, [0.0] * 20)
    assert quality(evidence) == pytest.approx(0.4)


def test_a_card_of_few_examples_is_worth_no_more_than_those() -> None:
    evidence, thin = Evidence(settings(prior_weight=20)), a_candidate("one", quality=0.8, n=4)
    judge(evidence, thin, [0.0] * 4)
    assert quality(evidence) == pytest.approx(0.4)


def test_feedback_of_one_tenant_does_not_move_another() -> None:
    evidence = Evidence(settings())
    judge(evidence, ONE, [0.0] * 50)
    assert quality(evidence, "globex") == 0.8
    shared = Evidence(settings(shared_between_tenants=True))
    judge(shared, ONE, [0.0] * 50)
    assert quality(shared, "globex") < 0.4


def test_old_answers_fade_with_every_new_one() -> None:
    evidence = Evidence(settings(memory_answers=50))
    judge(evidence, ONE, [1.0] * 1000)
    judge(evidence, ONE, [0.0] * 150)
    assert quality(evidence) < 0.06


def test_time_takes_certainty_and_leaves_the_belief() -> None:
    evidence, long_after = Evidence(settings(half_life_s=3600)), NOW_S + 10 * 3600
    judge(evidence, ONE, [1.0] * 100)
    believed = quality(evidence)

    def spread(now_s: float) -> float:
        return pstdev(evidence.draw(TENANT, ONE, now_s, Random(seed)) for seed in range(300))

    assert spread(long_after) > 4 * spread(NOW_S)
    assert quality(evidence) == believed


def test_latency_is_near_the_median_and_beats_the_card() -> None:
    evidence = Evidence(settings())
    for latency_ms in [50.0, 50.0, 5000.0, 50.0, 50.0]:
        evidence.learn_latency("one", latency_ms, NOW_S, streams=False)
    found = evidence.latencies_ms([ONE], streams=False)[0]
    assert found is not None
    assert 50 <= found < 150


def test_a_stream_is_timed_apart_and_the_other_serves_until_then() -> None:
    evidence = Evidence(settings())
    evidence.learn_latency("one", 900.0, NOW_S, streams=False)
    assert evidence.latencies_ms([ONE], streams=True) == pytest.approx([900.0])
    evidence.learn_latency("one", 40.0, NOW_S, streams=True)
    assert evidence.latencies_ms([ONE], streams=True) == pytest.approx([40.0])
    assert evidence.latencies_ms([ONE], streams=False) == pytest.approx([900.0])


def test_what_was_not_judged_for_longest_is_forgotten_first() -> None:
    evidence = Evidence(settings(max_learnt=100))
    first = a_candidate("first")
    judge(evidence, first, [0.0] * 50)
    for number in range(100):
        judge(evidence, a_candidate(f"m{number}"), [1.0])
    assert evidence.judged(TENANT, "chat", "first") is None
    assert evidence.judged(TENANT, "chat", "m99") is not None


def test_what_was_written_is_read_back_the_same() -> None:
    evidence, other = Evidence(settings()), Evidence(settings())
    judge(evidence, ONE, [1.0, 0.0, 0.5] * 20)
    evidence.learn_latency("one", 12.0, NOW_S, streams=True)
    other.restore(json.loads(json.dumps(evidence.as_json())))
    assert other.as_json() == evidence.as_json()
    assert quality(other) == quality(evidence)


def test_a_file_of_something_else_restores_nothing() -> None:
    evidence = Evidence(settings())
    judge(evidence, ONE, [0.0] * 9)
    before = evidence.as_json()
    for wrong in ({"judged": [["a", "b"]], "latencies": []}, {"judged": [], "latencies": [["m", True, "x", 1, 1]]}):
        with pytest.raises((TypeError, ValueError)):
            evidence.restore(wrong)
    assert evidence.as_json() == before
