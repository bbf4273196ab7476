"""The gateway's words put into ledger records. Bodies are committed to with a key, never stored, never merely hashed:
a bare hash of guessable data is still that data (EDPB 02/2025).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from audit import Ledger, RecordRefused
from controlplane.calls import Call, Decision, Principal, Receipt, new_call_id
from controlplane.gateway.gateway import APPROVAL, Admission, duty_in
from controlplane.gateway.outcome import Outcome
from controlplane.telemetry.context import is_well_formed
from inference.backend import Usage

Commit = Callable[[bytes], str]
"""A keyed commitment to bytes, as text."""

MICRO = 1_000_000
NAME_CHARS = 1024
"""Of what a caller names. Readers hold thousands of records at once, and only what callers name can be long in them."""
MAX_TOKENS = 2**53 - 1
"""The largest integer that the ledger takes. A backend may count nonsense; its outcome is recorded all the same."""


class LedgerRecorder:
    """Writes ``intent`` and ``deny`` before, exactly one ``outcome`` after. Each is durable when its method returns."""

    def __init__(self, ledger: Ledger, commit: Commit) -> None:
        self.ledger, self.commit = ledger, commit

    async def record_intent(self, call: Call, principal: Principal, decision: Decision) -> Receipt:
        if len(call.resource) > NAME_CHARS or len(call.operation) > NAME_CHARS:
            raise RecordRefused("too_large", f"a name of more than {NAME_CHARS} characters")
        body = {
            "principal": principal_facts(principal),
            "action": action_facts(call, self.commit(call.body)),
            "decision": decision_facts(decision),
        }
        if call.selection:
            body["decision"]["selection"] = dict(call.selection)
        if call.traceparent and is_well_formed(call.traceparent):  # nobody's free text gets into the ledger this way
            body["trace"] = {"traceparent": call.traceparent}
        permits = decision.permits
        kind = "intent" if permits else "deny"
        receipt = await self.ledger.append(kind, body, event_id=call.id, opens=permits)
        return Receipt(receipt.event_id, receipt.index, receipt.checkpoint)

    async def record_outcome(self, admission: Admission, outcome: Outcome) -> Receipt:
        body = {"outcome": outcome_facts(outcome, self.commit(outcome.digest.digest()))}
        intent = admission.receipt.event_id
        receipt = await self.ledger.append("outcome", body, event_id=new_call_id(), closes=intent)
        return Receipt(receipt.event_id, receipt.index, receipt.checkpoint)


def principal_facts(principal: Principal) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "subject": principal.subject,
        "type": principal.kind,
        "tenant": principal.tenant,
        "auth": {"method": "jwt", "issuer": principal.issuer, "token_id": principal.token_id},
    }
    if principal.chain:
        facts["delegation"] = [{"agent": actor, "depth": depth} for depth, actor in enumerate(principal.chain)]
    return facts


def action_facts(call: Call, commitment: str) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "kind": call.action,
        "protocol": call.door,
        "name": call.resource,
        "operation": call.operation,
        "args_commit": commitment,
        "bytes": len(call.body),
    }
    if call.version is not None:
        facts["version"] = call.version
    if call.label:
        facts["label"] = call.label
    return facts


def decision_facts(decision: Decision) -> dict[str, Any]:
    return {
        "effect": str(decision.effect),
        "gate": gate_of(decision),
        "reason": decision.reason,
        "policy": {"revision": decision.revision},
        "rules": [{"id": rule.id, "source": rule.source} for rule in decision.rules],
        "obligations": [{"name": o.name, "parameters": {**o.parameters}} for o in decision.obligations],
        "eval_us": decision.eval_us,
    }


def gate_of(decision: Decision) -> str:
    if not decision.permits:
        return "blocked"
    return "auto" if duty_in(decision, APPROVAL) is None else "approval"


def outcome_facts(outcome: Outcome, commitment: str) -> dict[str, Any]:
    """Only integers and strings: the ledger's canonical form has no floats."""
    facts: dict[str, Any] = {
        "status": outcome.status,
        "http": outcome.http_status,
        "served_by": outcome.served_by,
        "rung": outcome.rung,
        "bytes": outcome.byte_count,
        "latency_us": round((outcome.ended_s - outcome.started_s) * MICRO),
        "result_commit": commitment,
    }
    if outcome.error:
        facts["error"] = outcome.error
    if outcome.first_byte_s is not None:
        facts["first_byte_us"] = round((outcome.first_byte_s - outcome.started_s) * MICRO)
    tokens = token_facts(outcome.usage)
    if tokens:
        facts["tokens"] = tokens
    if outcome.cost:
        facts["cost"] = dict(outcome.cost)
    return facts


def token_facts(usage: Usage) -> dict[str, int]:
    facts: dict[str, int] = {}
    given, made, cached = usage.input_tokens, usage.output_tokens, usage.cached_tokens
    if given is not None and 0 <= given <= MAX_TOKENS:
        facts["in"] = given
    if made is not None and 0 <= made <= MAX_TOKENS:
        facts["out"] = made
    if cached is not None and 0 <= cached <= MAX_TOKENS:
        facts["cached"] = cached
    return facts
