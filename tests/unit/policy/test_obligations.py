"""Several duties become one, and the strictest wins."""

from __future__ import annotations

import pytest

from controlplane.calls import Obligation
from controlplane.policy.obligations import strictest


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
