"""What the shipped policies promise, asked through the same door as everybody."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from controlplane.calls import Call, Decision, Obligation, Principal
from controlplane.policy import BundlePolicy, PolicySettings

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def policy() -> BundlePolicy:
    policy = BundlePolicy(PolicySettings(path=ROOT / "policies"))
    policy.load()
    assert policy.status().error == ""
    return policy


def decide(
    policy: BundlePolicy, who: str, action: str, resource: str, tenant: str = "acme", **arguments: Any
) -> Decision:
    principal = Principal(subject=who, tenant=tenant)
    call = Call(id="c", door="test", action=action, resource=resource, arguments=arguments)
    return policy.decide(principal, call, 0.0)


def test_small_refund_is_granted_with_its_duties(policy: BundlePolicy) -> None:
    decision = decide(policy, "agent:support", "call", "/tool/refund", amount=100)
    assert decision.permits
    assert decision.obligations == (
        Obligation("rate_limit", {"key": "subject", "per_s": 60, "max": 5}),
        Obligation("redact", {"in": ["card", "iban"], "out": ["card", "iban"]}),
    )


@pytest.mark.parametrize("amount", [100.01, 1000])
def test_large_refund_is_granted_only_with_the_approval_of_finance(policy: BundlePolicy, amount: float) -> None:
    decision = decide(policy, "agent:support", "call", "/tool/refund", amount=amount)
    assert decision.permits
    assert decision.obligations == (
        Obligation("redact", {"in": ["card", "iban"], "out": ["card", "iban"]}),
        Obligation("require_approval", {"approvers": [{"by": "finance", "people": 1}], "ttl_s": 900}),
    )


def test_who_pays_refunds_does_not_approve_them(policy: BundlePolicy) -> None:
    assert decide(policy, "user:finance", "write", "/api/approvals").permits
    assert not decide(policy, "agent:support", "write", "/api/approvals").permits
    assert not decide(policy, "user:finance", "call", "/tool/refund", amount=500).permits


def test_huge_refund_is_denied_by_its_own_rule_with_the_line_it_stands_on(policy: BundlePolicy) -> None:
    decision = decide(policy, "agent:support", "call", "/tool/refund", amount=1000.01)
    (rule,) = decision.rules
    file, line = rule.source.split(":")
    assert (decision.reason, rule.id) == ("rule_denied", "support.refund.huge")
    assert "support.refund.huge" in (ROOT / "policies" / file).read_text().splitlines()[int(line) - 1]


@pytest.mark.parametrize("amount", [None, "50", True, float("nan"), float("inf"), [50], {}])
def test_amount_that_is_no_finite_number_is_denied(policy: BundlePolicy, amount: object) -> None:
    decision = decide(policy, "agent:support", "call", "/tool/refund", amount=amount)
    assert (decision.permits, decision.reason) == (False, "condition_error")


def test_other_tenant_gets_nothing_of_acme(policy: BundlePolicy) -> None:
    wishes = [
        ("infer", "/model/risk"), ("infer", "/model/tiny"), ("list", "/model"), ("call", "/tool/refund"),
        ("connect", "/mcp/time"), ("call", "/mcp/time/get_current_time"), ("read", "/api/ledger"),
    ]  # fmt: skip
    for action, resource in wishes:
        assert not decide(policy, "agent:courier", action, resource, "globex", amount=5, rows=1).permits


def test_same_name_in_another_tenant_is_another_principal(policy: BundlePolicy) -> None:
    assert decide(policy, "user:operator", "write", "/api/policy").permits
    assert not decide(policy, "user:operator", "write", "/api/policy", "globex").permits
    assert not decide(policy, "user:operator", "write", "/api/policy", "nowhere").permits


def test_chat_is_granted_with_the_token_limit_of_the_analyst(policy: BundlePolicy) -> None:
    decision = decide(policy, "agent:analyst", "infer", "/model/tiny")
    assert decision.obligations == (Obligation("max_tokens", {"max": 256}),)


def test_lists_show_what_some_arguments_would_allow(policy: BundlePolicy) -> None:
    support = Principal(subject="agent:support", tenant="acme")
    assert policy.could_permit(support, "call", "/tool/refund")
    assert policy.could_permit(support, "call", "/mcp/time/get_current_time")
    assert not policy.could_permit(support, "call", "/mcp/time/convert_time")
    assert not policy.could_permit(support, "infer", "/model/risk")
