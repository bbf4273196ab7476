"""The compiled snapshot of a bundle: casbin's answers without asking casbin.

Compiles the meaning of ``model.MODEL`` and nothing else. What does not depend on the call is worked out once for each
principal, action and path and kept (``_Plan``): which rules apply, and conditions over the object alone. What depends
on the call (claims, arguments, time) is asked every time. Belongs to one bundle and goes with it, so nothing kept can
outlive the files it was made from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple, Self

from controlplane.calls import Principal
from controlplane.policy.attributes import known_attributes, presented_attributes
from controlplane.policy.bundle import Bundle
from controlplane.policy.catalogue import Catalogue, Resource
from controlplane.policy.conditions import UNKNOWN, Condition, ConditionError, Evaluate, Facts, attributes_in
from controlplane.policy.engine import GRANTED, Answer
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
        self._roots = tuple(_roots_of(rule.condition) for rule in self._rules)
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
        resource = self._bundle.catalogue.resource(path)
        facts = Facts({}, resource.attributes, action, None, resource.argument_types)
        held = self._bundle.directory.names_of(tenant, name)
        steps: list[_Step] = []
        reads: set[str] = set()
        for number in self._index.candidates(tenant, held, action, path, resource.segments):
            rule, roots = self._rules[number], self._roots[number]
            constant = _constant(rule.condition, roots, facts)
            if constant is False:
                continue
            if constant is None:
                reads |= roots
            steps.append(_Step(rule.ref.id, rule.effect, None if constant else rule.condition.evaluate))
        is_settled = all(step.evaluate is None for step in steps)
        plan = _Plan(
            steps=tuple(steps),
            settled=_walk(tuple(steps), facts) if is_settled else None,
            reads_subject="sub" in reads,
            known=known_attributes(self._bundle, tenant, name),
            resource=resource,
        )
        if len(self._plans) >= MAX_PLANS:
            self._plans.clear()
        self._plans[place] = plan
        return plan


def _roots_of(condition: Condition) -> frozenset[str]:
    """Of sub, obj, act and ctx: those that the condition reads."""
    return frozenset(attribute.path[0] for attribute in attributes_in(condition.node))


def _constant(condition: Condition, roots: frozenset[str], facts: Facts) -> bool | None:
    """The condition's truth where only the object and the action decide; None when the call must be asked, or when it
    fails: a failing condition fails in its turn, in every decision."""
    if not roots <= {"obj", "act"}:
        return None
    try:
        holds = condition.evaluate(facts)
    except ConditionError:
        return None
    return holds if isinstance(holds, bool) else None


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
