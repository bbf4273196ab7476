"""Who is held back just now, worked out from what is remembered of them. Pure.

Nothing is kept of it but which rule has refused whom, and since when: whether that still stands is asked of the rule's
own memory, as the next call would ask it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

from controlplane.behaviour.agents import OWN, Agent, AgentKey, Scope, ScopeKey
from controlplane.behaviour.likeness import Reference
from controlplane.behaviour.rules import Rules, can_refuse
from controlplane.calls import RuleRef
from controlplane.policy.behaviour import Answer, AnyRule, ContextRule, LoopRule, RateRule, SequenceRule

SORTS: Mapping[type, str] = {RateRule: "rate", SequenceRule: "sequence", LoopRule: "loop", ContextRule: "context"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """``until_s``: the earliest end if the agent does nothing more; None: it cannot be told. ``call_id``: the first
    call that was refused."""

    agent: AgentKey
    rule: RuleRef
    description: str
    sort: str
    answer: Answer
    scope: str
    since_s: float
    until_s: float | None
    times: int
    call_id: str
    facts: Mapping[str, int | str]


@dataclass(frozen=True, slots=True)
class Look:
    """One rule's look at one agent."""

    rules: Rules
    rule: AnyRule
    key: AgentKey
    agent: Agent
    now_s: float
    reference: Reference | None = None
    is_unknown: bool = False

    def standing(self, scope: str) -> Standing | None:
        """None: the next call would not be refused for it any more."""
        rule, held = self.rule, self.agent.held[self.rule.id, scope]
        if not can_refuse(rule):
            return None
        until_s = None if self.is_unknown else self._until_s(scope)
        if until_s is not None and until_s <= self.now_s:
            return None
        return Standing(
            agent=self.key,
            rule=self.rules.ref(rule),
            description=rule.description,
            sort=SORTS[type(rule)],
            answer=rule.answer,
            scope=scope,
            since_s=held.since_s,
            until_s=until_s,
            times=held.times,
            call_id=held.call_id,
            facts=held.facts,
        )

    def _until_s(self, scope: str) -> float:
        """Not later than now where it is over."""
        rule = self.rule
        if isinstance(rule, RateRule):
            rate = self.agent.rates.get(rule.id)
            return -inf if rate is None else rate.free_s(rule, self.now_s) or -inf
        if isinstance(rule, ContextRule):
            return -inf if self.reference is None else self.reference.suspect_until_s
        kind, _, name = scope.partition(":")
        place: ScopeKey = OWN if kind == OWN[0] else (kind, name)
        if isinstance(rule, LoopRule):
            found = self.agent.scope(place, self.now_s, self._idle_s)
            return found.seen_s + self._idle_s if found is not None and _turns(rule, found) else -inf
        return self._sequence_until_s(rule, place)

    def _sequence_until_s(self, rule: SequenceRule, place: ScopeKey) -> float:
        progress = self.agent.progress_known(rule.id, place, self.now_s, self._idle_s)
        began_s = -inf if progress is None else self.rules.automata[rule.id].began_s(progress)
        until_s = began_s + rule.span_s
        if place is OWN or until_s <= self.now_s:
            return until_s
        scope = self.agent.scope(place, self.now_s, self._idle_s)
        return min(until_s, (self.agent.seen_s if scope is None else scope.seen_s) + self._idle_s)

    @property
    def _idle_s(self) -> int:
        return self.rules.file.idle_s


def _turns(rule: LoopRule, scope: Scope) -> bool:
    recent = scope.recent
    is_same = rule.same_call is not None and max(recent.counts.values(), default=0) >= rule.same_call
    return is_same or (rule.cycle is not None and bool(recent.cycle(rule.cycle)))
