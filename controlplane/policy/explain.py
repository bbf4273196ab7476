"""Why a call was decided as it was: for every rule, which of its tests held and which did not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from controlplane.calls import Call, Principal
from controlplane.policy.attributes import context_values, subject_attributes
from controlplane.policy.bundle import Bundle
from controlplane.policy.catalogue import Resource
from controlplane.policy.conditions import ConditionError, Facts
from controlplane.policy.resources import is_valid_path
from controlplane.policy.rules import ANYWHERE, Rule


@dataclass(frozen=True, slots=True)
class Finding:
    """One rule against one principal of the chain. ``failed`` are the tests that did not hold; empty for a match."""

    rule: Rule
    principal: str
    failed: tuple[str, ...]

    @property
    def matches(self) -> bool:
        return not self.failed


def findings(bundle: Bundle, principal: Principal, call: Call, now_s: float) -> list[Finding]:
    """Every rule for every principal of the chain; nothing for a resource that is no path."""
    if not is_valid_path(call.resource):
        return []
    resource = bundle.catalogue.resource(call.resource)
    found = []
    for name in (principal.subject, *principal.chain):
        facts = Facts(
            subject_attributes(bundle, principal, name),
            resource.attributes,
            call.action,
            context_values(call, now_s),
            resource.argument_types,
        )
        held = bundle.directory.names_of(principal.tenant, name)
        for rule in bundle.rules.values():
            failed = (*_outside(rule, principal.tenant, held), *_off(rule, call.action, resource), *_unmet(rule, facts))
            found.append(Finding(rule, name, failed))
    return found


def nearest_misses(found: list[Finding]) -> list[Finding]:
    """The rules that would allow and fail the fewest tests."""
    missed = [one for one in found if one.rule.effect == "allow" and not one.matches]
    fewest = min((len(one.failed) for one in missed), default=0)
    return [one for one in missed if len(one.failed) == fewest]


def _outside(rule: Rule, tenant: str, held: frozenset[str]) -> Iterator[str]:
    if rule.domain not in (ANYWHERE, tenant):
        yield f"tenant is {rule.domain}"
    if held.isdisjoint(rule.subjects):
        yield f"principal holds {' or '.join(rule.subjects)}"


def _off(rule: Rule, action: str, resource: Resource) -> Iterator[str]:
    if not {action, "*"} & set(rule.actions):
        yield f"action is {' or '.join(rule.actions)}"
    if not any(pattern.matches(resource.path, resource.segments) for pattern in rule.patterns):
        yield f"resource is {' or '.join(pattern.text for pattern in rule.patterns)}"


def _unmet(rule: Rule, facts: Facts) -> Iterator[str]:
    for text, evaluate in rule.condition.conjuncts:
        try:
            if not evaluate(facts):
                yield text
        except ConditionError as error:
            yield f"{text} ({error})"
