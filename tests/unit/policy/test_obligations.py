"""Several duties become one, and the strictest wins."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from audit.entry import canonical
from controlplane.calls import Obligation
from controlplane.policy.obligations import DUTIES, MERGES, parse_obligation, strictest


def test_smallest_limit_of_each_window_holds() -> None:
    duties = [
        Obligation("rate_limit", {"key": "subject", "per_s": 60, "max": 5}),
        Obligation("rate_limit", {"key": "subject", "per_s": 60, "max": 3}),
        Obligation("rate_limit", {"key": "tenant", "per_s": 60, "max": 9}),
        Obligation("rate_limit", {"key": "subject", "per_s": 1, "max": 1}),
        Obligation("max_tokens", {"max": 512}),
        Obligation("max_tokens", {"max": 256}),
    ]
    assert strictest(duties) == (
        Obligation("rate_limit", {"key": "subject", "per_s": 1, "max": 1}),
        Obligation("rate_limit", {"key": "subject", "per_s": 60, "max": 3}),
        Obligation("rate_limit", {"key": "tenant", "per_s": 60, "max": 9}),
        Obligation("max_tokens", {"max": 256}),
    )


def test_everything_that_anyone_masks_is_masked() -> None:
    duties = [
        Obligation("redact", {"in": ["iban"], "out": []}),
        Obligation("redact", {"in": ["card"], "out": ["email"]}),
    ]
    assert strictest(duties) == (Obligation("redact", {"in": ["card", "iban"], "out": ["email"]}),)


def test_duty_without_a_merge_is_a_defect_and_not_dropped() -> None:
    with pytest.raises(ValueError, match="fly"):
        strictest([Obligation("fly", {})])


def test_the_least_urgent_of_several_priorities_holds() -> None:
    duties = [Obligation("priority", {"level": 2}), Obligation("priority", {"level": 7})]
    assert strictest(duties) == (Obligation("priority", {"level": 7}),)


def test_an_answer_is_saved_for_the_shortest_time_and_by_chance_only_if_all_agree() -> None:
    duties = [Obligation("cache", {"ttl_s": 300, "any": True}), Obligation("cache", {"ttl_s": 60, "any": False})]
    assert strictest(duties) == (Obligation("cache", {"ttl_s": 60, "any": False}),)
    assert strictest([*duties, Obligation("cache", {"ttl_s": 0, "any": True})])[0].parameters["ttl_s"] == 0


def test_every_budget_holds_and_of_two_for_the_same_spending_the_smaller() -> None:
    duties = [
        parse_obligation("budget", {"key": "tenant", "per": "month", "max_usd": 100}),
        parse_obligation("budget", {"key": "subject", "per": "day", "max_usd": 2}),
        parse_obligation("budget", {"key": "subject", "per": "day", "max_usd": 0.5}),
        parse_obligation("budget", {"key": "subject", "per": "day", "max_usd": 9, "name": "large"}),
    ]
    (merged,) = strictest(duties)
    assert merged == strictest(reversed(duties))[0]
    assert [
        (each["key"], each["per"], each["name"], each["max_micro_usd"]) for each in merged.parameters["limits"]
    ] == [
        ("subject", "day", "", 500_000),
        ("subject", "day", "large", 9_000_000),
        ("tenant", "month", "", 100_000_000),
    ]


def test_everybody_whom_any_rule_names_must_agree_and_in_the_shortest_time() -> None:
    duties = [
        parse_obligation("require_approval", {"by": "legal", "ttl_s": 3600}),
        parse_obligation("require_approval", {"by": "boss", "people": 2, "ttl_s": 600}),
        parse_obligation("require_approval", {"by": "boss"}),
    ]
    wanted = {"approvers": [{"by": "boss", "people": 2}, {"by": "legal", "people": 1}], "ttl_s": 600}
    assert strictest(duties) == (Obligation("require_approval", wanted),)
    assert strictest(reversed(duties)) == strictest(duties)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("rate_limit", {"key": "subject", "per_s": 60, "max": 2**53}),
        ("rate_limit", {"key": "subject", "per_s": 2**53, "max": 1}),
        ("max_tokens", {"max": 2**53}),
        ("cache", {"ttl_s": -1}),
        ("cache", {"ttl_s": 1.5}),
        ("cache", {}),
        ("budget", {"key": "agent", "per": "day", "max_usd": 1}),
        ("budget", {"key": "subject", "per": "week", "max_usd": 1}),
        ("budget", {"key": "subject", "per": "day", "max_usd": -1}),
        ("budget", {"key": "subject", "per": "day"}),
        ("require_approval", {}),
        ("require_approval", {"by": "Boss"}),
        ("require_approval", {"by": "boss", "people": 0}),
        ("require_approval", {"by": "boss", "ttl_s": 59}),
        ("require_approval", {"by": "boss", "ttl_s": 7 * 24 * 3600 + 1}),
    ],
)
def test_duty_with_impossible_parameters_does_not_load(name: str, parameters: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        parse_obligation(name, parameters)


def test_parameters_of_every_duty_are_fit_for_the_ledger() -> None:
    samples: dict[str, dict[str, object]] = {
        "rate_limit": {"key": "subject", "per_s": 60, "max": 5},
        "max_tokens": {"max": 5},
        "redact": {"in": ["card"]},
        "priority": {"level": 1},
        "cache": {"ttl_s": 5},
        "require_approval": {"by": "boss", "people": 2},
        "budget": {"key": "subject", "per": "day", "max_usd": 0.1},
    }
    assert samples.keys() == DUTIES.keys() == MERGES.keys()
    for name, parameters in samples.items():
        canonical({"parameters": parse_obligation(name, parameters).parameters})
