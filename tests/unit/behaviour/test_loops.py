"""An agent that asks the same again and again, in one run."""

from __future__ import annotations

from typing import Any

import pytest

from controlplane.behaviour.loops import REMEMBERED, Recent, digest_of
from controlplane.calls import Call
from controlplane.policy.behaviour import Cycle
from tests.unit.behaviour.rig import REFUSED, Rig, agent, bundle

LOOP = {"id": "loop.same", "same_call": 4, "answer": "block", "within": "run", "untraced": "skip"}


def looping(**changes: Any) -> Rig:
    return Rig(bundle(loops=[LOOP | changes]))


def test_the_same_call_so_many_times_in_a_run_is_a_loop() -> None:
    rig = looping()
    reasons = []
    for number in range(4):
        rig.ask("list", run=1, arguments={"page": number})
        reasons.append(rig.ask("look", run=1, arguments={"at": "x"}))
    assert reasons == ["granted"] * 3 + ["behaviour_blocked"]
    assert rig.records[0]["facts"] == {"same_calls": 4}
    assert rig.ask("look", run=2, arguments={"at": "x"}) == "granted"
    assert rig.ask("look", run=1, arguments={"at": "y"}) == "granted"


def test_calls_without_a_trace_count_for_the_session_unless_they_are_skipped() -> None:
    assert {looping().ask("look") for _ in range(5)} == {"granted"}
    rig = looping(untraced="session")
    assert [rig.ask("look") for _ in range(4)][-1] == "behaviour_blocked"


def test_asking_again_what_policy_refuses_is_a_loop_too() -> None:
    rig = looping(answer="alert")
    for _ in range(4):
        rig.judge(rig.call("look", run=1), agent(), REFUSED)
    assert rig.decision is REFUSED
    assert rig.rules_told() == [("loop.same", "alert", "begins")]


def test_two_calls_in_turn_are_a_cycle() -> None:
    rig = looping(same_call=None, cycle={"longest": 3, "times": 3})
    reasons = [rig.ask(name, run=1) for name in ("vault", *("look", "list") * 3)]
    assert reasons == ["granted"] * 6 + ["behaviour_blocked"]
    assert rig.records[0]["facts"] == {"calls_in_turn": 2}


def test_only_calls_that_the_rule_is_about_are_counted() -> None:
    rig = looping(of={"do": "infer"})
    assert {rig.ask("look", run=1) for _ in range(6)} == {"granted"}


def test_mcp_messages_that_differ_in_their_number_alone_are_the_same_call() -> None:
    bodies = [b'{"id": %d}' % number for number in (1, 2)]
    calls = [
        Call(id="c", door="mcp", action="call", resource="/mcp/a/b", body=body, arguments={"x": 1}) for body in bodies
    ]
    assert len({digest_of(call) for call in calls}) == 1
    models = [Call(id="c", door="o", action="infer", resource="/model/m", body=body) for body in bodies]
    assert len({digest_of(call) for call in models}) == 2


@pytest.mark.parametrize(
    ("calls", "found"),
    [
        ([1, 2] * 3, 2),
        ([9, 9, *[1, 2, 3] * 3], 3),
        ([1, 2] * 2 + [1], 0),
        ([1] * 9, 0),  # `same` counts those
        ([1, 2, 1, 2, 1, 3], 0),
        ([1, 2, 3, 4, 5] * 3, 0),  # longer than asked for
        ([1, 1, 2] * 3, 3),
    ],
)
def test_cycles(calls: list[int], found: int) -> None:
    recent = Recent()
    for call in calls:
        recent.add(call)
    assert recent.cycle(Cycle(longest=4, times=3)) == found


def test_what_is_remembered_is_bounded_and_counted_right() -> None:
    recent = Recent()
    for number in range(3 * REMEMBERED):
        recent.add(number % (REMEMBERED + 44))
    assert len(recent.calls) == REMEMBERED
    assert sum(recent.counts.values()) == REMEMBERED
    assert all(recent.same(call) == 1 for call in recent.calls)


def test_runs_that_are_over_are_not_remembered() -> None:
    rig = Rig(bundle(loops=[LOOP], idle_s=60))
    for run in range(40):
        rig.ask("look", run)
        rig.now_s += 30
    ((_, known),) = rig.watch.agents()
    assert len(known.scopes) == 3, "this one, and those of the last minute"
