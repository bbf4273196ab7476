"""Obligations met, or turned into a deny; never half met."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from controlplane.calls import Call, Decision, Effect, Obligation, Principal
from controlplane.gateway.discharges import MAX_HELD_BYTES, discharges
from controlplane.limits import RateLimit
from inference.backend import BackendReply
from inference.errors import BackendBroke

ANALYST = Principal(subject="agent:analyst", tenant="acme")
CARD = "4111111111111111"


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def call(document: Any = None, *, operation: str = "chat", **changes: Any) -> Call:
    body = document if isinstance(document, bytes) else json.dumps(document or {}).encode()
    said: dict[str, Any] = {"id": "c1", "door": "d", "action": "infer", "resource": "/model/tiny"}
    return Call(**(said | {"body": body, "operation": operation} | changes))


def allow(name: str, **parameters: Any) -> Decision:
    return Decision(effect=Effect.ALLOW, reason="ok", revision="r", obligations=(Obligation(name, parameters),))


def meet(asked: Call, name: str, *, principal: Principal = ANALYST, **parameters: Any) -> tuple[Decision, Call]:
    return discharges(RateLimit(), Clock()).meet(allow(name, **parameters), principal, asked)


def refusal(asked: Call, name: str, **parameters: Any) -> str:
    decision, shaped = meet(asked, name, **parameters)
    assert not decision.permits
    assert shaped is asked
    return decision.reason


@pytest.mark.parametrize(
    ("operation", "asked", "sent"),
    [
        ("messages", {"max_tokens": 3000}, {"max_tokens": 256}),
        ("messages", {}, {"max_tokens": 256}),
        ("chat", {}, {"max_tokens": 256}),
        ("chat", {"max_tokens": None}, {"max_tokens": 256}),
        ("chat", {"max_tokens": 255}, {"max_tokens": 255}),
        ("chat", {"max_tokens": 256}, {"max_tokens": 256}),
        ("chat", {"max_tokens": 257}, {"max_tokens": 256}),
        ("chat", {"max_completion_tokens": 3000}, {"max_completion_tokens": 256}),
        (
            "chat",
            {"max_tokens": 10, "max_completion_tokens": 3000},
            {"max_tokens": 10, "max_completion_tokens": 256},
        ),
        ("chat", {"n": 4, "max_tokens": 200}, {"n": 4, "max_tokens": 64}),
        ("chat", {"n": None}, {"n": None, "max_tokens": 256}),
        ("chat", {"n": 256}, {"n": 256, "max_tokens": 1}),
        ("completions", {"best_of": 2, "n": 1}, {"best_of": 2, "n": 1, "max_tokens": 128}),
        ("completions", {}, {"max_tokens": 256}),
        ("responses", {"max_tokens": 9999}, {"max_tokens": 9999, "max_output_tokens": 256}),
        ("responses", {"max_output_tokens": 999}, {"max_output_tokens": 256}),
    ],
)
def test_token_cap_is_lowered_or_put_in(operation: str, asked: dict[str, Any], sent: dict[str, Any]) -> None:
    decision, shaped = meet(call({"model": "m", **asked}, operation=operation), "max_tokens", max=256)
    assert decision.permits
    assert json.loads(shaped.body) == {"model": "m", **sent}


def test_token_cap_reaches_the_arguments_too_and_leaves_other_bytes_alone() -> None:
    asked = call(b'{"temperature": 0.10, "seed":12345678901234567890,"max_tokens":999}', arguments={"model": "m"})
    _, shaped = meet(asked, "max_tokens", max=256)
    assert shaped.body == b'{"temperature":0.10,"seed":12345678901234567890,"max_tokens":256}'
    assert shaped.arguments == {"model": "m", "max_tokens": 256}


def test_request_below_the_cap_is_not_rewritten() -> None:
    asked = call(b'{ "max_tokens": 5 }')
    assert meet(asked, "max_tokens", max=256)[1] is asked


@pytest.mark.parametrize("operation", ["embeddings", "Predict", "models"])
def test_operations_that_answer_no_tokens_need_no_cap(operation: str) -> None:
    asked = call(b"\x08\x01", operation=operation)
    assert meet(asked, "max_tokens", max=1)[1] is asked


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (call({}, operation="tools/call"), "max_tokens_not_applicable"),
        (call({}, operation=""), "max_tokens_not_applicable"),
        (call(b"not json"), "max_tokens_unreadable"),
        (call(b"\xff"), "max_tokens_unreadable"),
        (call({"max_tokens": "9"}), "max_tokens_unreadable"),
        (call({"max_tokens": -1}), "max_tokens_unreadable"),
        (call({"max_tokens": 0}), "max_tokens_unreadable"),
        (call({"max_tokens": True}), "max_tokens_unreadable"),
        (call({"n": 0}), "max_tokens_unreadable"),
        (call({"n": 1.5}), "max_tokens_unreadable"),
        (call({"n": 257}), "max_tokens_exceeded"),
    ],
)
def test_cap_that_cannot_be_applied_denies(asked: Call, reason: str) -> None:
    assert refusal(asked, "max_tokens", max=256) == reason


def test_rate_is_counted_by_what_the_rule_says() -> None:
    clock = Clock()
    table = discharges(RateLimit(), clock)
    other = Principal(subject="agent:other", tenant="acme")
    elsewhere = Principal(subject="agent:analyst", tenant="globex")

    def permits(key: str, principal: Principal, **changes: Any) -> bool:
        decision, _ = table.meet(allow("rate_limit", key=key, per_s=60, max=1), principal, call(**changes))
        return decision.permits

    assert [permits("subject", who) for who in (ANALYST, other, elsewhere, ANALYST)] == [True, True, True, False]
    assert [permits("tenant", who) for who in (ANALYST, other, elsewhere)] == [True, False, True]
    assert [permits("resource", who) for who in (ANALYST, elsewhere)] == [True, False]
    assert permits("resource", ANALYST, resource="/model/risk")


def test_limited_call_is_told_when_to_come_back() -> None:
    clock = Clock()
    table = discharges(RateLimit(), clock)
    decision = allow("rate_limit", key="subject", per_s=60, max=2)
    outcomes = []
    for now_s in (0.0, 10.0, 20.0, 60.0):
        clock.now_s = now_s
        outcomes.append(table.meet(decision, ANALYST, call())[0])
    assert [each.permits for each in outcomes] == [True, True, False, True]
    assert (outcomes[2].reason, outcomes[2].retry_after_s) == ("rate_limited", 40.0)


def test_limits_of_different_size_or_rule_do_not_eat_each_others_calls() -> None:
    table = discharges(RateLimit(), Clock())

    def permits(most: int, rule: str) -> bool:
        duty = allow("rate_limit", key="subject", per_s=60, max=most, rule=rule)
        return table.meet(duty, ANALYST, call())[0].permits

    assert [permits(100, "chat") for _ in range(10)] == [True] * 10
    assert [permits(2, "refund") for _ in range(3)] == [True, True, False]
    assert permits(2, "another")


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"key": "colour", "per_s": 60, "max": 1}, "unknown_rate_key"),
        ({"key": "subject", "per_s": 60}, "obligation_failed"),
        ({"key": "subject", "per_s": 0, "max": 1}, "obligation_failed"),
        ({}, "obligation_failed"),
    ],
)
def test_rate_that_cannot_be_kept_denies(parameters: dict[str, Any], reason: str) -> None:
    assert refusal(call(), "rate_limit", **parameters) == reason


def test_request_is_masked_in_body_and_arguments() -> None:
    asked = call({"note": f"card {CARD}", "amount": 5}, arguments={"note": f"card {CARD}", "amount": 5})
    decision, shaped = meet(asked, "redact", **{"in": ["card"], "out": []})
    assert decision.permits
    assert json.loads(shaped.body) == shaped.arguments == {"note": f"card {'*' * 16}", "amount": 5}


def test_what_an_mcp_client_repeats_in_its_headers_is_masked_there_too() -> None:
    """A client of 2026-07-28 sends an argument that its tool's schema marks in ``Mcp-Param-…`` as well."""
    wrapped = [base64.b64encode(f"né {text}".encode()).decode() for text in (CARD, "*" * 16)]
    headers = (
        ("mcp-param-card", CARD),
        ("mcp-param-note", f"=?base64?{wrapped[0]}?="),
        ("mcp-name", f"crm://cards/{CARD}"),
        ("mcp-param-region", "eu"),
        ("mcp-session-id", CARD),
    )
    asked = call({"card": CARD}, resource="/mcp/crm/find", headers=headers)
    _, shaped = meet(asked, "redact", **{"in": ["card"]})
    assert shaped.headers == (
        ("mcp-param-card", "*" * 16),
        ("mcp-param-note", f"=?base64?{wrapped[1]}?="),
        ("mcp-name", f"crm://cards/{'*' * 16}"),
        ("mcp-param-region", "eu"),
        ("mcp-session-id", CARD),
    )
    broken = call(resource="/mcp/crm/find", headers=(("mcp-param-card", "=?base64?!?="),))
    assert refusal(broken, "redact", **{"in": ["card"]}) == "redact_unreadable_header"


