"""Rules for tests, as people write them, and the shipped ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from controlplane.policy.adaptation import AdaptationFile, AdaptationRule
from controlplane.policy.documents import read_document

SHIPPED = Path(__file__).parents[3] / "policies"


def rule(**fields: Any) -> AdaptationRule:
    """Throttle above 0.8 for two windows; back below 0.7 after three."""
    return AdaptationRule.model_validate(
        {
            "id": "cpu.throttle",
            "for_each": "gateway",
            "when": {"signal": "cpu_ratio", "above": 0.8},
            "windows": 2,
            "then": "throttle",
            "back_when": {"signal": "cpu_ratio", "below": 0.7},
            "back_windows": 3,
            "hold_down_s": 0,
            **fields,
        }
    )


def shipped() -> AdaptationFile:
    name = "adaptation.yaml"
    return AdaptationFile.model_validate(read_document(name, (SHIPPED / name).read_bytes()).value)
