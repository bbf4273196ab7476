"""Costs and budgets as the console and its API show them, and where they get them from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pydantic import ConfigDict


@dataclass(frozen=True, slots=True, kw_only=True)
class CostView:
    """One group's sums; the parts it is not grouped by are "". ``saved`` calls cost nothing, ``estimated`` ones were
    billed by an estimate."""

    __pydantic_config__ = ConfigDict(json_schema_serialization_defaults_required=True)  # an answer has every part

    day: str = ""
    tenant: str = ""
    agent: str = ""
    model: str = ""
    calls: int = 0
    micro_usd: int = 0
    saved_micro_usd: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    energy_uwh: int = 0
    estimated: int = 0
    saved: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetView:
    """``spent_micro_usd`` includes what is held back for calls under way."""

    tenant: str
    key: str
    who: str
    per: str
    name: str
    since_s: int
    until_s: int
    spent_micro_usd: int
    max_micro_usd: int


class CostsView(Protocol):
    """Methods but ``budgets`` block and may be called from any thread; they raise ``audit.AuditUnavailable``."""

    def catch_up(self) -> bool:
        """Read on in the ledger, within a bound. False when there is more to read."""
        ...

    def tenants(self) -> Iterable[str]: ...
    def report(self, by: Iterable[str], tenants: Iterable[str], since: str, until: str) -> Sequence[CostView]: ...
    def run(self, tenant: str, run: str) -> CostView | None: ...
    def budgets(self) -> Sequence[BudgetView]: ...
