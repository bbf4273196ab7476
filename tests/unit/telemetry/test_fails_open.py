"""A whole call through the gateway while every part of telemetry is broken: the agent and the ledger notice nothing."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from controlplane.calls import Call, Decision, Effect, Principal, Receipt, new_call_id
from controlplane.gateway.gateway import Admission, Denied, Gateway
from controlplane.gateway.meter import Meter
from controlplane.gateway.obligations import Obligations
from controlplane.gateway.observers import Observers
from controlplane.gateway.outcome import Outcome
from controlplane.gateway.tracer import CallLog, Tracer
from controlplane.telemetry.metrics import Metrics
from controlplane.telemetry.settings import TracingSettings
from controlplane.telemetry.tracing import EndedCall, Tracing
from inference.backend import BackendReply

ALLOW = Decision(effect=Effect.ALLOW, reason="rule_allowed", revision="ab" * 32)
DENY = Decision(effect=Effect.DENY, reason="rule_denied", revision="ab" * 32)


class Ledger:
    def __init__(self) -> None:
        self.entries: list[str] = []

    async def record_intent(self, call: Call, principal: Principal, decision: Decision) -> Receipt:
        self.entries.append("intent" if decision.permits else "deny")
        return Receipt(call.id, len(self.entries), "")

    async def record_outcome(self, admission: Admission, outcome: Outcome) -> Receipt:
        self.entries.append(f"outcome {outcome.status}")
        return Receipt(admission.call.id, len(self.entries), "")


class Everyone:
    async def authenticate(self, credential: str) -> Principal:
        return Principal(subject="a", tenant="acme")


class Always:
    def __init__(self, decision: Decision) -> None:
        self.decision = decision

    def decide(self, principal: Principal, call: Call, now_s: float) -> Decision:
        return self.decision


class Echo:
    @asynccontextmanager
    async def send(self, admission: Admission) -> AsyncGenerator[BackendReply]:
        async def chunks() -> AsyncGenerator[bytes]:
            yield b"hello"

        yield BackendReply(status=200, headers=(), chunks=chunks(), rung="cache")


class BrokenWriter:
    def write(self, call: EndedCall, context: object) -> None:
        raise RuntimeError("broken exporter")

    def close(self) -> None:
        raise RuntimeError("broken exporter")


def broken_metrics() -> Metrics:
    metrics = Metrics()
    for name in vars(metrics):
        if name != "_complained":
            setattr(metrics, name, None)
    return metrics


def gateway_with_broken_telemetry(decision: Decision) -> tuple[Gateway, Ledger]:
    ledger, metrics = Ledger(), broken_metrics()
    tracing = Tracing(TracingSettings(sample_ratio=1), metrics, BrokenWriter())
    observers = Observers([Meter(metrics), Tracer(tracing), CallLog(tracing)])
    return Gateway(Everyone(), Always(decision), Obligations({}), ledger, Echo(), observers), ledger


async def read_call() -> Call:
    return Call(id=new_call_id(), door="openai", action="invoke", resource="/model/small", operation="chat")


async def test_an_allowed_call_is_answered_and_recorded(caplog: pytest.LogCaptureFixture) -> None:
    gateway, ledger = gateway_with_broken_telemetry(ALLOW)
    admission = await gateway.admit("token", read_call)
    async with gateway.relay(admission) as reply:
        body = b"".join([chunk async for chunk in reply.chunks])
    assert body == b"hello"
    assert ledger.entries == ["intent", "outcome ok"]
    assert "telemetry broke; calls go on" in caplog.text


async def test_a_refused_call_is_refused_and_recorded() -> None:
    gateway, ledger = gateway_with_broken_telemetry(DENY)
    with pytest.raises(Denied):
        await gateway.admit("token", read_call)
    assert ledger.entries == ["deny"]


@pytest.mark.parametrize("name", [each for each in dir(Metrics) if each.startswith("observe_")])
def test_whatever_is_told_breaks_nobody(name: str, caplog: pytest.LogCaptureFixture) -> None:
    observe, values = getattr(broken_metrics(), name), {"str": "a", "int": 1, "float": 1.0, "bool": True}
    said = {each.name: values[each.annotation.split()[0]] for each in inspect.signature(observe).parameters.values()}
    observe(**said)
    assert "telemetry broke; calls go on" in caplog.text
