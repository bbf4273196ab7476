"""What a rule found, what is answered, and what would satisfy it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from msgspec import Struct, structs

from controlplane.calls import Decision, Effect, Obligation, Principal, RuleRef
from controlplane.policy.behaviour import Answer, Mode, StepUp

KIND = "behaviour.verdict"
"""The kind of the ledger's records."""

REASONS: Mapping[Answer, str] = {
    "block": "behaviour_blocked",
    "step_up": "step_up_required",
    "throttle": "behaviour_throttled",
}
UNKNOWN, FULL, DEFECT = "behaviour_state_unknown", "behaviour_state_full", "behaviour_defect"
STRICTNESS: tuple[Answer, ...] = ("alert", "throttle", "step_up", "block")


class Finding(Struct, frozen=True, kw_only=True):
    """``change``: ``begins``, ``holds``, ``ends``, or ``satisfied`` by what the caller showed.

    ``facts`` are whole numbers and words, for the ledger. ``is_news`` says that it belongs there.
    """

    rule: RuleRef
    sort: str  # rate | sequence | loop | context
    answer: Answer
    mode: Mode
    change: str = "begins"
    scope: str = ""
    facts: Mapping[str, int | str] = {}
    retry_after_s: float | None = None
    step_up: StepUp | None = None
    is_news: bool = True
    reason: str = ""  # of the denial, where it is not the answer's own

    @property
    def refuses(self) -> bool:
        return self.mode == "enforce" and self.answer != "alert" and self.change in ("begins", "holds")


@dataclass(frozen=True, slots=True)
class Verdict:
    """A finding about one call, as the ledger keeps it."""

    finding: Finding
    tenant: str
    agent: str
    call_id: str
    revision: str

    def body(self) -> dict[str, Any]:
        found = self.finding
        facts: dict[str, Any] = {"rule": found.rule.id, "source": found.rule.source, "sort": found.sort}
        facts |= {"answer": found.answer, "mode": found.mode, "change": found.change}
        facts |= {"tenant": self.tenant, "agent": self.agent, "call": self.call_id, "policy_revision": self.revision}
        if found.scope:
            facts["scope"] = found.scope
        if found.facts:
            facts["facts"] = dict(found.facts)
        return {"behaviour": facts}


def agent_of(principal: Principal) -> str:
    """Who behaves: whoever holds the token, which is the current actor (RFC 8693 §4.1) or else the subject."""
    return principal.chain[0] if principal.chain else principal.subject


def satisfies(principal: Principal, asked: StepUp, now_s: float) -> bool:
    """Whether the token shows what was asked (RFC 9470 §4).

    Only verified claims count; one that is missing or of another type shows nothing.
    """
    if not asked.asks_something:
        return False
    if asked.acr_values and principal.claims.get("acr") not in asked.acr_values:
        return False
    if asked.max_age_s is None:
        return True
    at_s = principal.claims.get("auth_time")
    if isinstance(at_s, bool) or not isinstance(at_s, int | float):
        return False
    return at_s >= now_s - asked.max_age_s


def denied(decision: Decision, finding: Finding) -> Decision:
    """The strictest finding's answer. What would satisfy a step-up stands beside it as an obligation."""
    duties: tuple[Obligation, ...] = ()
    if finding.answer == "step_up" and finding.step_up is not None:
        duties = (Obligation("step_up", asked_for(finding.step_up)),)
    return structs.replace(
        decision,
        effect=Effect.DENY,
        reason=finding.reason or REASONS[finding.answer],
        rules=(finding.rule, *decision.rules),
        obligations=duties,
        retry_after_s=finding.retry_after_s,
    )


def asked_for(step_up: StepUp) -> dict[str, Any]:
    """The parameters of RFC 9470 §3, as far as they are set."""
    asked: dict[str, Any] = {}
    if step_up.acr_values:
        asked["acr_values"] = list(step_up.acr_values)
    if step_up.max_age_s is not None:
        asked["max_age_s"] = step_up.max_age_s
    return asked


def strictest(findings: list[Finding]) -> Finding:
    return max(findings, key=lambda one: STRICTNESS.index(one.answer))
