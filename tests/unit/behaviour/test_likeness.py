"""Likeness to what an agent asked before: what it sees, and what it does not."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest

from controlplane.behaviour import BehaviourSettings
from controlplane.behaviour.likeness import KEPT_CALLS, KEPT_SCORES, Reference, embed, task_of
from controlplane.calls import Call
from controlplane.policy.behaviour import ContextRule
from tests.unit.behaviour.rig import Rig, agent, bundle

RULE = {"id": "context.unlike", "learn_calls": 200, "quantile": 0.005}
CITIES = ["Bergen", "Oslo", "Turin", "Lyon", "Ghent", "Porto", "Graz", "Brno", "Turku", "Split"]
VERBS = ["weather", "forecast", "humidity", "wind", "temperature"]


def question(random_: random.Random) -> dict[str, str]:
    return {"question": f"what is the {random_.choice(VERBS)} in {random_.choice(CITIES)} {random_.choice(CITIES)}"}


STRANGE = {"question": "transfer the whole customer ledger to the offshore account before midnight"}


def call(**more: Any) -> Call:
    return Call(**({"id": "c", "door": "t", "action": "call", "resource": "/tool/look"} | more))


def learnt(**changes: Any) -> Rig:
    rig, random_ = Rig(bundle(contexts=[RULE | changes])), random.Random(5)
    for _ in range(400):
        rig.now_s += 1000
        rig.ask("look", arguments=question(random_))
    rig.now_s += 1000
    rig.records.clear()
    return rig


def test_what_an_agent_never_asked_is_stepped_up_and_what_it_asks_is_not() -> None:
    rig = learnt(hold_s=0)
    assert rig.ask("look", arguments=STRANGE) == "step_up_required"
    facts = rig.records[0]["facts"]
    assert facts["likeness_ppm"] < facts["threshold_ppm"]
    assert rig.ask("look", arguments={"question": "what is the wind in Oslo Graz"}) == "granted"


def test_false_alarms_are_about_the_quantile() -> None:
    rig, random_ = learnt(hold_s=0), random.Random(6)
    answers = []
    for _ in range(1000):
        rig.now_s += 1000
        answers.append(rig.ask("look", arguments=question(random_)))
    assert answers.count("step_up_required") <= 15


def test_an_agent_is_not_judged_before_it_is_known() -> None:
    rig = Rig(bundle(contexts=[RULE]))
    for _ in range(50):
        rig.ask("look", arguments={"question": "what is the wind"})
    assert rig.ask("look", arguments=STRANGE) == "granted"
    assert rig.ask("look", who=agent("agent:new"), arguments=STRANGE) == "granted"


def test_it_stays_suspect_until_it_was_verified_or_the_time_is_over() -> None:
    usual = {"question": "what is the wind in Oslo Graz"}
    rig = learnt(hold_s=900)
    rig.ask("look", arguments=STRANGE)
    assert rig.ask("look", arguments=usual) == "step_up_required"
    assert rig.ask("look", who=agent(auth_time=int(rig.now_s)), arguments=usual) == "granted"
    assert rig.ask("look", arguments=usual) == "granted"
    rig.ask("look", arguments=STRANGE)
    rig.now_s += 901
    assert rig.ask("look", arguments=usual) == "granted"


def test_a_fixed_likeness_can_be_said_instead() -> None:
    rig = learnt(below=0.99, hold_s=0)
    assert rig.ask("look", arguments={"question": "what is the wind in some other place"}) == "step_up_required"


def test_unlike_calls_in_a_row() -> None:
    rig = learnt(in_a_row=2, hold_s=0)
    assert rig.ask("look", arguments=STRANGE) == "granted"
    assert rig.ask("look", arguments={"question": "delete everything quietly"}) == "step_up_required"


def test_what_was_refused_teaches_nothing() -> None:
    rig = learnt(answer="block", hold_s=0)
    assert [rig.ask("look", arguments=STRANGE) for _ in range(80)] == ["behaviour_blocked"] * 80


def test_only_calls_that_the_rule_is_about_are_embedded() -> None:
    rig = Rig(bundle(contexts=[RULE | {"of": {"labels": ["egress"]}}]))
    for _ in range(300):
        rig.ask("look", arguments=STRANGE)
    assert not rig.watch._references


def test_references_of_so_many_agents_are_kept() -> None:
    rig = Rig(bundle(contexts=[RULE]), BehaviourSettings(max_references=2))
    for number in range(5):
        rig.ask("look", who=agent(f"agent:{number}"))
    assert len(rig.watch._references) == 2


def test_the_task_is_what_the_user_said_last_or_the_arguments() -> None:
    messages = [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "old"},
        {"role": "user", "content": [{"type": "text", "text": "what is new"}]},
        {"role": "assistant", "content": "so"},
    ]
    chat = call(resource="/model/big", action="infer", body=json.dumps({"messages": messages}).encode())
    assert "what is new" in task_of(chat)
    assert "old" not in task_of(chat)
    assert task_of(call(arguments={"to": "x@y", "deep": {"a": ["b", 7]}})).split() == ["to", "x@y", "deep", "a", "b"]


@pytest.mark.parametrize("body", [b"", b"\xff", b"[1]", b'{"instances": [[1.0]]}', b'{"messages": 3}', b"x" * 300_000])
def test_what_has_no_text_is_embedded_all_the_same(body: bytes) -> None:
    model = call(resource="/model/big", action="infer", body=body)
    assert task_of(model) == ""
    assert float(np.linalg.norm(embed(model))) == pytest.approx(1, abs=1e-5)


def test_call_whose_features_cancel_out_is_a_call_like_others() -> None:
    """It would be like nothing and unlike nothing, itself not a number, and so would every call after it."""
    vector, rig = embed(call(resource="/mcp/crm/t783", operation="tools/call")), learnt()
    assert np.linalg.norm(vector) == 1.0
    reference = rig.watch.reference("context.unlike", ("acme", "agent:a"))
    assert reference is not None
    for _ in range(KEPT_CALLS):  # one of the sample is enough
        reference.learn(ContextRule.model_validate(RULE), vector, 1.0)
    assert rig.ask("look", arguments=STRANGE) == "step_up_required"


def test_it_does_not_see_meaning() -> None:
    """Said in the docs, and so that nobody takes it for more: a paraphrase is as unlike as anything."""
    asked = embed(call(arguments={"q": "send money abroad"}))
    paraphrase = embed(call(arguments={"q": "transfer funds overseas"}))
    other = embed(call(arguments={"q": "weather tomorrow morning"}))
    assert abs(float(asked @ paraphrase) - float(asked @ other)) < 0.25


def test_long_texts_and_long_lives_are_bounded() -> None:
    assert len(task_of(call(arguments={"q": ["word " * 1000] * 50}))) <= 2000
    reference, rule = Reference(), ContextRule(id="a.b", learn_calls=200)
    vector = embed(call())
    for number in range(KEPT_SCORES + 500):
        reference.learn(rule, vector, 0.5 + number % 7 / 100)
    assert reference.vectors.shape[0] == KEPT_CALLS
    assert 0.5 <= reference.threshold < 0.51
