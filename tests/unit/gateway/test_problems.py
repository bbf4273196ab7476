"""Every error has its status, its stable word, and tells agents nothing about our insides."""

from __future__ import annotations

from typing import Any

import pytest

from audit import AuditUnavailable, IntentNotOpen, LedgerInUse, RecordRefused
from controlplane.calls import Decision, Effect, Obligation, Receipt, RuleRef
from controlplane.gateway.gateway import Denied
from controlplane.gateway.problems import BadRequest, problem_for
from controlplane.identity.errors import IdentityUnavailable, Unauthenticated
from inference.errors import BackendBroke, BackendError, BackendRejected, BackendTimeout, BackendUnavailable

RECEIPT = Receipt("e1", 7, "checkpoint")


def denied(reason: str, retry_after_s: float | None = None) -> Denied:
    rules = (RuleRef("chat.none", "roles/a.yaml:3"), RuleRef("chat.other", "roles/b.yaml:1"))
    return Denied(
        Decision(effect=Effect.DENY, reason=reason, revision="r1", rules=rules, retry_after_s=retry_after_s), RECEIPT
    )


@pytest.mark.parametrize(
    ("error", "status", "kind", "reason"),
    [
        (BadRequest("invalid_body", "mend it"), 400, "bad-request", "invalid_body"),
        (BadRequest("unsupported", "mend it", 415), 415, "bad-request", "unsupported"),
        (RecordRefused("too_large", "70000 bytes"), 400, "bad-request", "unrecordable"),
        (Unauthenticated("expired"), 401, "unauthenticated", "expired"),
        (IdentityUnavailable("keys_stale"), 503, "identity", "keys_stale"),
        (denied("no_matching_rule"), 403, "denied", "no_matching_rule"),
        (denied("unknown_obligation"), 403, "denied", "unknown_obligation"),
        (denied("rate_limited", 3.0), 429, "busy", "rate_limited"),
        (denied("budget_exhausted"), 429, "busy", "budget_exhausted"),
        (denied("budget_unknown"), 429, "busy", "budget_unknown"),
        (denied("behaviour_throttled", 3.0), 429, "busy", "behaviour_throttled"),
        (denied("behaviour_state_unknown", 5.0), 429, "busy", "behaviour_state_unknown"),
        (denied("behaviour_state_full"), 429, "busy", "behaviour_state_full"),
        (denied("behaviour_blocked"), 403, "denied", "behaviour_blocked"),
        (denied("step_up_required"), 401, "step-up", "step_up_required"),
        (AuditUnavailable("disk_full"), 503, "ledger", "disk_full"),
        (LedgerInUse(), 503, "ledger", "in_use"),
        (BackendRejected("not_found", "no such model"), 404, "backend-rejected", "not_found"),
        (BackendRejected("bad_tensor", "shape"), 400, "backend-rejected", "bad_tensor"),
        (BackendTimeout("deadline"), 504, "backend-timeout", "deadline"),
        (BackendBroke("cut"), 502, "backend", "cut"),
        (BackendUnavailable("breaker_open"), 503, "backend-unavailable", "breaker_open"),
        (BackendError("strange"), 503, "backend-unavailable", "strange"),
        (IntentNotOpen("e1"), 500, "internal", "internal"),
        (KeyError("/srv/secret/path"), 500, "internal", "internal"),
    ],
)
def test_each_error_has_its_status_and_word(error: Exception, status: int, kind: str, reason: str) -> None:
    problem = problem_for(error)
    assert (problem.status, problem.kind, problem.reason) == (status, kind, reason)
    document = problem.as_json()
    assert (document["type"], document["status"]) == (f"urn:controlplane:{kind}", status)
    assert document["detail"]
    assert "/srv" not in str(document)


def test_a_refusal_proves_itself() -> None:
    problem = problem_for(denied("rate_limited", 3.0))
    assert problem.facts() == {
        "decision_id": "e1",
        "ledger_index": 7,
        "policy_revision": "r1",
        "rules": [
            {"id": "chat.none", "source": "roles/a.yaml:3"},
            {"id": "chat.other", "source": "roles/b.yaml:1"},
        ],
    }
    assert problem.retry_after_s == 3.0
    assert problem.detail == "refused by chat.none at roles/a.yaml:3: rate_limited (ledger entry 7)"


@pytest.mark.parametrize("reason", ["connect_failed", "dns_failed", "unavailable", "hung_up", "cut"])
@pytest.mark.parametrize("family", [BackendUnavailable, BackendBroke])
def test_addresses_of_ours_are_not_told(family: type[BackendError], reason: str) -> None:
    problem = problem_for(family(reason, "last error: ipv4:10.0.0.7:8500 refused"))
    assert problem.detail == "the backend cannot be reached"
    assert problem.reason == problem.backend_code == reason


def test_a_key_of_ours_that_a_server_repeats_is_not_told() -> None:
    problem = problem_for(BackendUnavailable("credential_refused", "Incorrect API key provided: sk-ours"))
    assert (problem.reason, problem.detail) == (
        "credential_refused",
        "the backend does not accept the gateway's credential",
    )


def test_what_the_caller_can_mend_keeps_its_words() -> None:
    assert problem_for(BackendRejected("bad_tensor", "x has shape (3,)")).detail == "x has shape (3,)"
    assert problem_for(BackendUnavailable("busy", "try later", retry_after_s=7)).retry_after_s == 7


def test_a_step_up_says_what_would_satisfy_it() -> None:
    asked = {"acr_values": ["gold"], "max_age_s": 60}
    problem = problem_for(Denied(decided("step_up_required", step_up=asked), RECEIPT))
    assert problem.step_up == problem.facts()["step_up"] == asked
    assert problem_for(denied("step_up_required")).step_up == {}


def decided(reason: str, **duties: dict[str, Any]) -> Decision:
    obligations = tuple(Obligation(name, parameters) for name, parameters in duties.items())
    return Decision(effect=Effect.DENY, reason=reason, revision="r1", obligations=obligations)


@pytest.mark.parametrize(
    ("reason", "told"),
    [("budget_exhausted", {"budget"}), ("step_up_required", {"step_up"}), ("no_matching_rule", set())],
)
def test_a_refusal_tells_of_the_duty_that_it_is_about_and_of_no_other(reason: str, told: set[str]) -> None:
    duties = {"budget": {"limit": 5}, "step_up": {"max_age_s": 60}, "redact": {"patterns": ["ACME-[0-9]+"]}}
    facts = problem_for(Denied(decided(reason, **duties), RECEIPT)).facts()
    assert facts.keys() & duties.keys() == told
