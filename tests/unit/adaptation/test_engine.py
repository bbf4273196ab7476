"""One rule, one subject: what windows of signals do to it, and each row of the table of how the system adapts."""

from __future__ import annotations

from typing import Any

import pytest

from controlplane.adaptation.engine import NORMAL, Readings, Standing, Step, advance, end, holds
from controlplane.policy.adaptation import AdaptationRule, Condition
from tests.unit.adaptation.rules import rule, shipped

RULES = {each.id: each for each in shipped().rules}
WINDOW_S = 10.0


class Course:
    """A rule led through windows, ten seconds each."""

    def __init__(self, led: AdaptationRule) -> None:
        self.rule, self.standing, self.now_s = led, NORMAL, 1000.0
        self.steps: list[Step] = []

    def see(self, windows: int = 1, **readings: float) -> int:
        """The level after so many windows with these signals."""
        for _ in range(windows):
            self.now_s += WINDOW_S
            self.standing, step = advance(self.rule, self.standing, readings, self.now_s)
            self.steps += [step] if step else []
        return self.standing.level


@pytest.mark.parametrize(
    ("condition", "readings", "expected"),
    [
        ({"signal": "cpu_ratio", "above": 0.8}, {"cpu_ratio": 0.81}, True),
        ({"signal": "cpu_ratio", "above": 0.8}, {"cpu_ratio": 0.8}, False),
        ({"signal": "failed_checks", "at_least": 5}, {"failed_checks": 5}, True),
        ({"signal": "cpu_ratio", "below": 0.7}, {"cpu_ratio": 0.7}, False),
        ({"signal": "breaker_open", "at_most": 0}, {"breaker_open": 0}, True),
        ({"signal": "breaker_open", "at_most": 0}, {"breaker_open": 1}, False),
        ({"signal": "cpu_ratio", "above": 0.8}, {}, None),
    ],
)
def test_one_signal_against_its_threshold(condition: dict[str, Any], readings: Readings, expected: bool | None) -> None:
    assert holds(Condition.model_validate(condition), readings) is expected


@pytest.mark.parametrize(
    ("cpu", "calls", "all_of", "any_of"),
    [
        (1, 1, True, True),
        (1, 0, False, True),
        (0, 0, False, False),
        (1, None, None, True),
        (0, None, False, None),
        (None, None, None, None),
    ],
)
def test_what_is_unknown_decides_only_where_nothing_else_does(
    cpu: float | None, calls: float | None, all_of: bool | None, any_of: bool | None
) -> None:
    parts = [{"signal": "cpu_ratio", "above": 0.5}, {"signal": "calls", "above": 0.5}]
    said = {"cpu_ratio": cpu, "calls": calls}
    readings = {name: value for name, value in said.items() if value is not None}
    assert holds(Condition.model_validate({"all": parts}), readings) is all_of
    assert holds(Condition.model_validate({"any": parts}), readings) is any_of


def test_one_hot_window_is_no_reason() -> None:
    course = Course(rule())
    assert course.see(cpu_ratio=0.9) == 0
    assert course.see(cpu_ratio=0.75) == 0
    assert course.see(cpu_ratio=0.9) == 0, "the windows must follow each other"
    assert course.see(cpu_ratio=0.9) == 1


def test_one_calm_window_is_no_reason_either() -> None:
    course = Course(rule())
    course.see(2, cpu_ratio=0.9)
    course.see(2, cpu_ratio=0.5)
    assert course.see(cpu_ratio=0.75) == 1, "between the thresholds is not calm"
    assert course.see(2, cpu_ratio=0.5) == 1
    assert course.see(cpu_ratio=0.5) == 0
    assert course.steps == [Step(0, 1, "when"), Step(1, 0, "back_when")]


def test_window_in_which_nothing_is_known_moves_nothing_and_breaks_no_row() -> None:
    course = Course(rule())
    course.see(cpu_ratio=0.9)
    assert course.see(5) == 0
    assert course.see(cpu_ratio=0.9) == 1
    course.see(2, cpu_ratio=0.5)
    assert course.see(50) == 1
    assert course.see(cpu_ratio=0.5) == 0


