"""Every door times everything that can be wrong: the right answer in its protocol, exactly the records that belong, and
nothing upstream that should not be there.

Each cell is a whole gateway of its own on real keys, policy files, ledger and sockets.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest

from controlplane import fleet
from controlplane.gateway.doors.tfserving_grpc import TfServingGrpc
from tests.matrix.drivers import DRIVERS, Answer, Driver, Over
from tests.matrix.upstreams import Upstream
from tests.matrix.world import PATIENCE_S, Gate, World, running, until

SHORT_S = 1.5  # long enough for a busy machine to reach the upstream
FORWARDING = [driver for driver in DRIVERS if driver.reaches]
OVER_HTTP = [driver for driver in DRIVERS if isinstance(driver, Over)]
BEGINNING = [driver for driver in OVER_HTTP if driver.begins_early and driver.name != "mcp, a list"]
STRICT = [driver for driver in OVER_HTTP if driver.name in {"tools", "mcp, legacy", "mcp, modern"}]

STRANGERS = {
    "none": "no_credential",
    "bad signature": "bad_signature",
    "wrong audience": "wrong_audience",
    "expired": "expired",
    "revoked": "revoked",
}
REFUSED = {"denied": "rule_denied", "faulty": "condition_error", "obliged": "unknown_obligation"}


def every(drivers: Any) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("driver", drivers, ids=lambda driver: driver.name)


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[World]:
    monkeypatch.setattr(fleet, "DEPLOYMENT_CHECK_S", 3600)  # what reaches the upstream then is a call's doing
    async with Upstream() as upstream:
        built = World(tmp_path, upstream)
        built.build()
        yield built


async def test_every_door_that_the_wiring_lists_has_a_driver_here(world: World) -> None:
    async with running(world) as gate:
        listed = {door.name for door in gate.plane.doors()} | {TfServingGrpc.name}
    assert listed == {driver.door for driver in DRIVERS}


@every(DRIVERS)
async def test_a_good_call_is_done_and_recorded(driver: Driver, world: World) -> None:
    async with running(world) as gate:
        answer = await driver.ask(gate, world.tokens["good"])
        assert answer.status in (200, "OK")
        assert answer.reason == ""
        await assert_recorded(gate, driver, answer, outcome=("ok", None))
    assert world.upstream.calls == reached(driver)


@pytest.mark.parametrize("fault", STRANGERS)
@every(DRIVERS)
async def test_a_stranger_is_turned_away_and_leaves_no_record(driver: Driver, fault: str, world: World) -> None:
    async with running(world) as gate:
        answer = await driver.ask(gate, world.tokens[fault])
        assert (answer.status, answer.reason) == (driver.strangers_status, STRANGERS[fault])
        assert answer.receipt == ""
        assert answer.challenge.startswith("Bearer ") or not isinstance(driver, Over)
        assert await gate.records(0) == []
    assert world.upstream.calls == []
    own = ["GetModelStatus", "GetModelMetadata"]
    assert world.upstream.questions in (own, own[:1]), "only the gateway's own look at start"


@pytest.mark.parametrize("agent", REFUSED)
@every(DRIVERS)
async def test_a_refused_call_is_recorded_and_reaches_nobody(driver: Driver, agent: str, world: World) -> None:
    async with running(world) as gate:
        answer = await driver.ask(gate, world.tokens[agent])
        assert f"{agent}.everything" in answer.rules
        await assert_refused(gate, driver, answer, REFUSED[agent])


@pytest.mark.parametrize("bundle", ["absent", "broken"])
@every(DRIVERS)
async def test_without_a_policy_nobody_gets_through(driver: Driver, bundle: str, world: World) -> None:
    guards = world.folder / "policies/global/guardrails.yaml"
    if bundle == "broken":
        guards.write_text("guards: [{")
    else:
        (world.folder / "policies").rename(world.folder / "elsewhere")
    async with running(world) as gate:
        await assert_refused(gate, driver, await driver.ask(gate, world.tokens["good"]), "no_policy")


@every(DRIVERS)
async def test_a_policy_that_breaks_later_leaves_the_last_good_one(driver: Driver, world: World) -> None:
    async with running(world) as gate:
        (world.folder / "policies/roles/denied.yaml").write_text("role: [")
        assert not await gate.plane.policy.poll()
        refused = await driver.ask(gate, world.tokens["denied"])
        assert (refused.status, refused.reason) == (driver.denied_status, "rule_denied")
        done = await driver.ask(gate, world.tokens["good"])
        assert (done.status, done.reason) in ((200, ""), ("OK", ""))
        assert [record.kind for record in await gate.records(3)] == ["deny", "intent", "outcome"]
    assert world.upstream.calls == reached(driver)


@pytest.mark.parametrize("agent", ["good", "denied"])
@every(DRIVERS)
async def test_what_cannot_be_recorded_is_neither_done_nor_refused(driver: Driver, agent: str, world: World) -> None:
    async with running(world) as gate:
        async with without_ledger(gate):
            answer = await driver.ask(gate, world.tokens[agent])
        assert (answer.status, answer.reason) == (driver.unrecorded_status, "file_replaced")
        assert answer.receipt == ""
        assert int(answer.retry_after) > 0
        assert await gate.records(0) == []
    assert world.upstream.calls == []


@every(STRICT)
async def test_an_answer_whose_outcome_cannot_be_recorded_is_not_given_whole(driver: Over, world: World) -> None:
    async with running(world) as gate:
        world.upstream.mode = "wait"
        asking = asyncio.ensure_future(driver.ask(gate, world.tokens["good"]))
        await seen(world.upstream.arrived)
        async with without_ledger(gate):
            world.upstream.go.set()
            (answer,) = await asyncio.gather(asking, return_exceptions=True)
        await gate.records(2)
        assert isinstance(answer, aiohttp.ClientPayloadError | aiohttp.ServerDisconnectedError)


@every(DRIVERS)
async def test_an_upstream_that_is_down_is_an_outcome(driver: Driver, world: World) -> None:
    world.backend_is_up = False
    async with running(world) as gate:
        answer = await driver.ask(gate, world.tokens["good"])
        if driver.reaches:
            assert (answer.status, answer.reason) == (driver.unrecorded_status, driver.down)
            await assert_recorded(gate, driver, answer, outcome=("error", driver.down))
        else:
            await assert_recorded(gate, driver, answer, outcome=("ok", None))
    assert world.upstream.calls == []


@every(FORWARDING)
async def test_an_upstream_that_hangs_is_given_up_in_time(driver: Driver, world: World) -> None:
    world.timeout_s = SHORT_S
    async with running(world) as gate:
        world.upstream.mode = "hang"
        with anyio.fail_after(PATIENCE_S):
            answer = await driver.ask(gate, world.tokens["good"])
        assert (answer.status, answer.reason) == (driver.timeout_status, driver.hangs)
        await assert_recorded(gate, driver, answer, outcome=("timeout", driver.hangs))
        await seen(world.upstream.left)
    assert world.upstream.calls == reached(driver)


@every(FORWARDING)
async def test_a_client_that_hangs_up_ends_the_call_upstream(driver: Driver, world: World) -> None:
    async with running(world) as gate:
        world.upstream.mode = "hang"
        await driver.leave(gate, world.tokens["good"])
        await seen(world.upstream.left)
        await assert_recorded(gate, driver, outcome=("cancelled", None))
    assert world.upstream.calls == reached(driver)


@every(BEGINNING)
async def test_a_client_that_hangs_up_in_the_middle_ends_the_call_upstream(driver: Over, world: World) -> None:
    async with running(world) as gate:
        world.upstream.mode = "half"
        async with driver.open(gate, world.tokens["good"]) as response:
            assert response.status == 200
            if driver.door.startswith(("openai", "anthropic")):
                assert b"hel" in await response.content.readany()
            assert not world.upstream.left.is_set()
            response.close()
        await seen(world.upstream.left)
        await assert_recorded(gate, driver, outcome=("cancelled", None))
    assert world.upstream.calls == reached(driver)


@every(OVER_HTTP)
async def test_a_client_that_is_gone_at_once_leaves_a_record_and_no_call(driver: Over, world: World) -> None:
    """Straight into the application, so that the hang-up certainly comes while the intent is being written."""
    async with running(world) as gate:
        sent = await straight_into(gate, driver, world.tokens["good"])
        assert [message for message in sent if message.get("body")] == []
        await assert_recorded(gate, driver, outcome=("cancelled", None))
    assert world.upstream.calls == []


async def straight_into(gate: Gate, driver: Over, token: str) -> list[Any]:
    """What the application sends to a client that disconnects as soon as its request has been read."""
    headers = {"host": "127.0.0.1", **driver.all_headers(token), "content-length": str(len(driver.raw_body))}
    scope = {
        "type": "http",
        "method": driver.method,
        "path": driver.path,
        "raw_path": driver.path.encode(),
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    received = [{"type": "http.request", "body": driver.raw_body, "more_body": False}]
    sent: list[Any] = []

    async def receive() -> Any:
        return received.pop() if received else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await gate.plane.app(scope, receive, send)
    return sent


async def assert_refused(gate: Gate, driver: Driver, answer: Answer, reason: str) -> None:
    assert (answer.status, answer.reason) == (driver.denied_status, reason)
    (deny,) = await gate.records(1)
    assert deny.kind == "deny"
    assert deny.body["decision"]["reason"] == reason
    assert deny.event_id == answer.receipt
    assert deny.body["action"]["protocol"] == driver.records_as
    assert gate.world.upstream.calls == []


async def assert_recorded(
    gate: Gate, driver: Driver, answer: Answer | None = None, *, outcome: tuple[str, str | None]
) -> None:
    """One intent and one outcome, and nothing else."""
    intent, closing = await gate.records(2)
    assert (intent.kind, closing.kind) == ("intent", "outcome")
    assert intent.body["decision"]["reason"] == "granted"
    assert intent.body["action"]["protocol"] == driver.records_as
    assert closing.body["closes"] == intent.event_id
    told = closing.body["outcome"]
    assert (told["status"], told.get("error")) == outcome
    if answer is not None and answer.receipt:
        assert answer.receipt == intent.event_id


@asynccontextmanager
async def without_ledger(gate: Gate) -> AsyncGenerator[None]:
    """Its file is away, and the gateway has noticed."""
    away, ledger = gate.world.ledger.rename(gate.world.folder / "away.sqlite"), gate.plane.ledger
    probing = asyncio.ensure_future(ledger.probe())
    await until(lambda: not ledger.is_writable)
    yield
    away.rename(gate.world.ledger)
    await probing


async def seen(event: asyncio.Event) -> None:
    with anyio.fail_after(PATIENCE_S):
        await event.wait()


def reached(driver: Driver) -> list[str]:
    return [driver.reaches] if driver.reaches else []
