"""The only place that knows status codes: what went wrong, as RFC 9457 problem details.

Known errors keep their words; an unknown one tells the agent nothing about our insides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from audit import AuditUnavailable, RecordRefused
from controlplane.calls import Decision, Receipt
from controlplane.gateway.gateway import APPROVAL, Denied, duty_in
from controlplane.gateway.hygiene import BodyTooLarge
from controlplane.identity.errors import IdentityUnavailable, Unauthenticated
from inference.errors import BackendBroke, BackendError, BackendRejected, BackendTimeout

BUSY_REASONS = frozenset(
    {
        "rate_limited",
        "budget_exhausted",
        "budget_unknown",
        "behaviour_throttled",
        "behaviour_state_unknown",
        "behaviour_state_full",
    }
)
STEP_UP = "step_up_required"
ASKED = "approval_required"
TOLD_WITH = {"budget_exhausted": "budget", STEP_UP: "step_up", ASKED: APPROVAL, "approval_refused": APPROVAL}
"""Reasons whose refusal says more: the duty that stands beside the decision."""
UNREACHED = "the backend cannot be reached"
TOLD_INSTEAD = {
    **dict.fromkeys(("connect_failed", "cut", "dns_failed", "hung_up", "unavailable"), UNREACHED),
    "credential_refused": "the backend does not accept the gateway's credential",
}
"""Of reasons whose details name hosts and ports of ours, or repeat the key that a server refused: not for agents."""


class BadRequest(Exception):
    """The request cannot be understood; ``reason`` is a stable word, ``detail`` says what to mend."""

    def __init__(self, reason: str, detail: str, status: int = HTTPStatus.BAD_REQUEST) -> None:
        super().__init__(detail)
        self.reason, self.detail, self.status = reason, detail, status


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """``kind`` is the last part of the problem type URN; ``reason`` the stable word inside that kind."""

    status: int
    kind: str
    reason: str
    detail: str
    decision: Decision | None = None
    receipt: Receipt | None = None
    retry_after_s: float | None = None
    backend_code: str = ""

    def as_json(self) -> dict[str, Any]:
        """The problem document; refusals carry the decision and where it stands in the ledger."""
        document: dict[str, Any] = {
            "type": f"urn:controlplane:{self.kind}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "reason": self.reason,
        }
        return document | self.facts()

    def facts(self) -> dict[str, Any]:
        """What a refusal can prove about itself: event id, ledger index, rules, policy revision."""
        facts: dict[str, Any] = {}
        if self.receipt is not None:
            facts |= {"decision_id": self.receipt.event_id, "ledger_index": self.receipt.index}
        if self.decision is not None:
            facts["policy_revision"] = self.decision.revision
            facts["rules"] = [{"id": rule.id, "source": rule.source} for rule in self.decision.rules]
            told = TOLD_WITH.get(self.decision.reason)
            facts |= {o.name: dict(o.parameters) for o in self.decision.obligations if o.name == told}
        return facts

    @property
    def step_up(self) -> Mapping[str, Any]:
        """What a token must show (``acr_values``, ``max_age_s``) for the call to go out; {} where nothing would do."""
        found: Mapping[str, Any] = self.facts().get("step_up", {})
        return found


def problem_for(error: Exception) -> Problem:
    match error:
        case BadRequest():
            return Problem(status=error.status, kind="bad-request", reason=error.reason, detail=error.detail)
        case BodyTooLarge():
            return Problem(
                status=413, kind="bad-request", reason="body_too_large", detail="the request body exceeds the limit"
            )
        case Unauthenticated():
            return Problem(
                status=401, kind="unauthenticated", reason=error.reason, detail="no valid credential; get a new token"
            )
        case IdentityUnavailable():
            return Problem(
                status=503, kind="identity", reason=error.reason, detail="credentials cannot be verified just now"
            )
        case Denied():
            return _refusal(error)
        case AuditUnavailable():
            return Problem(
                status=503,
                kind="ledger",
                reason=error.reason,
                detail="not recorded, therefore not done",
                retry_after_s=2,
            )
        case RecordRefused():
            return Problem(
                status=400, kind="bad-request", reason="unrecordable", detail=f"cannot be recorded: {error.reason}"
            )
        case BackendError():
            return _backend_problem(error)
        case _:
            return Problem(status=500, kind="internal", reason="internal", detail="internal error")


def _refusal(error: Denied) -> Problem:
    decision, receipt = error.decision, error.receipt
    rule = f" by {decision.rules[0].id} at {decision.rules[0].source}" if decision.rules else ""
    status, kind = 403, "denied"
    if decision.reason in BUSY_REASONS:
        status, kind = 429, "busy"
    elif decision.reason == STEP_UP:  # RFC 9470 §3: the token is good, and not good enough for this
        status, kind = 401, "step-up"
    return Problem(
        status=status,
        kind=kind,
        reason=decision.reason,
        detail=f"refused{rule}: {decision.reason} (ledger entry {receipt.index})" + advice(decision),
        decision=decision,
        receipt=receipt,
        retry_after_s=decision.retry_after_s,
    )


def advice(decision: Decision) -> str:
    """What an agent can do about a refusal that people can lift; "" for any other."""
    duty = duty_in(decision, APPROVAL)
    if duty is None or decision.reason != ASKED:
        return ""
    who = " and ".join(f"{each['people']} with role {each['by']}" for each in duty.parameters["approvers"])
    question = duty.parameters["id"]
    return f". People must approve this call ({who}); repeat it unchanged when they have. Question {question}"


def _backend_problem(error: BackendError) -> Problem:
    match error:
        case BackendRejected():
            status, kind = 400, "backend-rejected"
        case BackendTimeout():
            status, kind = 504, "backend-timeout"
        case BackendBroke():
            status, kind = 502, "backend"
        case _:
            status, kind = 503, "backend-unavailable"
    if error.reason == "not_found":
        status = 404
    detail = TOLD_INSTEAD.get(error.reason, error.detail)
    return Problem(
        status=status,
        kind=kind,
        reason=error.reason,
        detail=detail or error.reason,
        retry_after_s=error.retry_after_s,
        backend_code=error.reason,
    )