def test_unknown_window_breaks_no_row_of_a_rule_that_only_a_person_ends() -> None:
    course = Course(rule(back_when=None, back_on="reviewed"))
    course.see(cpu_ratio=0.9)
    course.see()
    assert course.see(cpu_ratio=0.9) == 1


def test_window_that_is_certainly_not_calm_breaks_the_row_whatever_else_is_unknown() -> None:
    led = rule(
        for_each="model",
        when={"all": [{"signal": "latency_p95_ms", "above": 200}, {"signal": "gpu_or_kv_ratio", "above": 0.85}]},
        back_when={
            "all": [
                {"signal": "gpu_or_kv_ratio", "below": 0.7},
                {"any": [{"signal": "latency_p95_ms", "below": 150}, {"signal": "calls", "below": 1}]},
            ]
        },
    )
    course = Course(led)
    course.see(2, latency_p95_ms=900, gpu_or_kv_ratio=0.9)
    course.see(2, gpu_or_kv_ratio=0.1, calls=0)
    course.see(gpu_or_kv_ratio=0.9, calls=0)
    assert course.see(2, gpu_or_kv_ratio=0.1, calls=0) == 1
    assert course.see(gpu_or_kv_ratio=0.1, calls=0) == 0


def test_steps_go_one_at_a_time_both_ways_and_end_at_the_last() -> None:
    course = Course(rule(steps=3))
    levels = [course.see(2, cpu_ratio=0.9) for _ in range(5)]
    assert levels == [1, 2, 3, 3, 3]
    assert [course.see(3, cpu_ratio=0.5) for _ in range(4)] == [2, 1, 0, 0]


def test_next_step_waits_until_the_last_has_had_time_to_work() -> None:
    course = Course(rule(steps=2, hold_down_s=60.0))
    course.see(2, cpu_ratio=0.9)
    assert course.see(5, cpu_ratio=0.9) == 1
    assert course.see(cpu_ratio=0.9) == 2


def test_hold_down_keeps_a_step_however_calm_it_is() -> None:
    course = Course(rule(hold_down_s=100.0))
    course.see(2, cpu_ratio=0.9)
    assert course.see(9, cpu_ratio=0.1) == 1
    assert course.see(cpu_ratio=0.1) == 0


def test_each_relapse_doubles_the_hold_down_up_to_its_limit() -> None:
    course, holds_s = Course(rule(hold_down_s=40.0, hold_down_max_s=200.0)), []
    for _ in range(5):
        while course.see(cpu_ratio=0.9) == 0:
            pass
        up_s = course.now_s
        while course.see(cpu_ratio=0.1) == 1:
            pass
        holds_s.append(course.now_s - up_s)
    assert holds_s == [40.0, 80.0, 160.0, 200.0, 200.0]


def test_long_health_forgets_relapses() -> None:
    course = Course(rule(hold_down_s=40.0, hold_down_max_s=200.0))
    for _ in range(3):
        course.see(2, cpu_ratio=0.9)
        course.see(20, cpu_ratio=0.1)
    assert course.standing.relapses == 2
    course.see(25, cpu_ratio=0.1)
    course.see(2, cpu_ratio=0.9)
    assert course.standing.relapses == 0


def test_rule_without_signals_back_waits_for_a_person() -> None:
    led = rule(id="memory.isolate", for_each="replica", when={"signal": "memory_growth_ratio", "above": 0.3},
               then="isolate", back_when=None, back_on="inspected")  # fmt: skip
    course = Course(led)
    course.see(2, memory_growth_ratio=0.5)
    assert course.see(100, memory_growth_ratio=0.0) == 1
    after, step = end(course.standing, "inspected", course.now_s)
    assert (after.level, step) == (0, Step(1, 0, "inspected"))


def test_nothing_is_remembered_of_a_subject_that_was_always_well() -> None:
    course = Course(rule())
    course.see(10, cpu_ratio=0.1)
    assert course.standing == Standing()