def test_request_with_nothing_to_mask_is_untouched() -> None:
    asked = call(b'{ "a" : 1.0 }')
    assert meet(asked, "redact", **{"in": ["card", "iban"]})[1] is asked
    assert meet(call(b""), "redact", **{"in": ["card"]})[0].permits


@pytest.mark.parametrize(
    ("asked", "parameters", "reason"),
    [
        (call(), {"in": ["shoe_size"]}, "unknown_pattern"),
        (call(), {"out": ["shoe_size"]}, "unknown_pattern"),
        (call(b"\x08\x01\x12"), {"in": ["card"]}, "redact_needs_json"),
        (call({CARD: 1}), {"in": ["card"]}, "redact_in_name"),
        (call(streams=True), {"out": ["card"]}, "redact_needs_plain_reply"),
        (call(streams=True), {"in": ["card"], "out": ["iban"]}, "redact_needs_plain_reply"),
        (call(), {"in": 7}, "obligation_failed"),
    ],
)
def test_redaction_that_cannot_be_done_denies(asked: Call, parameters: dict[str, Any], reason: str) -> None:
    assert refusal(asked, "redact", **parameters) == reason


def test_streamed_call_may_be_masked_on_its_way_in() -> None:
    assert meet(call({"a": CARD}, streams=True), "redact", **{"in": ["card"]})[0].permits


