"""Answers become numbers off the call path, evenly by chance, and their text is let go."""

from __future__ import annotations

import json
from typing import Any

import pytest

from controlplane.calls import Call, Decision, Effect, Principal, Receipt
from controlplane.gateway.gateway import Admission
from controlplane.gateway.outcome import Outcome
from controlplane.llm_signals import LanguageSignals
from controlplane.observations import Observations
from controlplane.settings import ObservationSettings
from inference.backend import Usage


def watching(per_s: int = 50, **more: Any) -> tuple[Observations, LanguageSignals]:
    observations = Observations(ObservationSettings(), lambda _: 0, lambda: 1.5)
    language = LanguageSignals(observations, per_s, 1024, **more)
    observations.listener = language
    return observations, language


def admission(number: int = 1, operation: str = "chat", streams: bool = False, **asked: Any) -> Admission:
    body = json.dumps({"messages": [], **asked}).encode()
    call = Call(
        id="c", door="d", action="infer", resource="/model/tiny", body=body, operation=operation, streams=streams
    )
    decision = Decision(effect=Effect.ALLOW, reason="granted", revision="r1")
    return Admission(call, Principal(subject="agent:one", tenant="acme"), decision, Receipt(f"e{number}", 0, ""), 0, 0)


def outcome(text: str = "The answer.", status: str = "ok", reason: str = "stop", **more: Any) -> Outcome:
    said = {"choices": [{"message": {"content": text}, "finish_reason": reason}]}
    outcome = Outcome(1.0, status=status, served_by="tiny", http_status=200, ended_s=3.0, **more)
    outcome.saw(json.dumps(said).encode(), 1.5)
    return outcome


async def values_of(admitted: Admission, came: Outcome) -> dict[str, float]:
    observations, language = watching()
    observations.observe(admitted, came, recorded=True)
    assert observations.page(0, 10)["observations"] == [], "nothing is read on the call path"
    await language.turn()
    (told,) = observations.page(0, 10)["observations"]
    values: dict[str, float] = told["values"]
    return values


async def test_an_answer_is_told_in_numbers_alone() -> None:
    came = outcome("The secret word is swordfish.", cost={"micro_usd": 250}, usage=Usage(5, 7))
    values = await values_of(admission(response_format={"type": "json_object"}), came)
    assert values["latency"] == 2.0
    assert (values["cost"], values["output_tokens"]) == (0.00025, 7.0)
    assert (values["refusal"], values["truncated"], values["structured_output"], values["timeout"]) == (0, 0, 1, 0)
    assert "first_token" not in values
    assert all(isinstance(value, float) for value in values.values())


async def test_a_cut_off_stream_says_so_and_when_it_began() -> None:
    came = Outcome(1.0, status="ok", ended_s=3.0)
    for part in ({"delta": {"content": "Hel"}}, {"delta": {"content": "lo"}, "finish_reason": "length"}):
        came.saw(b"data: " + json.dumps({"choices": [part]}).encode() + b"\n\n", 1.25)
    values = await values_of(admission(streams=True), came)
    assert (values["truncated"], values["first_token"], values["text_chars"]) == (1, 0.25, 5)


async def test_an_answer_that_was_given_before_or_not_at_all_says_nothing_of_today() -> None:
    assert await values_of(admission(), outcome(rung="cached")) == {"timeout": 0}
    assert await values_of(admission(), outcome(status="timeout")) == {"timeout": 1}


async def test_a_reply_of_which_only_a_part_was_kept_is_no_text() -> None:
    came = outcome("x" * 70_000)
    values = await values_of(admission(), came)
    assert values == {"timeout": 0, "latency": 2.0}


async def test_long_text_is_counted_whole_and_read_in_part() -> None:
    values = await values_of(admission(), outcome("word " * 2_000))
    assert (values["text_chars"], values["text_words"]) == (10_000, 205)


@pytest.mark.parametrize("operation", ["embeddings", "rerank", "models", "call", "tools/call"])
async def test_what_does_not_speak_is_not_listened_to(operation: str) -> None:
    observations, language = watching()
    observations.observe(admission(operation=operation), outcome(), recorded=True)
    await language.turn()
    assert observations.page(0, 10)["observations"] == []


async def test_under_load_each_call_has_the_same_chance() -> None:
    import random  # noqa: PLC0415  a seeded one, for this test alone

    chance, heard = random.Random(7), [0] * 40
    observations, language = watching(chance=chance.random)
    for _ in range(400):
        for number in range(40):
            observations.observe(admission(number), outcome(), recorded=True)
        await language.turn()
    for told in observations.page(0, 10_000)["observations"]:
        heard[int(told["call_id"][1:])] += 1
    assert sum(heard) == 400 * 5, "fifty a second in turns of a tenth"
    assert all(25 <= count <= 80 for count in heard)
    assert language.skipped == 400 * 35


async def test_an_answer_that_cannot_be_taken_apart_costs_nobody_else_anything() -> None:
    observations, language = watching()
    for number, came in enumerate((outcome(cost={"micro_usd": "much"}), outcome())):
        observations.observe(admission(number), came, recorded=True)
    await language.turn()
    assert [told["call_id"] for told in observations.page(0, 10)["observations"]] == ["e1"]
    assert language.broken == 1


async def test_a_turn_takes_no_more_than_its_part_of_the_time() -> None:
    ticks = iter(range(1_000))
    observations, language = watching(cpu_clock=lambda: next(ticks) * 0.003)
    for number in range(5):
        observations.observe(admission(number), outcome(), recorded=True)
    await language.turn()
    assert [told["call_id"] for told in observations.page(0, 10)["observations"]] == ["e0", "e1"]
    assert language.skipped == 3


async def test_switched_off_nothing_waits() -> None:
    observations, language = watching(per_s=0)
    observations.observe(admission(), outcome(), recorded=True)
    await language.turn()
    assert observations.page(0, 10)["observations"] == []
