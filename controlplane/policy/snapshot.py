"""The compiled snapshot of a bundle: casbin's answers without asking casbin.

Compiles the meaning of ``model.MODEL`` and nothing else. What does not depend on the call is worked out once for each
principal, action and path and kept (``_Plan``): which rules apply, and conditions over the object and over what the
directory says of the principal. What depends on the call (claims, arguments, time) is asked every time. Belongs to one
bundle and goes with it, so nothing kept can outlive the files it was made from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

from controlplane.calls import Principal
from controlplane.policy.attributes import PRESENTED, known_attributes, presented_attributes
from controlplane.policy.bundle import Bundle
from controlplane.policy.catalogue import Catalogue, Resource
from controlplane.policy.conditions import UNKNOWN, Condition, ConditionError, Evaluate, Facts, all_of, attributes_in
from controlplane.policy.engine import GRANTED, Answer
from controlplane.policy.grammar import Every
from controlplane.policy.index import Index
from controlplane.policy.rules import Rule

MAX_PLANS = 8192  # paths come from callers: what is kept for them is bounded, and starts anew when it is full


class _Step(NamedTuple):
    """A rule that applies; ``evaluate`` is None when it holds whatever the call says."""

    rule: str
    effect: str
    evaluate: Evaluate | None


class _Plan(NamedTuple):
    """All that one principal's question about one path needs. ``settled`` is the answer when no call can change it;
    ``reads_credential``: some condition asks what only the credential says of the principal.
    """

    steps: tuple[_Step, ...]
    settled: Answer | None
    reads_credential: bool
    known: Mapping[str, Any]
    resource: Resource


class Snapshot:
    """An ``Engine``. Decides by a bundle whose model is ``MODEL``; whoever makes it has checked that."""

    name = "snapshot"

    def __init__(self, bundle: Bundle, index: Index | None = None) -> None:
        self._bundle = bundle
        self._rules: tuple[Rule, ...] = tuple(bundle.rules.values())
        self._tests = tuple(_Test.of(rule.condition) for rule in self._rules)
        self._resources = {path: bundle.catalogue.resource(path) for path in bundle.catalogue.resources}
        self._index = Index(self._rules) if index is None else index
        self._plans: dict[tuple[str, str, str, str], _Plan] = {}

    def supposing(self, catalogue: Catalogue) -> Self:
        """The same rules over another catalogue."""
        return type(self)(replace(self._bundle, catalogue=catalogue), self._index)

    def answer(
        self, principal: Principal, name: str, action: str, path: str, values: Mapping[str, Any] | None
    ) -> Answer:
        place = (principal.tenant, name, action, path)
        plan = self._plans.get(place) or self._plan(place)
        if plan.settled is not None:
            return plan.settled
        subject = plan.known
        if plan.reads_credential:
            subject = presented_attributes(plan.known, self._bundle.schema.claims, principal, name)
        resource = plan.resource
        return _walk(plan.steps, Facts(subject, resource.attributes, action, values, resource.argument_types))

    def _plan(self, place: tuple[str, str, str, str]) -> _Plan:
        tenant, name, action, path = place
        resource = self._resources.get(path) or self._bundle.catalogue.resource(path)
        known = known_attributes(self._bundle, tenant, name)
        facts = Facts(known, resource.attributes, action, None, resource.argument_types)
        settled = frozenset(known) - PRESENTED
        held = self._bundle.directory.names_of(tenant, name)
        steps: list[_Step] = []
        reads_credential = False
        for number in self._index.candidates(tenant, held, action, path, resource.segments):
            rule, rest = self._rules[number], self._tests[number].rest(facts, settled)
            if rest:
                reads_credential |= any(one.reads_credential(settled) for one in rest)
                steps.append(_Step(rule.ref.id, rule.effect, all_of([one.evaluate for one in rest])))
            elif rest is not None:
                steps.append(_Step(rule.ref.id, rule.effect, None))
        is_settled = all(step.evaluate is None for step in steps)
        plan = _Plan(
            steps=tuple(steps),
            settled=_walk(tuple(steps), facts) if is_settled else None,
            reads_credential=reads_credential,
            known=known,
            resource=resource,
        )
        if len(self._plans) >= MAX_PLANS:
            self._plans.clear()
        self._plans[place] = plan
        return plan


@dataclass(frozen=True, slots=True)
class _Conjunct:
    """One of the parts of a condition that must all hold; ``reads`` are its attributes, by root and first name."""

    evaluate: Evaluate
    reads: frozenset[tuple[str, ...]]

    def is_settled(self, settled: frozenset[str]) -> bool:
        """Whether every call of one principal on one object is told the same by it. ``settled`` are the attributes of
        the principal that no credential adds to or changes."""
        return all(root in ("obj", "act") or (root == "sub" and name[0] in settled) for root, *name in self.reads)

    def reads_credential(self, settled: frozenset[str]) -> bool:
        return any(root == "sub" and name[0] not in settled for root, *name in self.reads)


@dataclass(frozen=True, slots=True)
class _Test:
    """A condition, to be cut where it begins to depend on the credential or on the rest of the call."""

    conjuncts: tuple[_Conjunct, ...]

    @classmethod
    def of(cls, condition: Condition) -> _Test:
        node = condition.node
        operands = node.operands if isinstance(node, Every) else (node,)
        reads = (frozenset(attribute.path[:2] for attribute in attributes_in(operand)) for operand in operands)
        evaluates = (evaluate for _, evaluate in condition.conjuncts)
        return cls(tuple(map(_Conjunct, evaluates, reads)))

    def rest(self, facts: Facts, settled: frozenset[str]) -> tuple[_Conjunct, ...] | None:
        """What is left to ask in every call: () where it holds whatever the call says, None where it does not.

        Conjuncts are asked from left to right, so that those before the first unsettled one decide alone. One that
        fails is asked with all after it: it fails in its turn, in every decision.
        """
        for number, conjunct in enumerate(self.conjuncts):
            if not conjunct.is_settled(settled):
                return self.conjuncts[number:]
            try:
                if conjunct.evaluate(facts) is False:
                    return None
            except ConditionError:
                return self.conjuncts[number:]
        return ()


def _walk(steps: tuple[_Step, ...], facts: Facts) -> Answer:
    """Deny overrides allow, decided after every rule was asked, in order; the first that cannot be answered denies."""
    matched: list[str] = []
    is_allowed = is_denied = False
    for rule, effect, evaluate in steps:
        if evaluate is not None:
            try:
                holds = evaluate(facts)
            except ConditionError:
                return "condition_error", (rule, *matched)
            if holds is UNKNOWN:  # asked whether a call could be allowed: doubt speaks for the call
                holds = effect != "deny"
            if not holds:
                continue
        matched.append(rule)
        if effect == "allow":
            is_allowed = True
        elif effect == "deny":
            is_denied = True
    if is_denied:
        return "rule_denied", tuple(matched)
    return GRANTED if is_allowed else "no_matching_rule", tuple(matched)
