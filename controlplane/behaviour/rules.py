"""The rules of one bundle, compiled: what there is to watch for each kind of call is worked out once and remembered."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from controlplane.behaviour.selecting import Deed, Means, compiled
from controlplane.behaviour.sequences import Automaton, Part
from controlplane.behaviour.verdicts import Finding
from controlplane.calls import RuleRef
from controlplane.policy.behaviour import AnyRule, ContextRule, LoopRule, RateRule, SequenceRule, StepUp
from controlplane.policy.bundle import Bundle

MAX_PLANS = 4096  # paths come from callers: what is kept for them is bounded, and starts anew when it is full


class Plan(NamedTuple):
    """What one kind of call is to the rules; ``last`` are those parts that a rule may answer. ``untraced`` is what is
    left of it for calls without a trace id."""

    parts: tuple[tuple[Automaton, Part], ...] = ()
    loops: tuple[LoopRule, ...] = ()
    contexts: tuple[ContextRule, ...] = ()
    last: tuple[tuple[Automaton, Part], ...] = ()
    untraced: Plan | None = None

    def of(self, traceparent: str) -> Plan:
        """What of it a call with this trace context, "" for none, is held against."""
        return self if traceparent or self.untraced is None else self.untraced


NOTHING = Plan()


class Rules:
    def __init__(self, bundle: Bundle) -> None:
        behaviour, catalogue = bundle.behaviour, bundle.catalogue
        self.file, self.revision = behaviour.file, bundle.revision
        self.rates = behaviour.file.rates
        self.automata = {rule.id: Automaton(rule, catalogue) for rule in self.file.sequences}
        self._loops: list[tuple[LoopRule, Means]] = [(rule, compiled(rule.of, catalogue)) for rule in self.file.loops]
        self._contexts: list[tuple[ContextRule, Means]] = [
            (rule, compiled(rule.of, catalogue)) for rule in self.file.contexts
        ]
        self._plans: dict[tuple[str, str], Plan] = {}
        self._refs = {rule.id: RuleRef(rule.id, behaviour.sources.get(rule.id, "")) for rule in self.file.rules}
        self.holding = {rule.id: self._holds(rule) for rule in self.rates if not can_refuse(rule)}
        """What there is to say while a rate that refuses nothing goes on being too high. A busy agent brings it with
        every call, and neither a record nor a refusal asks for more."""

    @property
    def is_empty(self) -> bool:
        return not self.file.rules

    def plan_of(self, action: str, path: str) -> Plan:
        found = self._plans.get((action, path))
        if found is None:
            if len(self._plans) >= MAX_PLANS:
                self._plans.clear()
            found = self._plans[action, path] = self._plan(Deed(action, path))
        return found

    def _plan(self, deed: Deed) -> Plan:
        asked = ((automaton, automaton.part_of(deed)) for automaton in self.automata.values())
        parts = tuple((automaton, part) for automaton, part in asked if part is not None)
        loops = tuple(rule for rule, means in self._loops if means(deed))
        contexts = tuple(rule for rule, means in self._contexts if means(deed))
        if not (parts or loops or contexts):
            return NOTHING
        untraced = _plan(
            (one for one in parts if not _skips_untraced(one[0].rule)),
            (rule for rule in loops if not _skips_untraced(rule)),
            contexts,
        )
        return _plan(parts, loops, contexts)._replace(untraced=untraced)

    def rule(self, name: str) -> AnyRule | None:
        return next((rule for rule in self.file.rules if rule.id == name), None)

    def ref(self, rule: AnyRule) -> RuleRef:
        return self._refs[rule.id]

    def step_up(self, rule: AnyRule) -> StepUp:
        return rule.step_up or self.file.step_up

    def _holds(self, rule: RateRule) -> Finding:
        return Finding(
            rule=self.ref(rule), sort="rate", answer=rule.answer, mode=rule.mode, change="holds", is_news=False
        )


def can_refuse(rule: AnyRule) -> bool:
    return rule.mode == "enforce" and rule.answer != "alert"


def _plan(parts: Iterable[tuple[Automaton, Part]], loops: Iterable[LoopRule], contexts: Iterable[ContextRule]) -> Plan:
    every = tuple(parts)
    return Plan(every, tuple(loops), tuple(contexts), tuple(one for one in every if one[1].is_last))


def _skips_untraced(rule: SequenceRule | LoopRule) -> bool:
    return rule.within == "run" and rule.untraced == "skip"
