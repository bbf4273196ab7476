"""The rules of one bundle, compiled: what there is to watch for each kind of call is worked out once and remembered."""

from __future__ import annotations

from typing import NamedTuple

from controlplane.behaviour.selecting import Deed, Means, compiled
from controlplane.behaviour.sequences import Automaton, Part
from controlplane.calls import RuleRef
from controlplane.policy.behaviour import AnyRule, ContextRule, LoopRule, StepUp
from controlplane.policy.bundle import Bundle

MAX_PLANS = 4096  # paths come from callers: what is kept for them is bounded, and starts anew when it is full


class Plan(NamedTuple):
    """What one kind of call is to the rules; ``last`` are those parts that a rule may answer."""

    parts: tuple[tuple[Automaton, Part], ...] = ()
    loops: tuple[LoopRule, ...] = ()
    contexts: tuple[ContextRule, ...] = ()
    last: tuple[tuple[Automaton, Part], ...] = ()


NOTHING = Plan()


class Rules:
    def __init__(self, bundle: Bundle) -> None:
        behaviour, catalogue = bundle.behaviour, bundle.catalogue
        self.file, self._sources, self.revision = behaviour.file, behaviour.sources, bundle.revision
        self.rates = behaviour.file.rates
        self.automata = {rule.id: Automaton(rule, catalogue) for rule in self.file.sequences}
        self._loops: list[tuple[LoopRule, Means]] = [(rule, compiled(rule.of, catalogue)) for rule in self.file.loops]
        self._contexts: list[tuple[ContextRule, Means]] = [
            (rule, compiled(rule.of, catalogue)) for rule in self.file.contexts
        ]
        self._plans: dict[tuple[str, str], Plan] = {}

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
        last = tuple(one for one in parts if one[1].is_last)
        return Plan(parts, loops, contexts, last) if parts or loops or contexts else NOTHING

    def rule(self, name: str) -> AnyRule | None:
        return next((rule for rule in self.file.rules if rule.id == name), None)

    def ref(self, rule: AnyRule) -> RuleRef:
        return RuleRef(rule.id, self._sources.get(rule.id, ""))

    def step_up(self, rule: AnyRule) -> StepUp:
        return rule.step_up or self.file.step_up