BUSY, SLOW, STREAM = {"cpu_ratio": 0.81}, {"latency_p95_ms": 501, "calls": 50}, {"latency_p95_ms": 5001, "calls": 50}
DOWN = {"chosen_in_a_row": 3, "accuracy_drop_ratio": 0.11}
FULL = {"latency_p95_ms": 201, "gpu_or_kv_ratio": 0.86, "calls": 50}

ROWS: list[tuple[str, dict[str, float], int, dict[str, float], int]] = [
    # rule, what makes it act, windows until it does, what is well again, windows until a step back
    ("cpu.throttle", BUSY, 2, {"cpu_ratio": 0.69}, 10),
    ("slow.throttle", SLOW, 2, {"latency_p95_ms": 399, "calls": 50}, 10),
    ("slow.throttle", SLOW, 2, {"calls": 0}, 10),
    ("slow.chat.throttle", STREAM, 2, {"latency_p95_ms": 3999, "calls": 50}, 10),
    ("full.lighter", FULL, 2, {"latency_p95_ms": 149, "gpu_or_kv_ratio": 0.69, "calls": 50}, 6),  # held for a minute
    ("full.lighter", FULL, 2, {"gpu_or_kv_ratio": 0.1, "calls": 0}, 6),
    ("breaker.notify", {"breaker_open": 1}, 1, {"breaker_open": 0}, 1),
    ("stuck.restart", {"failed_checks": 5}, 1, {"failed_checks": 0}, 12),  # held for two minutes
    ("drift.degraded", {"drift_level": 3}, 1, {"drift_level": 0}, 3),
    ("accuracy.review", DOWN, 1, {"chosen_in_a_row": 0, "accuracy_drop_ratio": 0.0}, 3),
]


@pytest.mark.parametrize(("name", "bad", "up", "good", "back"), ROWS)
def test_row_of_the_table_acts_and_goes_back(
    name: str, bad: dict[str, float], up: int, good: dict[str, float], back: int
) -> None:
    course = Course(RULES[name])
    assert course.see(up - 1, **bad) == 0
    assert course.see(**bad) == 1
    assert course.see(back - 1, **good) == 1
    assert course.see(**good) == 0


@pytest.mark.parametrize(
    ("name", "almost"),
    [
        ("cpu.throttle", {"cpu_ratio": 0.8}),
        ("slow.throttle", {"latency_p95_ms": 500, "calls": 50}),
        ("slow.chat.throttle", {"latency_p95_ms": 5000, "calls": 50}),
        ("full.lighter", {**FULL, "gpu_or_kv_ratio": 0.85}),
        ("full.lighter", {**FULL, "latency_p95_ms": 200}),
        ("full.lighter", {"latency_p95_ms": 900, "calls": 50}),  # nobody knows of a GPU
        ("memory.isolate", {"memory_growth_ratio": 0.3}),
        ("breaker.notify", {"breaker_open": 0}),
        ("stuck.restart", {"failed_checks": 4}),
        ("drift.degraded", {"drift_level": 2}),
        ("accuracy.review", {"chosen_in_a_row": 2, "accuracy_drop_ratio": 0.5}),
        ("accuracy.review", {"chosen_in_a_row": 9, "accuracy_drop_ratio": 0.1}),
    ],
)
def test_row_of_the_table_does_not_act_on_its_threshold(name: str, almost: dict[str, float]) -> None:
    assert Course(RULES[name]).see(100, **almost) == 0


def test_replica_that_grew_stays_alone_until_a_person_has_inspected_it() -> None:
    course = Course(RULES["memory.isolate"])
    assert course.see(memory_growth_ratio=0.31) == 1
    assert course.see(1000, memory_growth_ratio=0.0) == 1
    assert RULES["memory.isolate"].back_on == "inspected"


def test_every_shipped_rule_has_a_row() -> None:
    assert {row[0] for row in ROWS} | {"memory.isolate"} == set(RULES)
