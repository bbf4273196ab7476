"""People and the watch: what they see of it, and what they say. Their words are in the ledger before they come here.

MUST be used from the event loop of the watch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from controlplane.behaviour.agents import AgentKey, Held
from controlplane.behaviour.said import Word
from controlplane.behaviour.standing import Look, Standing
from controlplane.behaviour.watch import Watch
from controlplane.policy.behaviour import LONGEST_S, AnyRule, LoopRule


@dataclass(frozen=True, slots=True)
class Told:
    """A refusal as the ledger tells it."""

    at_s: float
    agent: AgentKey
    rule: str
    scope: str
    call_id: str
    facts: Mapping[str, int | str]


@dataclass(frozen=True, slots=True)
class Oversight:
    watch: Watch

    def heed(self, word: Word, now_s: float) -> None:
        """A person's word. A lifted rule has forgotten what the agent did when this returns."""
        said = self.watch.said
        said.forget_old(now_s)
        said.take(word)
        agent = self.watch.agent(word.agent)
        if word.what == "block" or agent is None:
            return
        agent.forgive(word.rule)
        if isinstance(self.rule(word.rule), LoopRule):
            agent.forget_calls()
        reference = self.watch.reference(word.rule, word.agent)
        if reference is not None:
            reference.trust()

    def words(self, now_s: float) -> list[Word]:
        """Blocks by hand, and rules that leave somebody alone."""
        return list(self.watch.said.in_force(now_s))

    def rule(self, name: str) -> AnyRule | None:
        return None if self.watch.rules is None else self.watch.rules.rule(name)

    def unknown_rules(self, now_s: float) -> int:
        """Rules that refuse because their past was not read yet."""
        return self.watch.remembered(now_s)[1]

    def standing(self, now_s: float) -> list[Standing]:
        """What agents are refused as things are, by rules that have refused them something before."""
        found = []
        for key, agent in self.watch.agents():
            for rule, scope in list(agent.held):
                one = self._look(key, rule, scope, now_s)
                if one is None:
                    del agent.held[rule, scope]
                elif not self.watch.said.leaves_alone(key, rule, now_s):
                    found.append(one)
        return found

    def _look(self, key: AgentKey, name: str, scope: str, now_s: float) -> Standing | None:
        watch, rule, agent = self.watch, self.rule(name), self.watch.agent(key)
        if watch.rules is None or rule is None or agent is None:
            return None
        reference, is_unknown = watch.reference(name, key), watch.is_unknown(name, now_s)
        return Look(watch.rules, rule, key, agent, now_s, reference, is_unknown).standing(scope)

    def recall(self, told: Iterable[Told]) -> None:
        """Refusals of before this process, oldest first."""
        for one in told:
            agent = self.watch.agent(one.agent)
            if agent is not None and one.at_s > self.watch.said.lifted_s(one.agent, one.rule):
                agent.hold(one.rule, one.scope, Held(one.at_s, one.at_s, one.call_id, one.facts), LONGEST_S)
