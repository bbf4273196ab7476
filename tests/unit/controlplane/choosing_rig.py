"""A gateway that chooses models: real policy files, a real ledger and the real choice, over a fleet in memory."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from audit import AuditSettings, LedgerReader, Record, SqliteLedger
from controlplane.calls import Call, Principal, new_call_id
from controlplane.choosing import Choosing
from controlplane.clock import Clock
from controlplane.gateway.doors.feedback import RESOURCE
from controlplane.gateway.gateway import Admission, Gateway
from controlplane.gateway.obligations import Obligations
from controlplane.gateway.observers import Observers
from controlplane.gateway.recorder import LedgerRecorder
from controlplane.policy import BundlePolicy, PolicySettings
from controlplane.resilience.breakers import Breakers
from controlplane.resilience.settings import BreakerSettings
from inference.backend import BackendReply
from inference.errors import BackendError
from inference.selection import SelectionSettings
from tests.unit.policy.bundles import Folder

ANALYST = Principal(subject="agent:analyst", tenant="acme", issuer="i", token_id="t1")
SECOND = Principal(subject="agent:support", tenant="acme", issuer="i", token_id="t2")
STRANGER = Principal(subject="agent:courier", tenant="globex", issuer="i", token_id="t3")
OPERATOR = Principal(subject="user:operator", tenant="acme", kind="user")
ENTRY = {
    "task": "chat",
    "backend": "vllm",
    "sensitivity": 1,
    "side_effect": "read",
    "cost_tier": "low",
    "owner": "acme",
}

RULES = """role: analyst
rules:
  - id: analyst.chat
    on: [/model/good, /model/poor, /model/rows]
    do: infer
    effect: allow
  - id: analyst.feedback
    on: /feedback
    do: write
    effect: allow
"""


def a_model(name: str, accuracy: float, **changes: Any) -> dict[str, Any]:
    measured = {"dataset": "d", "metric": "accuracy", "value": accuracy, "n": 100}
    latency = {"p50_ms": 100.0, "measured_on": "here"}
    return {"name": name, **ENTRY, "card": {"quality": [measured], "latency": latency}, **changes}


MODELS = [
    a_model("good", 0.9),
    a_model("poor", 0.6),
    a_model("secret", 0.99),
    a_model("rows", 0.7, task="classification", backend="tfs"),
]


@dataclass
class Fleet:
    """``deployed`` are TF Serving's; all models of the catalogue are served but those in ``gone``."""

    policy: BundlePolicy
    breakers: Breakers
    deployed: frozenset[str] = frozenset({"rows"})
    gone: set[str] = field(default_factory=set)

    def names(self) -> list[str]:
        return [name for name in self.policy.catalogue.models if name not in self.gone]

    def deployment_of(self, model: str) -> object | None:
        return self if model in self.deployed else None

    def version_meant(self, model: str, version: int | None, label: str | None) -> int:
        return version or (3 if model in self.deployed else 0)

    def known(self, model: str, version: int | None = None, label: str | None = None) -> None:
        return None


@dataclass
class Now:
    """Wall-clock time near the real one, as ids of calls carry the real one."""

    ahead_s: float = 0.0
    monotonic_s: float = 0.0

    def clock(self) -> Clock:
        real = Clock()
        return Clock(lambda: real.wall() + self.ahead_s, lambda: self.monotonic_s)


@dataclass
class Backends:
    """Answers for models in ``takes_s`` seconds, saying ``rung`` and ``served_by`` as a fleet does; and ``desk``."""

    now: Now
    takes_s: float = 0.1
    rung: str = "primary"
    served_by: str = ""
    fails: BackendError | None = None
    asked: list[Call] = field(default_factory=list)
    desk: Any = None

    @asynccontextmanager
    async def send(self, admission: Admission) -> AsyncGenerator[BackendReply]:
        if admission.call.resource == RESOURCE:
            async with self.desk.send(admission) as reply:
                yield reply
            return
        self.asked.append(admission.call)
        self.now.monotonic_s += self.takes_s
        if self.fails is not None:
            raise self.fails

        async def answer() -> AsyncGenerator[bytes]:
            yield b"answer"

        yield BackendReply(200, (), answer(), served_by=self.served_by or "up", rung=self.rung)


