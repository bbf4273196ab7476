"""Calls that people must approve, at every door: asked for, answered over the operator API, made once."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from controlplane import fleet
from controlplane.identity.development import DevelopmentIssuer, Grant
from controlplane.wiring import ControlPlane
from tests.matrix.drivers import DRIVERS, Answer, Driver
from tests.matrix.test_matrix import every
from tests.matrix.upstreams import Upstream
from tests.matrix.world import EVERYTHING, Gate, World, listening, running

DUTY = {"require_approval": {"by": "boss", "ttl_s": 600}}
PEOPLE = {"user:ada": ["boss", "desk"], "user:bob": ["boss", "desk"], "user:eve": ["desk"]}
WHY = "the customer asked for it in writing"


def write_people(world: World, *duties: dict[str, Any]) -> None:
    """Whatever the agent does needs an approval; everybody else may use the inbox."""
    rules = [{"id": "good.everything", "on": EVERYTHING, "do": "*", "effect": "allow", "oblige": duties or (DUTY,)}]
    desk = [{"id": "desk.approvals", "on": "/api/approvals", "do": ["read", "write"], "effect": "allow"}]
    desk += [{"id": "desk.console", "on": "/api/console", "do": "read", "effect": "allow"}]
    policies = world.folder / "policies"
    for role, held in {"good": rules, "boss": [], "desk": desk}.items():
        (policies / f"roles/{role}.yaml").write_text(json.dumps({"role": role, "rules": held}))
    agents = [{"id": f"agent:{name}", "roles": ["good"]} for name in ("good", "denied")]
    known = agents + [{"id": name, "roles": roles} for name, roles in PEOPLE.items()]
    known.append({"id": "agent:boss", "roles": ["good", "boss", "desk"]})
    (policies / "tenants/test/principals.yaml").write_text(json.dumps({"tenant": "test", "principals": known}))


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[World]:
    monkeypatch.setattr(fleet, "DEPLOYMENT_CHECK_S", 3600)  # what reaches the upstream then is a call's doing
    async with Upstream() as upstream:
        built = World(tmp_path, upstream)
        built.build()
        write_people(built)
        yield built


def token_of(world: World, subject: str, **more: Any) -> str:
    return DevelopmentIssuer(world.folder / "identity").issue(Grant(subject=subject, tenant="test", **more))


async def api(
    gate: Gate, who: str, path: str = "", body: dict[str, str] | None = None, **more: Any
) -> tuple[int, dict[str, Any]]:
    headers = {"authorization": f"Bearer {token_of(gate.world, who, **more)}"}
    method = "GET" if body is None else "POST"
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, f"{gate.url}/api/approvals{path}", json=body, headers=headers) as answer,
    ):
        return answer.status, await answer.json()


async def questions(gate: Gate, who: str = "user:ada") -> list[dict[str, Any]]:
    status, said = await api(gate, who)
    assert status == 200
    return list(said["questions"])


async def say(gate: Gate, who: str, question: str, answer: str = "approve", **more: Any) -> tuple[int, dict[str, Any]]:
    return await api(gate, who, f"/{question}", {"answer": answer, "reason": WHY}, **more)


async def ask(driver: Driver, gate: Gate) -> Answer:
    return await driver.ask(gate, gate.world.tokens["good"])


@every(DRIVERS)
async def test_a_call_waits_for_its_approval_and_uses_it_up(driver: Driver, world: World) -> None:
    async with running(world, obligations=None) as gate:
        first = await ask(driver, gate)
        assert (first.status, first.reason) == (driver.denied_status, "approval_required")
        assert (await ask(driver, gate)).reason == "approval_required"
        assert world.upstream.calls == []
        (question,) = await questions(gate)
        assert (question["id"], question["state"], question["missing"]) == (first.receipt, "waiting", {"boss": 1})
        assert (await say(gate, "user:ada", question["id"]))[0] == 200

        done = await ask(driver, gate)
        assert (done.status, done.reason) in {(200, ""), ("OK", "")}
        assert (await ask(driver, gate)).reason == "approval_required"
        records = await gate.records(5)
    kinds = [record.kind for record in records]
    assert sorted(kinds) == ["deny", "deny", "deny", "intent", "outcome"]
    intent = records[kinds.index("intent")].body["decision"]
    (duty,) = [each["parameters"] for each in intent["obligations"] if each["name"] == "require_approval"]
    assert (intent["gate"], duty["id"], duty["words"][0]["by"]) == ("approval", first.receipt, "user:ada")
    assert records[0].body["decision"]["gate"] == "blocked"


@asynccontextmanager
async def running_again(world: World) -> AsyncGenerator[Gate]:
    """As ``running``, on a ledger that has a past."""
    async with AsyncExitStack() as stack:
        plane = await stack.enter_async_context(ControlPlane(world.settings()))
        port = await stack.enter_async_context(listening(plane.app))
        yield Gate(plane, world, f"http://127.0.0.1:{port}", plane.ledger.head.size - 1)


@pytest.fixture
def tool() -> Driver:
    return next(driver for driver in DRIVERS if driver.name == "tools")


async def test_the_person_sees_exactly_what_would_go_out(world: World, tool: Driver) -> None:
    async with running(world, obligations=None) as gate:
        await ask(tool, gate)
        (question,) = await questions(gate)
        assert json.loads(question["shown"]) == {"amount": 5}
        assert (question["subject"], question["resource"]) == ("agent:good", "/tool/refund")
        assert question["rules"][0][0] == "good.everything"
        await gate.records(1)


async def test_a_refusal_holds_until_its_time_is_over(world: World, tool: Driver) -> None:
    async with running(world, obligations=None) as gate:
        asked = await ask(tool, gate)
        assert (await say(gate, "user:ada", asked.receipt, "refuse"))[0] == 200
        assert (await ask(tool, gate)).reason == "approval_refused"
        status, problem = await say(gate, "user:bob", asked.receipt)
        assert (status, problem["reason"]) == (409, "already_refused")
        assert (await ask(tool, gate)).reason == "approval_refused"
        assert world.upstream.calls == []
        await gate.records(3)


@pytest.mark.parametrize(
    ("who", "more", "reason"),
    [
        ("user:eve", {}, "not_an_approver"),
        ("agent:good", {}, "no_matching_rule"),
        ("user:ada", {"actors": ("agent:helper",)}, "no_matching_rule"),
        ("user:ada", {"actors": ("agent:boss",)}, "delegated"),
    ],
)
async def test_nobody_else_can_approve(world: World, tool: Driver, who: str, more: dict[str, Any], reason: str) -> None:
    async with running(world, obligations=None) as gate:
        asked = await ask(tool, gate)
        status, problem = await say(gate, who, asked.receipt, **more)
        assert (status, problem["reason"]) == (403, reason)
        assert (await ask(tool, gate)).reason == "approval_required"
        await gate.records(2)


async def test_an_approver_does_not_approve_its_own_call(world: World, tool: Driver) -> None:
    async with running(world, obligations=None) as gate:
        asked = await tool.ask(gate, token_of(world, "agent:boss"))
        status, problem = await say(gate, "agent:boss", asked.receipt)
        assert (status, problem["reason"]) == (403, "own_call")
        (question,) = await questions(gate, "agent:boss")
        assert question["hindrance"] == "nobody approves a call of their own"
        await gate.records(1)


async def test_an_approval_outlives_a_restart_and_is_used_once_all_the_same(world: World, tool: Driver) -> None:
    async with running(world, obligations=None) as gate:
        asked = await ask(tool, gate)
        assert (await say(gate, "user:ada", asked.receipt))[0] == 200
        await gate.records(1)
    async with running_again(world) as gate:
        assert (await ask(tool, gate)).reason == ""
    async with running_again(world) as gate:
        assert (await ask(tool, gate)).reason == "approval_required"


async def test_two_people_means_two_people(world: World, tool: Driver) -> None:
    write_people(world, {"require_approval": {"by": "boss", "people": 2}})
    async with running(world, obligations=None) as gate:
        asked = await ask(tool, gate)
        for _ in range(2):
            assert (await say(gate, "user:ada", asked.receipt))[0] == 200
            assert (await ask(tool, gate)).reason == "approval_required"
        assert (await say(gate, "user:bob", asked.receipt))[0] == 200
        assert (await ask(tool, gate)).reason == ""
        await gate.records(5)
