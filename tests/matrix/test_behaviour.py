"""The whole gateway, over its sockets: what an agent did decides what it may do next, and no byte goes out before."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import numpy as np
import pytest

from audit.verify import verify
from controlplane.identity.development import DevelopmentIssuer, Grant
from controlplane.wiring import ControlPlane
from inference.tfserving.predict import encode_predict
from tests.matrix.upstreams import Upstream
from tests.matrix.world import World, listening

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "what is in the vault"}]}
REFUND = {"amount": 1}
MCP = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "leak", "arguments": {}}}
PREDICT = "/tensorflow.serving.PredictionService/Predict"
ENTRY = {"sensitivity": 1, "cost_tier": "low", "owner": "test"}
TOOLS = [
    {"resource": "/tool/refund", "labels": ["egress"], "side_effect": "irreversible", **ENTRY},
    {"resource": "/mcp/clock", "labels": ["egress"], "side_effect": "write", **ENTRY},
]
SECRET = {"do": "infer", "on": "/model/tiny"}
LEAK = {"id": "secret.egress", "after": SECRET, "then": {"labels": ["egress"]}, "within": "session", "answer": "block"}


class Place:
    """A gateway with rules of behaviour, and agents that speak to it."""

    def __init__(self, plane: ControlPlane, world: World, port: int, http: aiohttp.ClientSession) -> None:
        self.plane, self.world, self.http, self.url = plane, world, http, f"http://127.0.0.1:{port}"

    @property
    def reached(self) -> int:
        """Calls of agents; how a model is doing, the gateway asks by itself."""
        return sum(call != "GetModelStatus" for call in self.world.upstream.calls)

    def token(self, **claims: Any) -> str:
        grant = Grant(subject="agent:good", tenant="test", claims=claims)
        return DevelopmentIssuer(self.world.folder / "identity").issue(grant)

    async def post(
        self, path: str, body: Any, token: str = "", **headers: str
    ) -> tuple[int, Mapping[str, str], Mapping[str, Any]]:
        sent = {"authorization": f"Bearer {token or self.world.tokens['good']}", **headers}
        sent.setdefault("accept", "application/json, text/event-stream")
        async with self.http.post(f"{self.url}{path}", json=body, headers=sent) as answer:
            return answer.status, answer.headers, await answer.json()

    def records(self, *kinds: str) -> list[tuple[str, Mapping[str, Any]]]:
        return [(record.kind, record.body) for record in self.plane.ledger.read(limit=1000, kinds=kinds)]


@asynccontextmanager
async def opened(folder: Path, **rules: Any) -> AsyncGenerator[Place]:
    """Opens the same folder again where there is one."""
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(Upstream())
        world = World(folder, upstream)
        if (folder / "policies").exists():
            world._issue()
        else:
            world.build()
        (folder / "policies/catalog/tools.yaml").write_text(json.dumps({"tools": TOOLS}))
        (folder / "policies/behaviour.yaml").write_text(json.dumps(rules))
        plane = await stack.enter_async_context(ControlPlane(world.settings()))
        assert not plane.policy.status().error
        port = await stack.enter_async_context(listening(plane.app))
        http = await stack.enter_async_context(aiohttp.ClientSession())
        yield Place(plane, world, port, http)
    report = verify(world.ledger, plane.ledger.verifier_key)
    assert report.is_sound, report.faults


async def test_what_was_read_does_not_leave_by_any_door(tmp_path: Path) -> None:
    async with opened(tmp_path, sequences=[LEAK | {"then": {"on": ["/tool/**", "/mcp/**", "/model/risk"]}}]) as place:
        assert (await place.post("/tools/refund", REFUND))[0] == 200
        assert (await place.post("/v1/chat/completions", CHAT))[0] == 200
        before = place.reached
        status, headers, problem = await place.post("/tools/refund", REFUND)
        assert (status, problem["reason"]) == (403, "behaviour_blocked")
        assert problem["rules"][0] == {"id": "secret.egress", "source": "behaviour.yaml:1"}
        assert headers["x-audit-receipt"].endswith(problem["decision_id"])
        _, _, answer = await place.post("/mcp/clock", MCP)
        assert answer["result"]["isError"]
        assert "behaviour_blocked" in json.dumps(answer)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{place.plane.grpc_port}") as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await channel.unary_unary(PREDICT)(
                    encode_predict("risk", {"x": np.zeros((1, 2), np.float32)}),
                    metadata=(("authorization", f"Bearer {place.world.tokens['good']}"),),
                    wait_for_ready=True,
                )
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert place.reached == before, "nothing went out"
        kinds = [kind for kind, _ in place.records("intent", "deny", "behaviour.verdict")]
        assert kinds[-4:] == ["behaviour.verdict", "deny", "deny", "deny"], "the verdict first, and once"


async def test_a_restart_does_not_forget(tmp_path: Path) -> None:
    async with opened(tmp_path, sequences=[LEAK]) as place:
        await place.post("/v1/chat/completions", CHAT)
    async with opened(tmp_path, sequences=[LEAK]) as place:
        assert (await place.post("/tools/refund", REFUND))[2]["reason"] == "behaviour_blocked"
        assert place.reached == 0


async def test_a_step_up_is_a_401_that_a_fresh_login_satisfies(tmp_path: Path) -> None:
    rule = LEAK | {"answer": "step_up", "step_up": {"acr_values": ["gold"], "max_age_s": 600}}
    async with opened(tmp_path, sequences=[rule]) as place:
        await place.post("/v1/chat/completions", CHAT)
        before = place.reached
        status, headers, problem = await place.post("/tools/refund", REFUND)
        assert (status, problem["reason"], problem["type"]) == (401, "step_up_required", "urn:controlplane:step-up")
        assert problem["step_up"] == {"acr_values": ["gold"], "max_age_s": 600}
        challenge = headers["www-authenticate"]
        assert 'error="insufficient_user_authentication"' in challenge
        assert 'acr_values="gold"' in challenge
        assert 'max_age="600"' in challenge
        assert place.reached == before
        fresh = place.token(acr="gold", auth_time=int(place.plane.clock.wall()))
        assert (await place.post("/tools/refund", REFUND, fresh))[0] == 200
        told = [body["behaviour"]["change"] for _, body in place.records("behaviour.verdict")]
        assert told == ["begins", "satisfied"]


async def test_too_many_calls_are_429_with_the_seconds_to_wait(tmp_path: Path) -> None:
    rate = {"id": "rate.habit", "window_s": 3600, "prior": {"mean": 0.1, "spread": 0.1}}
    async with opened(tmp_path, rates=[rate]) as place:
        answers = [await place.post("/tools/refund", REFUND) for _ in range(12)]
        statuses = [status for status, _, _ in answers]
        assert statuses == sorted(statuses)
        assert (statuses[0], statuses[-1]) == (200, 429)
        assert answers[-1][2]["reason"] == "behaviour_throttled"
        assert 1 <= int(answers[-1][1]["retry-after"]) <= 3600
        assert place.reached == statuses.count(200)
        ((_, body),) = place.records("behaviour.verdict")
        assert (body["behaviour"]["answer"], body["behaviour"]["change"]) == ("throttle", "begins")


async def test_a_loop_in_one_trace_is_blocked_and_an_alert_lets_it_go(tmp_path: Path) -> None:
    trace = {"traceparent": f"00-{7:032x}-{9:016x}-01"}
    loop = {"of": {"do": "call"}, "within": "run", "untraced": "skip"}
    loops = [loop | {"id": "loop.alert", "same_call": 2, "answer": "alert"}]
    loops += [loop | {"id": "loop.block", "same_call": 4, "answer": "block"}]
    async with opened(tmp_path, loops=loops) as place:
        statuses = [(await place.post("/tools/refund", REFUND, **trace))[0] for _ in range(5)]
        assert statuses == [200, 200, 200, 403, 403]
        assert (await place.post("/tools/refund", {"amount": 2}, **trace))[0] == 200
        assert (await place.post("/tools/refund", REFUND))[0] == 200
        told = [body["behaviour"]["rule"] for _, body in place.records("behaviour.verdict")]
        assert told == ["loop.alert", "loop.block"]


async def test_a_dry_run_lets_everything_go_and_says_so(tmp_path: Path) -> None:
    async with opened(tmp_path, sequences=[LEAK | {"mode": "dry_run"}]) as place:
        await place.post("/v1/chat/completions", CHAT)
        assert (await place.post("/tools/refund", REFUND))[0] == 200
        ((_, body),) = place.records("behaviour.verdict")
        assert (body["behaviour"]["mode"], body["behaviour"]["answer"]) == ("dry_run", "block")
        text = (await place.plane.metrics.exposition())[0].decode()
        assert 'controlplane_behaviour_findings_total{answer="block",change="begins",mode="dry_run"' in text
