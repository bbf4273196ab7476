"""The operator API: nobody passes unasked, nothing changes unrecorded."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import APIRouter

from controlplane.console import ConsolePorts
from controlplane.console.guard import GuardedRoute, permission
from tests.unit.console.world import FAILED, OPERATOR, PEOPLE, World

WHY = {"reason": "the answers look wrong"}
MOVE = {
    "key": "risk/1/1",
    "version": 1,
    "from": "HEALTHY",
    "to": "DEGRADED",
    "reason": "risk_left_band",
    "evidence": {"rows": 812},
}
OPERATIONS = [
    ("GET", "/api/calls", "read", "/api/calls"),
    ("GET", "/api/calls/some", "read", "/api/calls"),
    ("GET", "/api/breakers", "read", "/api/breakers"),
    ("POST", "/api/breakers/risk/1/hold", "write", "/api/breakers"),
    ("POST", "/api/breakers/risk/1/release", "write", "/api/breakers"),
    ("GET", "/api/models", "read", "/api/models"),
    ("POST", "/api/models/risk/labels", "write", "/api/models"),
    ("POST", "/api/models/risk/load", "write", "/api/models"),
    ("POST", "/api/models/risk/unload", "write", "/api/models"),
    ("POST", "/api/models/risk/canary", "write", "/api/models"),
    ("POST", "/api/models/risk/shadow", "write", "/api/models"),
    ("POST", "/api/models/risk/rollback", "write", "/api/models"),
    ("POST", "/api/models/risk/release", "write", "/api/models"),
    ("POST", "/api/models/risk/transitions", "write", "/api/models"),
    ("GET", "/api/policy", "read", "/api/policy"),
    ("GET", "/api/ledger/head", "read", "/api/ledger"),
    ("GET", "/api/observations", "read", "/api/observations"),
    ("GET", "/api/observations/status", "read", "/api/observations"),
    ("POST", "/api/observations/gaps", "write", "/api/ledger"),
    ("POST", "/api/observations/skipped", "write", "/api/ledger"),
    ("POST", "/api/observations/verdicts", "write", "/api/ledger"),
    ("POST", "/v1/outcomes", "write", "/api/outcomes"),
]


async def test_every_operation_is_in_the_table_above(console: World) -> None:
    described = console.app.openapi()["paths"]
    told = {
        (method.upper(), operation["x-permission"]["action"], operation["x-permission"]["resource"])
        for operations in described.values()
        for method, operation in operations.items()
    }
    assert told == {(method, action, resource) for method, _, action, resource in OPERATIONS}
    assert sum(len(operations) for operations in described.values()) == len(OPERATIONS)


@pytest.mark.parametrize(("method", "path", "action", "resource"), OPERATIONS)
async def test_operation_asks_before_it_reads_the_request(
    console: World, method: str, path: str, action: str, resource: str
) -> None:
    """The body is no JSON and the query no number: a stranger does not get to hear of it."""
    size = console.ledger.head.size
    for token, status in (("", 401), ("nobody-token", 403), ("forged", 401)):
        async with console.client(token) as client:
            reply = await client.request(method, path + "?limit=x", content=b"{not json")
        assert reply.status_code == status
        assert reply.headers["content-type"] == "application/problem+json"
        assert console.asked[-1] == (token, action, resource)
    assert console.ledger.head.size == size
    assert console.breakers.known == {}


async def test_refusals_say_what_can_be_said(console: World) -> None:
    async with console.client() as client:
        stranger = await client.get("/api/calls")
    assert stranger.headers["www-authenticate"] == 'Bearer x="y"'
    async with console.client("nobody-token") as client:
        denied = (await client.get("/api/calls")).json()
    assert denied["type"] == "urn:controlplane:denied"
    assert denied["reason"] == "rule_denied"
    assert denied["rules"] == [{"id": "nobody.nothing", "source": "roles/nobody.yaml:3"}]
    console.is_identity_down = True
    async with console.client("operator-token") as client:
        assert (await client.get("/api/calls")).status_code == 503
        assert (await client.get("/api/calls", headers={"authorization": "Basic dTpw"})).status_code == 401


def test_route_without_a_permission_does_not_start() -> None:
    router = APIRouter(route_class=GuardedRoute)

    async def unguarded() -> None: ...

    with pytest.raises(TypeError, match="states no permission"):
        router.add_api_route("/api/unguarded", unguarded)
    router.add_api_route("/api/guarded", unguarded, openapi_extra=permission("read", "/api/x"))


async def test_calls_are_listed_newest_first_with_decision_and_outcome(console: World) -> None:
    first = await console.call()
    refused = await console.call(denied=True, name="/tool/refund")
    running = await console.call(finished=False)
    async with console.client("operator-token") as client:
        calls = (await client.get("/api/calls")).json()["calls"]
    assert [call["id"] for call in calls] == [running, refused, first]
    assert calls[0]["outcome"]["status"] == "running"
    assert calls[1]["outcome"] is None
    assert calls[1]["effect"] == "deny"
    assert calls[1]["rules"] == [{"id": "support.refund.large", "source": "roles/support.yaml:20"}]
    assert calls[2]["outcome"] | {"index": 0} == {
        "status": "ok",
        "index": 0,
        "http": 200,
        "served_by": "risk/1",
        "rung": "primary",
        "latency_us": 12_345,
        "byte_count": 321,
        "tokens": {"in": 7, "out": 9},
        "error": "",
    }
    assert calls[2]["delegation"] == ["agent:b"]


async def test_pages_of_calls_meet_without_gap_or_overlap(console: World) -> None:
    ids = [await console.call(tenant="globex" if number % 3 == 0 else "acme") for number in range(25)]
    mine = [call_id for number, call_id in enumerate(ids) if number % 3]
    listed, before = [], None
    async with console.client("operator-token") as client:
        while True:
            query = {"limit": 4} | ({} if before is None else {"before": before})
            page = (await client.get("/api/calls", params=query)).json()
            listed += [call["id"] for call in page["calls"]]
            if (before := page["next"]) is None:
                break
    assert listed == mine[::-1]


async def test_calls_of_another_tenant_are_not_to_be_seen(console: World) -> None:
    call_id = await console.call()
    async with console.client("globex-token") as client:
        assert (await client.get("/api/calls")).json() == {"calls": [], "next": None}
        assert (await client.get(f"/api/calls/{call_id}")).status_code == 404
    async with console.client("operator-token") as client:
        assert (await client.get(f"/api/calls/{call_id}")).json()["outcome"]["status"] == "ok"


@pytest.mark.parametrize("what", ["nothing", "outcome", "genesis"])
async def test_what_is_no_call_is_not_found(console: World, what: str) -> None:
    await console.call()
    event_id = {
        "nothing": "0190aaaa-bbbb-7ccc-8ddd-eeeeeeeeeeee",
        "outcome": console.ledger.read(kinds=["outcome"])[0].event_id,
        "genesis": console.ledger.read(limit=1)[0].event_id,
    }[what]
    async with console.client("operator-token") as client:
        assert (await client.get(f"/api/calls/{event_id}")).status_code == 404


async def test_call_says_whether_it_is_still_running(console: World) -> None:
    running, denied = await console.call(finished=False), await console.call(denied=True)
    async with console.client("operator-token") as client:
        assert (await client.get(f"/api/calls/{running}")).json()["outcome"]["status"] == "running"
        assert (await client.get(f"/api/calls/{denied}")).json()["outcome"] is None


async def test_breaker_is_held_and_released_with_a_reason_in_the_ledger(console: World) -> None:
    async with console.client("operator-token") as client:
        held = await client.post("/api/breakers/risk/1/hold", json=WHY | {"key": "k1"})
        listed = (await client.get("/api/breakers")).json()["breakers"]
        assert (listed[0]["name"], listed[0]["state"], listed[0]["holds"]) == ("risk/1", "held", ["operator"])
        await client.post("/api/breakers/risk/1/release", json=WHY)
        listed = (await client.get("/api/breakers")).json()["breakers"]
        assert listed[0]["state"] == "half_open"
    change = console.changes()[0]
    assert held.json() == {
        "event_id": change["event_id"],
        "ledger_index": console.ledger.find(change["event_id"]).index,
    }
    assert change["change"] == {
        "what": "breaker.hold",
        "breaker": "risk/1",
        "reason": "the answers look wrong",
        "by": "user:operator",
        "tenant": "acme",
        "delegation": ["agent:helper"],
        "key": "k1",
    }
    assert console.changes()[1]["change"]["what"] == "breaker.release"


@pytest.mark.parametrize("body", [{}, {"reason": ""}, {"reason": "no"}, {"reason": "x" * 501}, WHY | {"extra": 1}])
async def test_change_without_a_proper_reason_is_not_made(console: World, body: dict[str, Any]) -> None:
    async with console.client("operator-token") as client:
        reply = await client.post("/api/breakers/risk/1/hold", json=body)
    assert reply.status_code == 422
    assert reply.json()["reason"] == "invalid_request"
    assert console.breakers.known == {}
    assert console.changes() == []


@pytest.mark.parametrize("content_type", [None, "application/x-www-form-urlencoded", "text/plain"])
async def test_a_body_that_is_not_said_to_be_json_is_told_how_to_say_so(
    console: World, content_type: str | None
) -> None:
    """What `curl -d` sends."""
    headers = {} if content_type is None else {"content-type": content_type}
    async with console.client("operator-token") as client:
        reply = await client.post("/v1/outcomes", content=b'{"outcomes": []}', headers=headers)
    assert (reply.status_code, "content-type application/json" in reply.json()["detail"]) == (422, True)


async def test_change_that_cannot_be_recorded_is_not_made(console: World) -> None:
    console.is_ledger_down = True
    async with console.client("operator-token") as client:
        for path, body in (
            ("/api/breakers/risk/1/hold", WHY),
            ("/api/models/risk/labels", WHY | {"label": "stable", "version": 2}),
        ):
            reply = await client.post(path, json=body)
            assert (reply.status_code, reply.json()["reason"]) == (503, "disk_full")
            assert reply.headers["retry-after"] == "2"
    assert console.breakers.known == {}
    assert console.models.known["risk"].labels == {"stable": 1}


async def test_label_moves_to_a_served_version_and_to_no_other(console: World) -> None:
    async with console.client("operator-token") as client:
        moved = await client.post("/api/models/risk/labels", json=WHY | {"label": "stable", "version": 2})
        assert moved.status_code == 200
        assert (await client.get("/api/models")).json()["models"][0]["labels"] == {"stable": 2}
        refused = await client.post("/api/models/risk/labels", json=WHY | {"label": "stable", "version": 9})
        assert (refused.status_code, refused.json()["reason"]) == (409, "not_available")
    assert console.models.known["risk"].labels == {"stable": 2}
    done, failed, note = console.changes()
    assert (done["change"]["version"], failed["change"]["version"]) == (2, 9)
    assert note["change"] == {"failed": failed["event_id"], "error": "not_available"}


async def test_change_the_other_side_would_not_follow_is_told_and_noted(console: World) -> None:
    console.models.trouble = FAILED
    async with console.client("operator-token") as client:
        reply = await client.post("/api/models/risk/labels", json=WHY | {"label": "stable", "version": 2})
    assert (reply.status_code, reply.json()["reason"]) == (502, "backend_unavailable")
    assert console.changes()[-1]["change"]["error"] == "backend_unavailable"


async def test_monitor_moves_a_models_state_and_nothing_else(console: World) -> None:
    async with console.client("monitor-token") as client:
        moved = await client.post("/api/models/risk/transitions", json=MOVE)
        assert moved.json()["state"] == "DEGRADED"
        assert (await client.get("/api/calls")).status_code == 403
        assert (await client.post("/api/breakers/risk/1/hold", json=WHY)).status_code == 403
    assert console.models.asked == [("risk", MOVE, PEOPLE["monitor-token"])]


@pytest.mark.parametrize("wrong", [{"key": ""}, {"from": 1}, {"unheard": 1}, {"version": "one"}, {"evidence": [1]}])
async def test_malformed_transition_is_refused(console: World, wrong: dict[str, Any]) -> None:
    async with console.client("monitor-token") as client:
        assert (await client.post("/api/models/risk/transitions", json=MOVE | wrong)).status_code == 422
    assert console.models.asked == []


async def test_policy_head_and_observations_are_read(console: World) -> None:
    console.policy.error, console.policy.error_since = "roles/x.yaml:3: no such role", 5.0
    async with console.client("operator-token") as client:
        policy = (await client.get("/api/policy")).json()
        head = (await client.get("/api/ledger/head")).json()
        seen = (await client.get("/api/observations", params={"after": 2, "limit": 2})).json()
    assert policy == {
        "revision": "3f9a1c" * 10,
        "rules": 23,
        "loaded_at_s": 1_763_700_000.0,
        "error": "roles/x.yaml:3: no such role",
        "error_since_s": 5.0,
    }
    assert head["size"] == console.ledger.head.size
    assert head["root"] == console.ledger.head.root.hex()
    assert head["checkpoint"] == console.ledger.head.checkpoint
    assert [each["seq"] for each in seen["observations"]] == [3, 4]
    assert (seen["next"], seen["boot"]) == (4, "b1")


async def test_outcomes_come_back_by_call_and_are_recorded(console: World) -> None:
    call_id = await console.call()
    said = {"outcomes": [{"call_id": call_id, "row": 0, "label": 1}, {"call_id": call_id, "row": 1, "label": 0}]}
    async with console.client("operator-token") as client:
        taken = await client.post("/v1/outcomes", json=said)
    assert taken.json()["accepted"] == 2
    assert [(label.call_id, label.row, label.label) for label in console.labels] == [(call_id, 0, 1), (call_id, 1, 0)]
    facts = console.ledger.read(kinds=["outcomes.received"])[0].body["outcomes"]
    assert (facts["by"], facts["labels"], facts["calls"]) == (OPERATOR.subject, 2, 1)


@pytest.mark.parametrize("strange", [{"label": 2**53}, {"label": -(2**64)}, {"row": 2**63}, {"label": 0.5}])
async def test_a_label_that_no_class_has_is_refused(console: World, strange: dict[str, float]) -> None:
    said = {"call_id": await console.call(), "row": 0, "label": 1, **strange}
    async with console.client("operator-token") as client:
        assert (await client.post("/v1/outcomes", json={"outcomes": [said]})).status_code == 422
    assert console.labels == []


async def test_outcomes_for_calls_of_others_are_refused_as_a_whole(console: World) -> None:
    mine, theirs = await console.call(), await console.call(tenant="globex")
    refused = await console.call(denied=True)
    async with console.client("operator-token") as client:
        for other in (theirs, refused, "0190aaaa-bbbb-7ccc-8ddd-eeeeeeeeeeee"):
            said = [{"call_id": call_id, "row": 0, "label": 1} for call_id in (mine, other)]
            assert (await client.post("/v1/outcomes", json={"outcomes": said})).status_code == 404
        console.is_ledger_down = True
        said = [{"call_id": mine, "row": 0, "label": 1}]
        assert (await client.post("/v1/outcomes", json={"outcomes": said})).status_code == 503
    assert console.labels == []


async def test_unforeseen_error_tells_nothing(console: World) -> None:
    console.models.trouble = RuntimeError("secret insides")
    async with console.client("monitor-token") as client:
        reply = await client.post("/api/models/risk/transitions", json=MOVE)
    assert reply.status_code == 500
    assert "secret" not in reply.text


async def test_unknown_paths_and_methods_are_problems_too(console: World) -> None:
    async with console.client("operator-token") as client:
        assert (await client.get("/api/nothing")).json()["status"] == 404
        assert (await client.delete("/api/calls")).json()["status"] == 405


def test_ports_see_ones_own_tenant_unless_told_otherwise() -> None:
    sees = ConsolePorts.__dataclass_fields__["sees"].default
    assert sees(OPERATOR, "acme")
    assert not sees(OPERATOR, "globex")
