"""Calls as spans and as log lines: what is told when a call has ended or was refused."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from controlplane.calls import Call, Decision, Principal, Receipt
from controlplane.gateway.gateway import Admission
from controlplane.gateway.observers import Bystander
from controlplane.gateway.outcome import Outcome
from controlplane.telemetry.tracing import EndedCall, Tracing

log = logging.getLogger(__name__)


class Tracer(Bystander):
    """Hands every ended call to tracing, which decides what it keeps."""

    def __init__(self, tracing: Tracing, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.tracing, self.monotonic = tracing, monotonic

    def refused(self, call: Call, principal: Principal, decision: Decision, receipt: Receipt) -> None:
        if self.tracing.is_on:
            now_s = self.monotonic()
            about = _about(call, principal, decision, receipt)
            self.tracing.record(EndedCall(**about, arrived_s=now_s - decision.eval_us / 1e6, ended_s=now_s))

    def observe(self, admission: Admission, outcome: Outcome, *, recorded: bool) -> None:  # noqa: ARG002  protocol
        if not self.tracing.is_on:
            return
        call = EndedCall(
            **_about(admission.call, admission.principal, admission.decision, admission.receipt),
            arrived_s=admission.arrived_at_s,
            admitted_s=admission.admitted_at_s,
            first_byte_s=outcome.first_byte_s,
            ended_s=outcome.ended_s,
            outcome=outcome.status,
            error=outcome.error,
            http_status=outcome.http_status,
            served_by=outcome.served_by,
            rung=outcome.rung,
            input_tokens=outcome.usage.input_tokens,
            output_tokens=outcome.usage.output_tokens,
        )
        self.tracing.record(call)


class CallLog(Bystander):
    """Refusals and failures as log lines. What went well is in the ledger, and in the log only at level debug."""

    def __init__(self, tracing: Tracing) -> None:
        self.tracing = tracing

    def refused(self, call: Call, principal: Principal, decision: Decision, receipt: Receipt) -> None:
        if log.isEnabledFor(logging.INFO):
            rule = decision.rules[0].id if decision.rules else ""
            fields = self._fields(call, principal, receipt) | {"reason": decision.reason, "rule": rule}
            log.info("call refused", extra=fields)

    def observe(self, admission: Admission, outcome: Outcome, *, recorded: bool) -> None:
        level = logging.DEBUG if outcome.status == "ok" and recorded else logging.WARNING
        if log.isEnabledFor(level):
            fields = self._fields(admission.call, admission.principal, admission.receipt)
            fields |= {"outcome": outcome.status, "error": outcome.error, "served_by": outcome.served_by}
            log.log(level, "call ended", extra=fields | {"recorded": recorded})

    def _fields(self, call: Call, principal: Principal, receipt: Receipt) -> dict[str, Any]:
        return {
            "call_id": receipt.event_id,
            "ledger_index": receipt.index,
            "trace_id": self.tracing.trace_id_of(call.id, call.traceparent),
            "tenant": principal.tenant,
            "door": call.door,
            "resource": call.resource,
        }


def _about(call: Call, principal: Principal, decision: Decision, receipt: Receipt) -> dict[str, Any]:
    return {
        "call_id": call.id,
        "tenant": principal.tenant,
        "door": call.door,
        "resource": call.resource,
        "operation": call.operation,
        "effect": decision.effect.value,
        "reason": decision.reason,
        "revision": decision.revision,
        "ledger_index": receipt.index,
        "traceparent": call.traceparent,
        "rules": tuple(rule.id for rule in decision.rules),
        "streams": call.streams,
    }
