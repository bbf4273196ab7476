"""What a finished call cost, by what is known of it; and what one may cost that has not gone out."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs

from controlplane.calls import Call, Receipt
from controlplane.cost import CostSettings
from controlplane.gateway.gateway import Admission
from controlplane.gateway.outcome import Outcome
from controlplane.gateway.pricing import PriceList
from controlplane.policy import Catalogue, ModelEntry
from inference.backend import Usage
from tests.unit.gateway.conftest import AGENT, ALLOW, a_call

ENTRY = {"task": "chat", "backend": "b", "sensitivity": 1, "side_effect": "read", "cost_tier": "low", "owner": "acme"}
MODELS = [
    {
        "name": "large",
        "fallback": ["cache", "small"],
        "price": {"input_per_million_usd": 10, "output_per_million_usd": 30},
    },
    {"name": "small", "price": {"input_per_million_usd": 1, "output_per_million_usd": 2}},
    {"name": "risk", "price": {"per_call_usd": 0.001, "per_second_usd": 0.002}},
    {"name": "green", "energy": {"joules_per_output_token": 3.6, "source": "measured at the socket"}},
    {"name": "gift"},
]
CATALOGUE = Catalogue(models={each["name"]: ModelEntry.model_validate(ENTRY | each) for each in MODELS})
PRICES = PriceList(lambda: CATALOGUE, CostSettings(assumed_output_tokens=100))


def call(model: str = "large", **fields: Any) -> Call:
    return a_call(**({"resource": f"/model/{model}", "operation": "chat", "body": b"x" * 40} | fields))


def outcome(**fields: Any) -> Outcome:
    whole = {"status": "ok", "http_status": 200, "served_by": "large", "usage": Usage(100, 10), "ended_s": 2.0}
    return structs.replace(Outcome(started_s=1.0), **(whole | fields))


def cost(asked: Call, **fields: Any) -> dict[str, int]:
    admission = Admission(asked, AGENT, ALLOW, Receipt("e1", 0, ""), 0.0, 0.0)
    return dict(PRICES(admission, outcome(**fields)))


@pytest.mark.parametrize(
    ("asked", "fields", "costs"),
    [
        (call(), {}, {"micro_usd": 1300}),
        (call(), {"usage": Usage(100, 10, 50)}, {"micro_usd": 1300}),
        (call(), {"rung": "lighter", "served_by": "small"}, {"micro_usd": 120}),
        (call(), {"rung": "lighter", "served_by": "small/3"}, {"micro_usd": 120}),
        (call(), {"rung": "lighter", "served_by": "Qwen/unheard-of"}, {"micro_usd": 1300}),
        (call(), {"served_by": "small"}, {"micro_usd": 1300}),  # the primary, under whatever name its server has
        (call(), {"rung": "cached"}, {"micro_usd": 0, "saved_micro_usd": 1300}),
        (call(), {"rung": "cache"}, {"micro_usd": 0, "saved_micro_usd": 1300}),
        (call(), {"usage": Usage(), "byte_count": 20}, {"micro_usd": 250, "estimated": 1}),
        (call(), {"usage": Usage(100, None), "byte_count": 20}, {"micro_usd": 1150, "estimated": 1}),
        (call(), {"status": "error", "http_status": 0, "usage": Usage()}, {"micro_usd": 0}),
        (call(), {"status": "error", "http_status": 400, "usage": Usage()}, {"micro_usd": 0}),
        (call(), {"status": "timeout", "http_status": 0, "usage": Usage()}, {"micro_usd": 100, "estimated": 1}),
        (call(), {"status": "cancelled", "http_status": 0, "usage": Usage()}, {"micro_usd": 100, "estimated": 1}),
        (call(operation="embeddings"), {"usage": Usage(100, None)}, {"micro_usd": 1000}),
        (call("gift"), {}, {"micro_usd": 0}),
        (call("nobody"), {}, {}),
        (call("large", action="list"), {}, {}),
        (a_call(resource="/tool/refund", action="call"), {}, {}),
        (
            call("risk", operation="Predict"),
            {"usage": Usage(), "first_byte_s": 1.5},
            {"micro_usd": 2000},
        ),  # half a second, then a slow reader
        (call("green"), {}, {"micro_usd": 0, "energy_uwh": 10_000}),
        (call("green"), {"rung": "cached"}, {"micro_usd": 0, "saved_micro_usd": 0}),
    ],
)
def test_a_call_is_billed_by_what_is_known_of_it(asked: Call, fields: dict[str, Any], costs: dict[str, int]) -> None:
    assert cost(asked, **fields) == costs


def test_abandoned_stream_without_a_count_is_billed_by_its_events() -> None:
    event = b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'
    seen = {"kept": [event * 10], "byte_count": len(event) * 30, "usage": Usage(), "status": "cancelled"}
    assert cost(call(streams=True), **seen) == {"micro_usd": 10 * 10 + 30 * 30, "estimated": 1}


def test_a_defect_in_pricing_never_breaks_a_call() -> None:
    def broken() -> Catalogue:
        raise RuntimeError

    admission = Admission(call(), AGENT, ALLOW, Receipt("e1", 0, ""), 0.0, 0.0)
    assert PriceList(broken, CostSettings())(admission, outcome()) == {}


@pytest.mark.parametrize(
    ("fields", "tokens"),
    [
        ({}, 100),
        ({"max_tokens": 7}, 7),
        ({"max_tokens": 7, "max_completion_tokens": 9}, 9),
        ({"max_tokens": 7, "n": 3}, 21),
        ({"max_tokens": None}, 100),
        ({"max_tokens": -1}, 100),
        ({"max_tokens": 7, "n": 3.0}, 21),
        ({"max_tokens": 7, "n": "3"}, 21),
        ({"max_tokens": 7, "n": "many"}, 7),
        ({"max_output_tokens": 5}, 100),  # a name of another operation, which a server for chats passes over
        ({"max_tokens": "7"}, 7),
    ],
)
def test_a_call_is_held_to_answer_as_much_as_it_may(fields: dict[str, Any], tokens: int) -> None:
    body = json.dumps(fields).encode()
    given = -(-len(body) // 2)
    assert PRICES.bound(call(body=body)) == 10 * given + 30 * tokens


def test_each_prompt_of_a_completion_is_held_to_have_an_answer_of_its_own() -> None:
    body = json.dumps({"prompt": ["a", "b", "c"], "max_tokens": 7}).encode()
    asked = call(operation="completions", body=body, arguments={"inputs_count": 3})
    assert PRICES.bound(asked) == 10 * (len(body) // 2) + 30 * 3 * 7
    responses = call(operation="responses", body=b'{"max_output_tokens":5,"max_tokens":9999}')
    assert PRICES.bound(responses) == 10 * -(-len(responses.body) // 2) + 30 * 5


def test_the_bound_covers_whoever_may_answer_and_nothing_where_nothing_is_billed() -> None:
    dear = {"name": "cheap", "fallback": ["large"], "price": {"per_call_usd": 0.000001}}
    catalogue = replace(CATALOGUE, models={**CATALOGUE.models, "cheap": ModelEntry.model_validate(ENTRY | dear)})
    prices = PriceList(lambda: catalogue, CostSettings(assumed_output_tokens=100))
    assert prices.bound(call("cheap")) == prices.bound(call("large")) == 3200
    assert prices.bound(call("gift")) == prices.bound(a_call(resource="/tool/refund", action="call")) == 0
    assert prices.bound(call("large", operation="embeddings", body=b"x" * 40)) == 200


def test_after_a_reload_calls_are_billed_as_the_new_catalogue_says() -> None:
    dearer = {"name": "large", "price": {"input_per_million_usd": 20, "output_per_million_usd": 30}}
    catalogues = [CATALOGUE]
    prices = PriceList(lambda: catalogues[-1], CostSettings())
    admission = Admission(call(), AGENT, ALLOW, Receipt("e1", 0, ""), 0.0, 0.0)
    assert prices(admission, outcome()) == {"micro_usd": 1300}
    catalogues.append(Catalogue(models={"large": ModelEntry.model_validate(ENTRY | dearer)}))
    assert prices(admission, outcome()) == {"micro_usd": 2300}
    catalogues.append(Catalogue())
    assert prices(admission, outcome()) == {}


@pytest.mark.parametrize("body", [b"", b"\xff", b"[1]", b'{"max_tokens": 99999999999999999999999}'])
def test_a_body_that_says_nothing_is_held_to_answer_what_is_assumed(body: bytes) -> None:
    assert PRICES.bound(call(body=body)) >= 3000
