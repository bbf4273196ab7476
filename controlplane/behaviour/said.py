"""What people have said of agents: this one makes no calls until then; that rule leaves this one alone. Pure.

A lift makes a rule forget what its agent did until then, and may leave it alone for a while after. Every word is in
the ledger before it is here, and is read from there after a start; so all of them end by themselves.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf
from typing import Literal

from controlplane.behaviour.agents import AgentKey
from controlplane.policy.behaviour import LONGEST_S

BY_HAND = "operator.block"
"""Stands where a rule's id stands: a person blocks the agent."""
LONGEST_WORD_S = 30 * 24 * 3600
"""No word of a person holds for longer; who is to be kept out for good is taken out of policy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """``rule`` is lifted for an agent until then, or, ``BY_HAND``, the agent is blocked. ``index``: in the ledger."""

    what: Literal["lift", "block"]
    agent: AgentKey
    rule: str
    at_s: float
    until_s: float
    by: str
    reason: str
    index: int

    @property
    def source(self) -> str:
        return f"ledger:{self.index}"


@dataclass(slots=True)
class Said:
    blocks: dict[AgentKey, Word] = field(default_factory=dict)
    lifts: dict[tuple[AgentKey, str], Word] = field(default_factory=dict)

    def take(self, word: Word) -> None:
        """The newest word about the same thing is the one that counts."""
        if word.what == "block":
            self.blocks[word.agent] = word
        elif word.rule == BY_HAND:
            self.blocks.pop(word.agent, None)
        else:
            self.lifts[word.agent, word.rule] = word

    def block(self, agent: AgentKey, now_s: float) -> Word | None:
        found = self.blocks.get(agent)
        return found if found is not None and now_s < found.until_s else None

    def leaves_alone(self, agent: AgentKey, rule: str, now_s: float) -> bool:
        found = self.lifts.get((agent, rule))
        return found is not None and now_s < found.until_s

    def lifted_s(self, agent: AgentKey, rule: str) -> float:
        """Until when what the agent did does not count for the rule; minus infinity: all of it does."""
        found = self.lifts.get((agent, rule))
        return -inf if found is None else found.at_s

    def in_force(self, now_s: float) -> Iterable[Word]:
        """Blocks, and rules that leave somebody alone."""
        return [one for one in (*self.blocks.values(), *self.lifts.values()) if now_s < one.until_s]

    def forget_old(self, now_s: float) -> None:
        """Words that are over, once nothing is old enough to be forgotten for them."""
        self.blocks = {key: one for key, one in self.blocks.items() if now_s < one.until_s}
        self.lifts = {
            key: one for key, one in self.lifts.items() if now_s < one.until_s or now_s - one.at_s < LONGEST_S
        }
