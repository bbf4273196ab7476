"""What rules may oblige the enforcement point to do, and how several duties become one.

The strictest wins, whatever the order: adding a rule that allows can never shed a duty.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from controlplane.calls import Obligation
from controlplane.policy.sources import NAME_PATTERN

MICRO = 1_000_000
LARGEST = 2**53 - 1  # the largest integer that the ledger takes, and every duty goes there


class _Duty(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True)

    @property
    def parameters(self) -> dict[str, Any]:
        """As the enforcement point reads them and the ledger keeps them: no floats."""
        return self.model_dump(by_alias=True)


class MaxTokens(_Duty):
    max: int = Field(gt=0, le=LARGEST, description="Tokens that the model may answer with.")


class RateLimit(_Duty):
    key: Literal["subject", "tenant", "resource"]
    per_s: int = Field(gt=0, le=LARGEST, description="Length of the window in seconds.")
    max: int = Field(ge=0, le=LARGEST, description="Calls in a window.")


class Priority(_Duty):
    level: int = Field(ge=0, le=9, description="0 is the most urgent, 9 the least; without this duty it is 5.")


class Cache(_Duty):
    """Leave to save the answer and give it again. The shortest time of several holds, and 0 forbids it."""

    ttl_s: int = Field(ge=0, le=30 * 24 * 3600, description="Seconds for which an answer may be given again; 0: never.")
    any: bool = Field(default=False, description="Save text that was drawn by chance too, not only at temperature 0.")


class Budget(_Duty):
    """Money for a calendar hour, day or month (UTC). Several may hold at once; all must have room."""

    key: Literal["subject", "team", "tenant"] = Field(description="Whose spending is counted together.")
    per: Literal["hour", "day", "month"]
    max_usd: float = Field(ge=0, le=1e9, description="US dollars; 0 forbids every call that costs anything.")
    name: str = Field(default="", pattern=r"^[a-z0-9_-]{0,40}$", description="Spending under this name counts apart.")

    @property
    def parameters(self) -> dict[str, Any]:
        limit = {"key": self.key, "per": self.per, "name": self.name, "max_micro_usd": round(self.max_usd * MICRO)}
        return {"limits": [limit]}


class RequireApproval(_Duty):
    """People must have agreed to exactly this call. Every role that any rule names must have agreed."""

    by: str = Field(pattern=NAME_PATTERN, description="The role, in the agent's tenant, of those who may agree.")
    people: int = Field(default=1, ge=1, le=5, description="How many people must agree.")
    ttl_s: int = Field(
        default=900, ge=60, le=7 * 24 * 3600, description="Seconds that the question stands, and then its answer."
    )

    @property
    def parameters(self) -> dict[str, Any]:
        return {"approvers": [{"by": self.by, "people": self.people}], "ttl_s": self.ttl_s}


Sort = Literal["card", "iban", "email", "phone"]


class Redact(_Duty):
    into: list[Sort] = Field(default_factory=list, alias="in", description="What is masked on the way to the backend.")
    out: list[Sort] = Field(default_factory=list, description="What is masked on the way back.")


DUTIES: dict[str, type[_Duty]] = {
    "rate_limit": RateLimit,
    "max_tokens": MaxTokens,
    "redact": Redact,
    "priority": Priority,
    "cache": Cache,
    "require_approval": RequireApproval,
    "budget": Budget,
}


def parse_obligation(name: str, parameters: dict[str, Any]) -> Obligation:
    """Raises: KeyError for an unknown name, pydantic's ValidationError for wrong parameters."""
    return Obligation(name, DUTIES[name].model_validate(parameters).parameters)


def strictest(obligations: Iterable[Obligation]) -> tuple[Obligation, ...]:
    """One duty for each thing obliged, in a fixed order: limits first, so that a refused call is never rewritten."""
    said: dict[str, list[Mapping[str, Any]]] = {}
    for obligation in obligations:
        if obligation.name not in MERGES:
            raise ValueError(f"no merge for obligation {obligation.name!r}")
        said.setdefault(obligation.name, []).append(obligation.parameters)
    return tuple(
        Obligation(name, merged) for name, merge in MERGES.items() if name in said for merged in merge(said[name])
    )


Said = list[Mapping[str, Any]]
"""The parameters of every duty of one name, at least one."""


def _rates(said: Said) -> list[dict[str, Any]]:
    most: dict[tuple[str, int], int] = {}
    for one in said:
        window = (one["key"], one["per_s"])
        most[window] = min(one["max"], most.get(window, one["max"]))
    return [{"key": key, "per_s": per_s, "max": limit} for (key, per_s), limit in sorted(most.items())]


def _budgets(said: Said) -> list[dict[str, Any]]:
    """All of them in one duty, because money is held back on all of them or on none."""
    least: dict[tuple[str, str, str], int] = {}
    for limit in (limit for one in said for limit in one["limits"]):
        account = (limit["key"], limit["per"], limit["name"])
        least[account] = min(limit["max_micro_usd"], least.get(account, limit["max_micro_usd"]))
    limits = [{"key": k, "per": p, "name": n, "max_micro_usd": m} for (k, p, n), m in sorted(least.items())]
    return [{"limits": limits}]


def _approvals(said: Said) -> list[dict[str, Any]]:
    most: dict[str, int] = {}
    for approver in (approver for one in said for approver in one["approvers"]):
        most[approver["by"]] = max(approver["people"], most.get(approver["by"], 1))
    approvers = [{"by": role, "people": people} for role, people in sorted(most.items())]
    return [{"approvers": approvers, "ttl_s": min(one["ttl_s"] for one in said)}]


def _masks(said: Said) -> list[dict[str, Any]]:
    masked = {way: sorted({sort for one in said for sort in one[way]}) for way in ("in", "out")}
    return [masked] if any(masked.values()) else []


MERGES: dict[str, Callable[[Said], list[dict[str, Any]]]] = {
    "rate_limit": _rates,
    "priority": lambda said: [{"level": max(one["level"] for one in said)}],
    "max_tokens": lambda said: [{"max": min(one["max"] for one in said)}],
    "redact": _masks,
    "cache": lambda said: [{"ttl_s": min(one["ttl_s"] for one in said), "any": all(one["any"] for one in said)}],
    "require_approval": _approvals,
    "budget": _budgets,
}
