"""What rules may oblige the enforcement point to do, and how several duties become one.

The strictest wins, whatever the order: adding a rule that allows can never shed a duty.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from controlplane.calls import Obligation


class _Duty(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True)


class MaxTokens(_Duty):
    max: int = Field(gt=0, description="Tokens that the model may answer with.")


class RateLimit(_Duty):
    key: Literal["subject", "tenant", "resource"]
    per_s: int = Field(gt=0, description="Length of the window in seconds.")
    max: int = Field(ge=0, description="Calls in a window.")


class Priority(_Duty):
    level: int = Field(ge=0, le=9, description="0 is the most urgent, 9 the least; without this duty it is 5.")


Sort = Literal["card", "iban", "email", "phone"]


class Redact(_Duty):
    into: list[Sort] = Field(default_factory=list, alias="in", description="What is masked on the way to the backend.")
    out: list[Sort] = Field(default_factory=list, description="What is masked on the way back.")


DUTIES: dict[str, type[_Duty]] = {
    "rate_limit": RateLimit,
    "max_tokens": MaxTokens,
    "redact": Redact,
    "priority": Priority,
}


def parse_obligation(name: str, parameters: dict[str, Any]) -> Obligation:
    """Raises: KeyError for an unknown name, pydantic's ValidationError for wrong parameters."""
    duty = DUTIES[name].model_validate(parameters)
    return Obligation(name, duty.model_dump(by_alias=True))


def strictest(obligations: Iterable[Obligation]) -> tuple[Obligation, ...]:
    """One duty for each thing obliged, in a fixed order: limits first, so that a refused call is never rewritten."""
    limits: dict[tuple[str, int], int] = {}
    tokens: list[int] = []
    levels: list[int] = []
    masked: dict[str, set[str]] = {"in": set(), "out": set()}
    for obligation in obligations:
        parameters = obligation.parameters
        match obligation.name:
            case "rate_limit":
                window = (parameters["key"], parameters["per_s"])
                limits[window] = min(parameters["max"], limits.get(window, parameters["max"]))
            case "max_tokens":
                tokens.append(parameters["max"])
            case "priority":
                levels.append(parameters["level"])
            case "redact":
                for way, sorts in masked.items():
                    sorts.update(parameters[way])
            case unknown:
                raise ValueError(f"no merge for obligation {unknown!r}")
    merged = [Obligation("rate_limit", {"key": k, "per_s": s, "max": m}) for (k, s), m in sorted(limits.items())]
    if levels:
        merged.append(Obligation("priority", {"level": max(levels)}))
    if tokens:
        merged.append(Obligation("max_tokens", {"max": min(tokens)}))
    if any(masked.values()):
        merged.append(Obligation("redact", {way: sorted(sorts) for way, sorts in masked.items()}))
    return tuple(merged)
