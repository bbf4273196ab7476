"""Agents that are held back, as the console shows them, and what a person may say of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

BY_HAND = "operator.block"
"""Stands where a rule's id stands: a person blocks the agent, and no rule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldAgent:
    """``answer`` is throttle, step_up or block. ``until_s``: the earliest end; None: it cannot be told. ``call_id`` is
    the first call that was refused; ``by`` and ``reason`` are a person's, where a person blocks."""

    tenant: str
    agent: str
    answer: str
    rule: str
    source: str
    description: str = ""
    sort: str = ""
    scope: str = ""
    since_s: float
    until_s: float | None = None
    times: int = 0
    call_id: str = ""
    facts: Mapping[str, int | str] = field(default_factory=dict)
    by: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftAlone:
    """A rule that a person has lifted for an agent until then."""

    tenant: str
    agent: str
    rule: str
    since_s: float
    until_s: float
    by: str
    reason: str


class BehaviourControl(Protocol):
    """A word has no effect before it is in the ledger: ``index`` is where."""

    def held(self) -> Sequence[HeldAgent]: ...
    def left_alone(self) -> Sequence[LeftAlone]: ...

    def unknown_rules(self) -> int:
        """Rules that refuse because what agents did before was not read from the ledger yet."""
        ...

    def knows(self, rule: str) -> bool:
        """Whether it is a rule in force, or ``BY_HAND``."""
        ...

    def now_s(self) -> float: ...

    def lift(self, word: AgentWord, index: int) -> None: ...
    def block(self, word: AgentWord, index: int) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentWord:
    """What a person says of one agent: wall seconds, and whose word it is."""

    tenant: str
    agent: str
    rule: str
    until_s: float
    by: str
    reason: str
