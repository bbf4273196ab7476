"""What traces and log lines say of a call."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import cast

import pytest
from msgspec.structs import replace

from controlplane.calls import Receipt, RuleRef
from controlplane.gateway.gateway import Admission
from controlplane.gateway.outcome import Outcome
from controlplane.gateway.tracer import CallLog, Tracer
from controlplane.telemetry.tracing import EndedCall, Tracing
from inference.backend import Usage
from tests.unit.gateway.conftest import AGENT, ALLOW, DENY, a_call

RECEIPT = Receipt("e1", 7, "")
RULES = (RuleRef("chat.none", "roles/a.yaml:3"),)


@dataclass
class Remembering:
    """Tracing, as far as it is told of calls."""

    is_on: bool = True
    ended: list[EndedCall] = field(default_factory=list)

    def record(self, call: EndedCall) -> None:
        self.ended.append(call)

    def trace_id_of(self, call_id: str, received: str) -> str:
        return f"trace of {call_id}{received}"


def as_tracing(fake: Remembering) -> Tracing:
    return cast("Tracing", fake)


def admission() -> Admission:
    return Admission(a_call(streams=True), AGENT, replace(ALLOW, rules=RULES), RECEIPT, 1.0, 1.25)


def test_an_ended_call_is_told_with_its_instants_and_tokens() -> None:
    tracing = Remembering()
    outcome = Outcome(1.25, status="ok", ended_s=3.0, first_byte_s=2.0, served_by="tiny/1", usage=Usage(3, 4))
    Tracer(as_tracing(tracing)).observe(admission(), outcome, recorded=True)
    (told,) = tracing.ended
    assert (told.arrived_s, told.admitted_s, told.first_byte_s, told.ended_s) == (1.0, 1.25, 2.0, 3.0)
    assert (told.outcome, told.served_by, told.input_tokens, told.output_tokens) == ("ok", "tiny/1", 3, 4)
    assert (told.ledger_index, told.rules, told.streams) == (7, ("chat.none",), True)


def test_a_refused_call_never_went_out() -> None:
    tracing = Remembering()
    decision = replace(DENY, rules=RULES, eval_us=500_000)
    Tracer(as_tracing(tracing), lambda: 10.0).refused(a_call(), AGENT, decision, RECEIPT)
    (told,) = tracing.ended
    assert (told.admitted_s, told.arrived_s, told.ended_s) == (None, 9.5, 10.0)
    assert (told.effect, told.reason, told.outcome) == ("deny", "no_matching_rule", "refused")
    assert told.is_remarkable


def test_nothing_is_told_while_tracing_is_off() -> None:
    tracing = Remembering(is_on=False)
    tracer = Tracer(as_tracing(tracing))
    tracer.refused(a_call(), AGENT, DENY, RECEIPT)
    tracer.observe(admission(), Outcome(1.0), recorded=True)
    assert tracing.ended == []


def test_refusals_and_failures_are_log_lines_and_successes_are_not(caplog: pytest.LogCaptureFixture) -> None:
    calls = CallLog(as_tracing(Remembering()))
    with caplog.at_level(logging.INFO):
        calls.refused(a_call(), AGENT, replace(DENY, rules=RULES), RECEIPT)
        calls.observe(admission(), Outcome(1.0, status="ok"), recorded=True)
        calls.observe(admission(), Outcome(1.0, status="error", error="cut"), recorded=True)
        calls.observe(admission(), Outcome(1.0, status="ok"), recorded=False)
    said = [(line.getMessage(), line.levelname) for line in caplog.records]
    assert said == [("call refused", "INFO"), ("call ended", "WARNING"), ("call ended", "WARNING")]
    refused, failed, lost = (line.__dict__ for line in caplog.records)
    assert (refused["reason"], refused["rule"], refused["ledger_index"]) == ("no_matching_rule", "chat.none", 7)
    assert (failed["error"], failed["recorded"], failed["trace_id"]) == ("cut", True, "trace of c1")
    assert lost["recorded"] is False
    assert not any("{}" in str(line.args) for line in caplog.records), "no bodies in logs"