@dataclass
class Rig:
    """One life of a gateway; ``restart`` begins another on the same files."""

    root: Path
    settings: SelectionSettings = field(default_factory=lambda: SelectionSettings(explore_share=0.0))
    now: Now = field(default_factory=Now)

    def __post_init__(self) -> None:
        self.backends = Backends(self.now)

    def prepare(self, models: Sequence[Mapping[str, Any]] = MODELS) -> None:
        self.folder = Folder(self.root)
        self.folder.write("roles/analyst.yaml", RULES)
        self.folder.write("catalog/models.yaml", json.dumps({"models": models}))
        self.folder.write("roles/support.yaml", RULES.replace("analyst", "support"))

    async def begin(self) -> None:
        clock = self.now.clock()
        self.policy = BundlePolicy(PolicySettings(path=self.folder.path), clock.wall)
        self.policy.load()
        assert not self.policy.status().error
        audit = AuditSettings(
            writer="thread",
            path=self.root / "ledger.sqlite",
            signing_key=self.root / "signing.key",
            commitment_key=self.root / "c.key",
        )
        self.ledger = SqliteLedger(audit)
        await self.ledger.open()
        self.breakers = Breakers(lambda _: BreakerSettings(), clock.monotonic, jitter=lambda: 0.5)
        self.fleet = Fleet(self.policy, self.breakers)
        self.choosing = Choosing(
            self.settings, self.policy, self.fleet, self.ledger, state=self.root / "state", clock=clock
        )
        self.choosing.memory.resume()
        self.backends.desk = self.choosing.desk(LedgerReader(audit.path), lambda data: f"commit:{len(data)}")
        self.gateway = Gateway(
            identity=None,  # type: ignore[arg-type]  callers come proven here
            policy=self.choosing.policy_for(self.policy),
            obligations=Obligations({}),
            ledger=LedgerRecorder(self.ledger, lambda data: f"commit:{len(data)}"),
            backends=self.backends,
            observer=Observers([self.choosing.choice]),
            choose=self.choosing.choice.choose,
            wall_clock=clock.wall,
            monotonic=clock.monotonic,
        )

    async def end(self) -> None:
        await self.choosing.memory.save()
        await self.ledger.close()

    async def restart(self) -> None:
        await self.end()
        await self.begin()

    async def ask(self, model: str = "auto:chat", by: Principal = ANALYST, **fields: Any) -> str:
        """A chat; its id. Raises what the gateway raises."""
        call = a_call(model, **fields)
        admission = await self.gateway.admit_call(by, call)
        async with self.gateway.relay(admission) as reply, aclosing(reply.chunks) as chunks:
            async for _ in chunks:
                pass
        return call.id

    async def say(self, call_id: str, score: float, by: Principal = ANALYST, comment: str = "") -> dict[str, Any]:
        """Feedback through the whole gateway; its answer."""
        body = json.dumps({"call_id": call_id, "score": score, "comment": comment}).encode()
        arguments = {"call_id": call_id, "score": score, "comment_chars": len(comment)}
        call = Call(
            id=new_call_id(), door="feedback", action="write", resource=RESOURCE, body=body, arguments=arguments
        )
        admission = await self.gateway.admit_call(by, call)
        async with self.gateway.relay(admission) as reply, aclosing(reply.chunks) as chunks:
            return dict(json.loads(b"".join([chunk async for chunk in chunks])))

    def records(self, *kinds: str) -> list[Record]:
        return self.ledger.read(kinds=kinds, limit=1000)


def a_call(model: str, **fields: Any) -> Call:
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "hei"}]}).encode()
    said = {"door": "test", "action": "infer", "resource": f"/model/{model}", "body": body, "operation": "chat"}
    return Call(**{"id": new_call_id(), **said, "arguments": {"model": model, "max_tokens": 9}, **fields})
