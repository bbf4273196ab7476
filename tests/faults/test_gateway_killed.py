"""kill -9 of the gateway under load: whatever an agent was told is in the ledger, and the ledger is sound.

The gateway is the process that operators start, in front of an HTTP tool and the model server that comes with the
product. Every round begins on the files that the last one left.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import grpc
import numpy as np
import pytest

from audit import LedgerReader
from audit.verify import verify
from inference.savedmodel import export_mlp
from inference.tfserving.predict import decode_predict, encode_predict
from inference.tfserving.wire import METHODS
from tests.matrix.upstreams import Upstream, closed_port
from tests.matrix.world import CALL_KINDS, World

ROUNDS = 20
MOST_ANSWERS = 120  # of one round, before it is killed
START_LIMIT_S = 300  # of a machine that is busy with other things
EVERYTHING = 10_000_000
GONE = (aiohttp.ClientError, ConnectionError, grpc.aio.AioRpcError)


@dataclass
class Told:
    """What agents have seen whole: call ids by the kind of answer."""

    ids: dict[str, list[str]] = field(default_factory=lambda: {"tool": [], "grpc": [], "rest": [], "deny": []})
    more: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def count(self) -> int:
        return sum(map(len, self.ids.values()))

    def note(self, kind: str, call_id: str) -> None:
        self.ids[kind].append(call_id)
        self.more.set()


@dataclass
class Agents:
    """All at once, each asking again as soon as it is answered, until nobody answers any more."""

    url: str
    rpc: str
    tokens: dict[str, str]
    told: Told = field(default_factory=Told)

    async def work(self, session: aiohttp.ClientSession, channel: grpc.aio.Channel) -> None:
        kinds: list[Callable[[], Awaitable[None]]] = [
            *[lambda: self._pay(session)] * 6,
            *[lambda: self._predict(channel)] * 2,
            *[lambda: self._score(session)] * 2,
            lambda: self._try(session),
        ]

        await asyncio.gather(*(self._until_gone(kind) for kind in kinds))

    async def _until_gone(self, ask: Callable[[], Awaitable[None]]) -> None:
        try:
            while True:
                await ask()
        except GONE:
            self.told.more.set()

    async def _pay(self, session: aiohttp.ClientSession) -> None:
        status, headers, _ = await self._post(session, "/tools/refund", {"amount": 1}, "good")
        assert status == 200
        self.told.note("tool", headers["x-call-id"])

    async def _score(self, session: aiohttp.ClientSession) -> None:
        status, headers, answer = await self._post(session, "/v1/models/risk:predict", {"instances": [[1, 2]]}, "good")
        assert (status, list(answer)) == (200, ["predictions"])
        self.told.note("rest", headers["x-call-id"])

    async def _try(self, session: aiohttp.ClientSession) -> None:
        status, _, answer = await self._post(session, "/tools/refund", {"amount": 1}, "denied")
        assert status == 403
        self.told.note("deny", answer["decision_id"])

    async def _predict(self, channel: grpc.aio.Channel) -> None:
        method: Any = channel.unary_unary(METHODS["Predict"].path)
        metadata = (("authorization", f"Bearer {self.tokens['good']}"),)
        call = method(encode_predict("risk", {"x": np.ones((1, 2), np.float32)}), metadata=metadata)
        assert decode_predict(await call)
        self.told.note("grpc", dict(await call.trailing_metadata())["x-call-id"])

    async def _post(
        self, session: aiohttp.ClientSession, path: str, document: Any, who: str
    ) -> tuple[int, Any, dict[str, Any]]:
        headers = {"authorization": f"Bearer {self.tokens[who]}"}
        async with session.post(self.url + path, json=document, headers=headers) as reply:
            return reply.status, reply.headers, json.loads(await reply.read())


@asynccontextmanager
async def process(log: Path, *argv: str) -> AsyncGenerator[asyncio.subprocess.Process]:
    with log.open("ab") as out:
        started = await asyncio.create_subprocess_exec(sys.executable, "-m", *argv, stdout=out, stderr=out)
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()


async def until_ready(url: str, token: str, gateway: asyncio.subprocess.Process) -> None:
    """Ready, and the model behind it deployed."""
    headers = {"authorization": f"Bearer {token}"}
    with anyio.fail_after(START_LIMIT_S):
        async with aiohttp.ClientSession() as session:
            while True:
                assert gateway.returncode is None, "the gateway ended; see its log"
                try:
                    async with session.get(url + "/v1/models/risk/metadata", headers=headers) as reply:
                        if reply.status == 200:
                            return
                except aiohttp.ClientError:
                    pass
                await anyio.sleep(0.02)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncGenerator[World]:
    async with Upstream() as upstream:
        upstream.grpc_port = closed_port()
        built = World(tmp_path, upstream)
        built.build()
        layers = [(np.ones((2, 2)), np.zeros(2))]
        export_mlp(tmp_path / "models/risk/1", layers, feature_names=["a", "b"], class_names=["no", "yes"])
        model = ["--model", f"risk={tmp_path / 'models/risk'}", "--port", str(upstream.grpc_port)]
        async with process(tmp_path / "models.log", "inference.tfserving.server", *model):
            yield built


def write_settings(world: World) -> Agents:
    document = world.document()
    document["server"] |= {"http_port": closed_port(), "grpc_port": closed_port()}
    document["telemetry"] = {"metrics_port": closed_port(), "log_level": "warning"}
    document["backends"]["tfs"]["models"]["risk"] = str(world.folder / "models/risk")
    (world.folder / "controlplane.yaml").write_text(json.dumps(document))
    server = document["server"]
    return Agents(f"http://127.0.0.1:{server['http_port']}", f"127.0.0.1:{server['grpc_port']}", world.tokens)


async def killed_after(answers: int, agents: Agents, world: World, check: Callable[[], None]) -> None:
    """One round: start, ``check`` what the last round left, work until so many ``answers`` are there, kill."""
    log, agents.told = world.folder / "gateway.log", Told()
    config = ["--config", str(world.folder / "controlplane.yaml")]
    async with process(log, "controlplane.cli", "gateway", *config) as gateway:
        await until_ready(agents.url, world.tokens["good"], gateway)
        check()
        async with aiohttp.ClientSession() as session, grpc.aio.insecure_channel(agents.rpc) as channel:
            working = asyncio.ensure_future(agents.work(session, channel))
            with anyio.fail_after(START_LIMIT_S):
                while agents.told.count < answers and not working.done():
                    agents.told.more.clear()
                    await agents.told.more.wait()
            assert not working.done(), "the gateway left its agents alone; see its log"
            gateway.send_signal(signal.SIGKILL)
            with anyio.fail_after(START_LIMIT_S):
                await working
        assert await gateway.wait() == -signal.SIGKILL


async def test_whatever_an_agent_was_told_survives_a_kill(world: World) -> None:
    agents, reader, chance = write_settings(world), LedgerReader(world.ledger), random.Random(6962)
    key = world.folder / "signing.key.pub"
    orphans: dict[str, int] = {}
    everything: Counter[str] = Counter()

    def orphans_are_closed() -> None:
        for call_id in orphans:
            closing = reader.outcome_of(call_id)
            assert closing is not None
            assert closing.body["outcome"] == {"status": "unknown", "error": "recovery"}

    for _ in range(ROUNDS):
        await killed_after(chance.randrange(1, MOST_ANSWERS), agents, world, orphans_are_closed)
        report = verify(world.ledger, key.read_text().strip())
        assert report.is_sound, report.faults
        assert_recorded(agents.told, reader)
        everything.update({kind: len(ids) for kind, ids in agents.told.ids.items()})
        orphans = reader.open_intents()
        everything["orphans"] += len(orphans)
    assert min(everything.values()) > 0, everything
    calls = [record for record in reader.read(limit=EVERYTHING, kinds=CALL_KINDS) if record.kind != "outcome"]
    assert len({record.event_id for record in calls}) == len(calls), "one call id, two calls"
    paid = [record for record in calls if record.kind == "intent" and record.body["action"]["name"] == "/tool/refund"]
    assert len(world.upstream.calls) <= len(paid), "the tool was called without an intent"


def assert_recorded(told: Told, reader: LedgerReader) -> None:
    """Every answer has its record; those that are held back until the outcome is durable have that as well."""
    for kind, ids in told.ids.items():
        for call_id in ids:
            record = reader.find(call_id)
            assert record is not None, f"{kind} {call_id} was answered and is not in the ledger"
            assert record.kind == ("deny" if kind == "deny" else "intent")
            if kind in {"tool", "grpc"}:
                closing = reader.outcome_of(call_id)
                assert closing is not None, f"{kind} {call_id} was answered whole before its outcome was durable"
                assert closing.body["outcome"]["status"] == "ok"
