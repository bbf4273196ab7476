"""What is wrong with a bundle, all at once, and what is merely suspicious."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from controlplane.policy import behaviour
from controlplane.policy.bundle import Bundle, build, read_files
from controlplane.policy.cases import read_cases
from controlplane.policy.documents import BundleError, Problem
from controlplane.policy.grammar import Literal
from controlplane.policy.index import Patterns
from controlplane.policy.model import read_model
from controlplane.policy.rules import ANYONE, ANYWHERE, Rule, role_name


@dataclass(frozen=True, slots=True)
class Lint:
    """``errors`` keep a bundle from being served; ``warnings`` do not."""

    errors: list[Problem]
    warnings: list[Problem]


def lint(folder: Path) -> Lint:
    errors: list[Problem] = []
    bundle: Bundle | None = None
    deviation = ""
    try:
        files = read_files(folder)
    except BundleError as error:
        return Lint(error.problems, [])
    try:
        bundle = build(files)
        deviation = read_model(bundle.model).deviation
    except BundleError as error:
        errors += error.problems
    try:
        read_cases(files)
    except BundleError as error:
        errors += error.problems
    warnings = [] if bundle is None else list(_warnings(bundle))
    if deviation:
        warnings.append(
            Problem("model.conf", f"casbin decides, rule by rule: the snapshot does not compile {deviation}")
        )
    return Lint(errors, warnings)


def _warnings(bundle: Bundle) -> Iterator[Problem]:
    rules = list(bundle.rules.values())
    held = {name for names in bundle.directory.holds.values() for name in names} | {ANYONE}
    for rule in rules:
        if held.isdisjoint(rule.subjects):
            yield Problem(
                rule.ref.source, f"{rule.ref.id} reaches nobody: no principal is {' or '.join(rule.subjects)}"
            )
        if rule.condition.node == Literal(value=False):
            yield Problem(rule.ref.source, f"{rule.ref.id} never holds")
        yield from _uncatalogued(bundle, rule)
        yield from _unapprovable(bundle, rule)
    yield from behaviour.warnings(bundle.behaviour, bundle.catalogue)
    for over, under in _covered(rules):
        if over.effect == "deny" and under.effect == "allow":
            yield Problem(under.ref.source, f"{under.ref.id} is unreachable: {over.ref.id} always denies it")
        elif over.effect == under.effect and not under.obligations:
            yield Problem(under.ref.source, f"{under.ref.id} adds nothing to {over.ref.id}")


def _uncatalogued(bundle: Bundle, rule: Rule) -> Iterator[Problem]:
    for pattern in rule.patterns:
        is_thing = len(pattern.segments) > 1 and pattern.segments[0] in ("model", "tool", "mcp")
        if pattern.is_literal and is_thing and bundle.catalogue.entry(pattern.text) is None:
            yield Problem(rule.ref.source, f"{rule.ref.id} names {pattern.text}, which the catalogue does not have")


def _unapprovable(bundle: Bundle, rule: Rule) -> Iterator[Problem]:
    """A rule that needs the agreement of more people than its tenants have."""
    names = bundle.directory.holds
    reached = {tenant for (tenant, _), held in names.items() if not held.isdisjoint(rule.subjects)}
    needed = [each for duty in rule.obligations for each in duty.parameters.get("approvers", ())]
    for approver in needed:
        for tenant in sorted(reached if rule.domain == ANYWHERE else {rule.domain}):
            there = sum(role_name(approver["by"]) in held for (where, _), held in names.items() if where == tenant)
            if there < approver["people"]:
                missing = f"{approver['people']} with role {approver['by']} must approve, and {tenant} has {there}"
                yield Problem(rule.ref.source, f"{rule.ref.id}: {missing}")


def _covered(rules: list[Rule]) -> Iterator[tuple[Rule, Rule]]:
    """Pairs of which the first always covers the second. Ten thousand rules make a hundred million pairs."""
    patterns = Patterns()
    for number, rule in enumerate(rules):
        for pattern in rule.patterns:
            patterns.add(pattern, number)
    for number, under in enumerate(rules):
        for other in sorted({*patterns.covering(under.patterns[0])} - {number}):
            if _always_covers(rules[other], under):
                yield rules[other], under


def _always_covers(over: Rule, under: Rule) -> bool:
    """Whether ``over`` holds for certain whenever ``under`` does. Sound, not complete: conditions are not solved."""
    return (
        (over.condition.node == Literal(value=True) or over.condition.text == under.condition.text)
        and over.domain in (ANYWHERE, under.domain)
        and (ANYONE in over.subjects or set(under.subjects) <= set(over.subjects))
        and (over.actions == ("*",) or set(under.actions) <= set(over.actions))
        and all(any(wide.covers(narrow) for wide in over.patterns) for narrow in under.patterns)
    )
