"""Calls as people read them: intent or denial, decision with its rules, and what came of it. Read from the ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

from pydantic import BaseModel

from audit import Record
from controlplane.console.ports import LedgerView

CALL_KINDS = ("intent", "deny")
SCAN_LIMIT = 5_000  # records looked at for one page, when most are not for the reader's eyes
NEAR = 500  # records after a page's newest call among which its outcomes mostly stand


class Rule(BaseModel):
    id: str
    source: str


class CallOutcome(BaseModel):
    """What came of it; ``running`` while nothing is recorded yet."""

    status: str
    index: int | None = None
    http: int = 0
    served_by: str = ""
    rung: str = ""
    latency_us: int = 0
    byte_count: int = 0
    tokens: dict[str, int] = {}
    error: str = ""


class CallView(BaseModel):
    id: str
    index: int
    time_ms: int
    kind: str
    subject: str
    subject_kind: str
    tenant: str
    delegation: list[str]
    door: str
    action: str
    operation: str
    resource: str
    version: int | None
    label: str | None
    effect: str
    reason: str
    rules: list[Rule]
    obligations: list[dict[str, Any]]
    policy_revision: str
    eval_us: int
    traceparent: str
    args_commit: str
    outcome: CallOutcome | None


class CallPage(BaseModel):
    """Newest first. ``next`` is the ``before`` of the following page; None at the end."""

    calls: list[CallView]
    next: int | None


Sees = Callable[[str], bool]
"""Whether the reader may see calls of a tenant."""


def _everything(_record: Record) -> bool:
    return True


class CallHistory:
    """Blocking: call from a thread. Raises ``audit.AuditUnavailable`` when the ledger cannot be read."""

    def __init__(self, ledger: LedgerView) -> None:
        self._ledger = ledger

    def page(
        self,
        sees: Sees,
        limit: int,
        before: int | None = None,
        *,
        fits: Callable[[Record], bool] = _everything,
        scan: int = SCAN_LIMIT,
    ) -> CallPage:
        """``fits`` says which calls are wanted; at most ``scan`` records are looked at."""
        high = self._ledger.head().size if before is None else before
        floor = max(0, high - scan)
        span = limit * 4
        seen = (each for each in self._downwards(high, floor, span) if sees(tenant_of(each)) and fits(each))
        found = list(islice(seen, limit))
        reached = found[-1].index if len(found) == limit else floor
        outcomes = self._outcomes(found)
        calls = [call_view(record, outcomes.get(record.event_id)) for record in found]
        return CallPage(calls=calls, next=reached or None)

    def find(self, call_id: str, sees: Sees) -> CallView | None:
        record = self._ledger.find(call_id)
        if record is None or record.kind not in CALL_KINDS or not sees(tenant_of(record)):
            return None
        if record.kind == "deny":
            return call_view(record, None)
        if call_id in self._ledger.open_intents():
            return call_view(record, CallOutcome(status="running"))
        outcome = self._ledger.outcome_of(call_id)
        return call_view(record, CallOutcome(status="running") if outcome is None else outcome_view(outcome))

    def _downwards(self, high: int, floor: int, span: int) -> Iterator[Record]:
        """Calls with an index from ``floor`` to below ``high``, newest first."""
        while high > floor:
            low = max(floor, high - span)
            records = self._ledger.read(after=low - 1, limit=high - low, kinds=CALL_KINDS)
            yield from reversed([record for record in records if record.index < high])
            high, span = low, span * 2

    def _outcomes(self, calls: list[Record]) -> Mapping[str, CallOutcome]:
        wanted = {record.event_id for record in calls if record.kind == "intent"}
        if not wanted:
            return {}
        oldest, newest = calls[-1].index, calls[0].index
        near = self._ledger.read(after=oldest, limit=newest - oldest + NEAR, kinds=["outcome"])
        found = {str(record.body["closes"]): outcome_view(record) for record in near if record.body["closes"] in wanted}
        running = self._ledger.open_intents()
        for call_id in wanted - found.keys():
            late = None if call_id in running else self._ledger.outcome_of(call_id)
            found[call_id] = CallOutcome(status="running") if late is None else outcome_view(late)
        return found


def tenant_of(record: Record) -> str:
    return str(record.body.get("principal", {}).get("tenant", ""))


def call_view(record: Record, outcome: CallOutcome | None) -> CallView:
    body = record.body
    principal, action, decision = (body.get(part, {}) for part in ("principal", "action", "decision"))
    return CallView(
        id=record.event_id,
        index=record.index,
        time_ms=record.time_ms,
        kind=record.kind,
        subject=principal.get("subject", ""),
        subject_kind=principal.get("type", ""),
        tenant=principal.get("tenant", ""),
        delegation=[str(step.get("agent", "")) for step in principal.get("delegation", [])],
        door=action.get("protocol", ""),
        action=action.get("kind", ""),
        operation=action.get("operation", ""),
        resource=action.get("name", ""),
        version=action.get("version"),
        label=action.get("label"),
        effect=decision.get("effect", ""),
        reason=decision.get("reason", ""),
        rules=[Rule(id=rule["id"], source=rule["source"]) for rule in decision.get("rules", [])],
        obligations=list(decision.get("obligations", [])),
        policy_revision=decision.get("policy", {}).get("revision", ""),
        eval_us=decision.get("eval_us", 0),
        traceparent=body.get("trace", {}).get("traceparent", ""),
        args_commit=action.get("args_commit", ""),
        outcome=outcome,
    )


def outcome_view(record: Record) -> CallOutcome:
    body = record.body["outcome"]
    return CallOutcome(
        status=str(body["status"]),
        index=record.index,
        http=body.get("http", 0),
        served_by=body.get("served_by", ""),
        rung=body.get("rung", ""),
        latency_us=body.get("latency_us", 0),
        byte_count=body.get("bytes", 0),
        tokens=body.get("tokens", {}),
        error=str(body.get("error", "")),
    )
