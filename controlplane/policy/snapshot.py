"""The compiled snapshot of a bundle: casbin's answers without asking casbin.

Compiles the meaning of ``model.MODEL`` and nothing else. What does not depend on the call is worked out once for each
principal, action and path and kept (``_Plan``): which rules apply, and conditions over the object alone. What depends
on the call (claims, arguments, time) is asked every time. Belongs to one bundle and goes with it, so nothing kept can
outlive the files it was made from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, NamedTuple, Self

from controlplane.calls import Principal
from controlplane.policy.attributes import known_attributes, presented_attributes
from controlplane.policy.bundle import Bundle
from controlplane.policy.catalogue import Catalogue, Resource
from controlplane.policy.conditions import UNKNOWN, Condition, ConditionError, Evaluate, Facts, attributes_in
from controlplane.policy.engine import GRANTED, Answer
from controlplane.policy.grammar import Every, Node
from controlplane.policy.index import Index
from controlplane.policy.rules import Rule

MAX_PLANS = 8192  # paths come from callers: what is kept for them is bounded, and starts anew when it is full


class _Step(NamedTuple):
    """A rule that applies; ``evaluate`` is None when it holds whatever the call says."""

    rule: str
    effect: str
    evaluate: Evaluate | None


class _Plan(NamedTuple):
    """All that one principal's question about one path needs. ``settled`` is the answer when no call can change it."""

    steps: tuple[_Step, ...]
    settled: Answer | None
    reads_subject: bool
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
        if plan.reads_subject:
            subject = presented_attributes(plan.known, self._bundle.schema.claims, principal, name)
        resource = plan.resource
        return _walk(plan.steps, Facts(subject, resource.attributes, action, values, resource.argument_types))

    def _plan(self, place: tuple[str, str, str, str]) -> _Plan:
        tenant, name, action, path = place
        resource = self._resources.get(path) or self._bundle.catalogue.resource(path)
        facts = Facts({}, resource.attributes, action, None, resource.argument_types)
        held = self._bundle.directory.names_of(tenant, name)
        steps: list[_Step] = []
        reads_subject = False
        for number in self._index.candidates(tenant, held, action, path, resource.segments):
            rule, test = self._rules[number], self._tests[number]
            constant = test.constant(facts)
            if constant is None:
                reads_subject |= test.reads_subject
                steps.append(_Step(rule.ref.id, rule.effect, test.evaluate))
            elif constant:
                steps.append(_Step(rule.ref.id, rule.effect, None))
        is_settled = all(step.evaluate is None for step in steps)
        plan = _Plan(
            steps=tuple(steps),
            settled=_walk(tuple(steps), facts) if is_settled else None,
            reads_subject=reads_subject,
            known=known_attributes(self._bundle, tenant, name),
            resource=resource,
        )
        if len(self._plans) >= MAX_PLANS:
            self._plans.clear()
        self._plans[place] = plan
        return plan


@dataclass(frozen=True, slots=True)
class _Test:
    """A condition cut where it begins to depend on who calls and with what.

    ``first`` are the conjuncts that read the object and the action alone. They are asked first in every call, so where
    one of them is false the rest is never reached. ``reads_subject`` and ``is_whole`` tell of the rest.
    """

    evaluate: Evaluate
    first: tuple[Evaluate, ...]
    is_whole: bool  # nothing is left after them
    reads_subject: bool

    @classmethod
    def of(cls, condition: Condition) -> _Test:
        node = condition.node
        roots = [_roots_of(operand) for operand in (node.operands if isinstance(node, Every) else (node,))]
        first = list(takewhile(lambda read: read <= {"obj", "act"}, roots))
        evaluates = tuple(evaluate for _, evaluate in condition.conjuncts[: len(first)])
        return cls(condition.evaluate, evaluates, len(first) == len(roots), any("sub" in read for read in roots))

    def constant(self, facts: Facts) -> bool | None:
        """Its truth where the object and the action decide; None where the call must be asked, and where it fails: a
        failing condition fails in its turn, in every decision."""
        try:
            for evaluate in self.first:
                if evaluate(facts) is False:
                    return False
        except ConditionError:
            return None
        return True if self.is_whole else None


def _roots_of(node: Node) -> frozenset[str]:
    """Of sub, obj, act and ctx: those that a condition reads."""
    return frozenset(attribute.path[0] for attribute in attributes_in(node))


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
