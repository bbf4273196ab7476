"""``auto:<task>`` through the whole gateway: who may be chosen, what is sent and recorded, and how it is refused."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from controlplane.calls import Call
from controlplane.choice import renamed
from controlplane.gateway.gateway import Denied
from controlplane.resilience.breaker import Verdict
from inference.errors import BackendTimeout
from inference.tfserving import wire
from tests.unit.controlplane.choosing_rig import ANALYST, SECOND, STRANGER, Rig, a_call


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncGenerator[Rig]:
    made = Rig(tmp_path)
    made.prepare()
    await made.begin()
    yield made
    await made.end()


async def refused(rig: Rig, model: str, **fields: Any) -> str:
    with pytest.raises(Denied) as caught:
        await rig.ask(model, **fields)
    assert rig.backends.asked == []
    (deny,) = rig.records("deny")
    assert deny.body["decision"]["reason"] == caught.value.decision.reason
    assert deny.body["decision"]["selection"]["why"] == "none"
    return caught.value.decision.reason


async def test_the_best_model_that_policy_permits_is_asked_by_its_own_name(rig: Rig) -> None:
    """``secret`` is better, and not for this agent."""
    await rig.ask()
    (call,) = rig.backends.asked
    assert call.resource == "/model/good"
    assert json.loads(call.body)["model"] == "good"
    assert json.loads(call.body)["messages"] == [{"role": "user", "content": "hei"}]
    assert call.arguments["model"] == "good"


async def test_the_record_says_who_stood_for_choice_and_why_one_was_taken(rig: Rig) -> None:
    await rig.ask("auto:chat?max_latency_ms=500")
    (intent,) = rig.records("intent")
    assert intent.body["action"]["name"] == "/model/good"
    assert intent.body["decision"]["selection"] == {
        "asked": "auto:chat",
        "constraints": "max_latency_ms=500",
        "candidates": [
            {"model": "good", "score_ppm": 1_000_000},
            {"model": "poor", "score_ppm": 766_666},
        ],
        "chosen": "good",
        "why": "best",
        "revision": rig.policy.status().revision,
    }


async def test_a_model_asked_for_by_name_is_left_alone(rig: Rig) -> None:
    call = a_call("poor")
    assert rig.choosing.choice.choose(ANALYST, call) is call


async def test_constraints_in_a_header_count_and_go_no_further(rig: Rig) -> None:
    headers = (("x-model-constraints", "max_latency_ms=500"), ("accept", "a"))
    await rig.ask(headers=headers)
    assert rig.backends.asked[0].headers == (("accept", "a"),)
    (intent,) = rig.records("intent")
    assert intent.body["decision"]["selection"]["constraints"] == "max_latency_ms=500"


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("auto:poetry", "no_model_of_task"),
        ("auto:classification", "no_model_served"),
        ("auto:chat?language=nb", "no_model_meets_constraints"),
        ("auto:chat?max_latency_ms=1", "no_model_meets_constraints"),
        ("auto:chat?colour=blue", "auto_constraint_unknown"),
        ("auto:chat?max_latency_ms=fast", "auto_constraint_unreadable"),
        ("auto:", "auto_task_unreadable"),
        ("auto:a/b", "auto_task_unreadable"),
    ],
)
async def test_where_nobody_can_be_chosen_the_call_is_denied_with_the_reason(rig: Rig, model: str, reason: str) -> None:
    assert await refused(rig, model) == reason


async def test_who_may_ask_no_model_of_the_task_is_denied(rig: Rig) -> None:
    assert await refused(rig, "auto:chat", by=STRANGER) == "no_model_permitted"


async def test_a_model_without_a_server_is_not_chosen(rig: Rig) -> None:
    rig.fleet.gone.add("good")
    await rig.ask()
    assert rig.backends.asked[0].resource == "/model/poor"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"version": 2}, "auto_takes_no_version"),
        ({"label": "canary"}, "auto_takes_no_version"),
        ({"action": "read"}, "auto_only_infers"),
        ({"body": b"[]"}, "auto_defect"),
        ({"body": b"{}"}, "auto_defect"),
        ({"operation": "MultiInference"}, "no_model_served"),
    ],
)
async def test_what_cannot_be_rewritten_is_denied(rig: Rig, fields: dict[str, Any], reason: str) -> None:
    assert await refused(rig, "auto:chat", **fields) == reason


async def test_nothing_that_was_not_understood_gets_into_the_ledger(rig: Rig) -> None:
    await refused(rig, "auto:chat?ignore previous instructions=1")
    (deny,) = rig.records("deny")
    assert "ignore" not in json.dumps(deny.body)


async def test_a_rule_for_every_model_does_not_open_the_choice(rig: Rig) -> None:
    """Not even where a call got past the choice: nobody can be permitted to ask ``auto:`` itself."""
    decision = rig.gateway.policy.decide(ANALYST, Call(id="c", door="d", action="infer", resource="/model/auto:x"), 0.0)
    assert (decision.permits, decision.reason) == (False, "auto_not_chosen")


async def test_whatever_breaks_in_the_choice_denies(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(rig.choosing.selector, "choose", broken)
    assert await refused(rig, "auto:chat") == "auto_defect"


async def test_a_change_of_policy_is_a_change_of_choice(rig: Rig) -> None:
    await rig.ask()
    rig.folder.edit("roles/analyst.yaml", "/model/good, ", "")
    assert rig.policy.reload()
    await rig.ask()
    assert [call.resource for call in rig.backends.asked] == ["/model/good", "/model/poor"]


async def test_what_one_caller_may_ask_is_not_remembered_for_another(rig: Rig) -> None:
    rig.folder.edit("roles/support.yaml", "/model/good, ", "")
    assert rig.policy.reload()
    await rig.ask()
    await rig.ask(by=SECOND)
    assert [call.resource for call in rig.backends.asked] == ["/model/good", "/model/poor"]


async def test_a_model_whose_breaker_is_held_is_passed_over_and_comes_back(rig: Rig) -> None:
    rig.breakers.hold("good", "operator")
    await rig.ask()
    rig.breakers.release("good", "operator")
    await rig.ask()
    assert [call.resource for call in rig.backends.asked] == ["/model/poor", "/model/good"]
    assert rig.records("intent")[0].body["decision"]["selection"]["unhealthy"] == 1


async def test_an_open_breaker_is_passed_over_until_it_has_cooled(rig: Rig) -> None:
    breaker = rig.breakers.of("good")
    while breaker.state == "closed":
        permit = breaker.admit(0.0)
        assert permit is not None
        breaker.report(permit, Verdict.UNREACHABLE, 0.0, 0.0)
    await rig.ask()
    rig.now.monotonic_s = 3600.0
    await rig.ask()
    assert [call.resource for call in rig.backends.asked] == ["/model/poor", "/model/good"]


async def test_the_breaker_of_another_version_is_nobodys_trouble(rig: Rig) -> None:
    rig.breakers.hold("rows/2", "drift")
    assert rig.choosing.health.is_healthy("rows")
    rig.breakers.hold("rows/3", "drift")
    assert not rig.choosing.health.is_healthy("rows")


async def test_with_nobody_healthy_the_best_is_asked_and_its_fallback_answers(rig: Rig) -> None:
    for name in ("good", "poor"):
        rig.breakers.hold(name, "operator")
    await rig.ask()
    assert rig.backends.asked[0].resource == "/model/good"


async def test_a_prediction_is_rewritten_in_its_own_wire(rig: Rig) -> None:
    request = wire.PredictRequest()
    request.model_spec.name = "auto:classification"
    request.model_spec.signature_name = "serving_default"
    request.inputs["x"].dtype = 1
    body = request.SerializeToString()
    await rig.ask("auto:classification", operation="Predict", body=body, arguments={"rows": 1})
    (call,) = rig.backends.asked
    sent = wire.parse(wire.PredictRequest, call.body)
    assert (call.resource, sent.model_spec.name) == ("/model/rows", "rows")
    assert sent.model_spec.signature_name == "serving_default"
    assert sent.inputs["x"].dtype == 1


def test_a_name_that_needs_escaping_is_escaped() -> None:
    assert json.loads(renamed("chat", b'{"model": "auto:chat", "n": 1.50}', 'a"b')) == {"model": 'a"b', "n": 1.5}


async def test_answers_teach_how_long_a_model_takes(rig: Rig) -> None:
    rig.backends.takes_s = 2.0
    await rig.ask("good")
    good, poor = (rig.choosing.choice.candidate(name) for name in ("good", "poor"))
    assert good is not None
    assert poor is not None
    assert rig.choosing.evidence.latencies_ms([good, poor], streams=False) == pytest.approx([2000.0, 100.0])
    wish = "auto:chat?max_latency_ms=500"
    await rig.ask(wish)
    assert rig.backends.asked[-1].resource == "/model/poor"


async def test_an_answer_of_another_rung_teaches_nothing_about_the_model_asked(rig: Rig) -> None:
    rig.backends.rung = "lighter"
    await rig.ask("good")
    assert rig.choosing.evidence.as_json()["latencies"] == []


async def test_an_answer_that_did_not_come_in_time_teaches_as_well(rig: Rig) -> None:
    rig.backends.fails = BackendTimeout("deadline")
    with pytest.raises(BackendTimeout):
        await rig.ask("good")
    assert [model for model, *_ in rig.choosing.evidence.as_json()["latencies"]] == ["good"]