def test_reply_that_comes_whole_may_be_masked() -> None:
    assert meet(call(), "redact", out=["card"])[0].permits


def test_mcp_call_that_accepts_a_stream_is_held_like_any_other() -> None:
    asked = call(streams=True, resource="/mcp/time/now", operation="tools/call")
    assert meet(asked, "redact", out=["card"])[0].permits


class Chunks:
    """A reply's chunks, and whether they were closed."""

    def __init__(self, *chunks: bytes) -> None:
        self.chunks, self.closed = chunks, False

    async def __call__(self) -> AsyncGenerator[bytes]:
        try:
            for chunk in self.chunks:
                yield chunk
        finally:
            self.closed = True


async def released(source: Chunks, **parameters: Any) -> bytes:
    decision = allow("redact", **parameters)
    reply = BackendReply(status=200, headers=(), chunks=source())
    shown = discharges(RateLimit()).release(decision, call(), reply)
    return b"".join([chunk async for chunk in shown.chunks])


async def test_number_cut_in_two_by_chunks_is_still_masked() -> None:
    source = Chunks(b'{"pan": "4111 1111 ', b'1111 1111", "n": 1.50}')
    assert await released(source, out=["card"]) == b'{"pan": "*******************", "n": 1.50}'
    assert source.closed


async def test_reply_without_outward_masks_passes_in_its_chunks() -> None:
    decision = allow("redact", **{"in": ["card"], "out": []})
    reply = BackendReply(status=200, headers=(), chunks=Chunks(b"a", b"b")())
    assert discharges(RateLimit()).release(decision, call(), reply) is reply


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (Chunks(b"\x89PNG\xff"), "redact_reply_unreadable"),
        (Chunks(f'{{"{CARD}": 1}}'.encode()), "redact_in_name"),
        (Chunks(*[b"x" * (MAX_HELD_BYTES // 2)] * 2, b"x"), "redact_reply_too_large"),
    ],
)
async def test_reply_that_cannot_be_masked_is_not_shown(source: Chunks, reason: str) -> None:
    with pytest.raises(BackendBroke) as refused:
        await released(source, out=["card"])
    assert refused.value.reason == reason
    assert source.closed


async def test_plain_text_and_empty_replies_are_masked_too() -> None:
    assert await released(Chunks(f"card {CARD}\n".encode()), out=["card"]) == f"card {'*' * 16}\n".encode()
    assert await released(Chunks(), out=["card"]) == b""


@pytest.mark.parametrize("operation", ["embeddings", "rerank", "score", "count_tokens"])
def test_what_generates_nothing_needs_no_cap(operation: str) -> None:
    asked = call({"model": "tiny"}, operation=operation)
    decision, shaped = meet(asked, "max_tokens", max=256)
    assert decision.permits
    assert shaped is asked


def test_a_cap_is_shared_by_all_prompts_of_a_completion() -> None:
    asked = call({"prompt": ["a"] * 4, "n": 2}, operation="completions", arguments={"inputs_count": 4})
    _, shaped = meet(asked, "max_tokens", max=256)
    assert json.loads(shaped.body)["max_tokens"] == 32
    many = call({"prompt": ["a"] * 300}, operation="completions", arguments={"inputs_count": 300})
    assert refusal(many, "max_tokens", max=256) == "max_tokens_exceeded"
