"""Rules as they are served, and who holds which role."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from controlplane.calls import Obligation, RuleRef
from controlplane.policy.conditions import Condition
from controlplane.policy.resources import Pattern

ACTIONS = ("infer", "call", "list", "read", "connect", "write")
ANYWHERE = "*"  # the domain of roles and guards
ANYONE = "anyone"  # the role that everybody holds, known or not


def role_name(role: str) -> str:
    return f"role:{role}"


@dataclass(frozen=True, slots=True)
class Line:
    """A policy tuple as casbin sees it. One rule gives a line for each subject, resource pattern and action."""

    rule: str
    subject: str
    domain: str
    pattern: str
    action: str
    condition: str
    effect: str

    def __iter__(self) -> Iterator[str]:
        yield from (self.rule, self.subject, self.domain, self.pattern, self.action, self.condition, self.effect)


@dataclass(frozen=True, slots=True)
class Rule:
    """``effect`` is allow, deny or oblige (a guard that adds duties to whatever others allow)."""

    ref: RuleRef
    subjects: tuple[str, ...]
    domain: str
    patterns: tuple[Pattern, ...]
    actions: tuple[str, ...]
    condition: Condition
    effect: str
    obligations: tuple[Obligation, ...] = ()

    def lines(self) -> Iterator[Line]:
        for subject in self.subjects:
            for pattern in self.patterns:
                for action in self.actions:
                    yield Line(
                        self.ref.id, subject, self.domain, pattern.text, action, self.condition.text, self.effect
                    )


@dataclass(frozen=True, slots=True)
class Directory:
    """Who is known in which tenant: ``holds`` is the closure over roles, the principal's own id and ``anyone``."""

    holds: Mapping[tuple[str, str], frozenset[str]] = field(default_factory=dict)
    attributes: Mapping[tuple[str, str], Mapping[str, Any]] = field(default_factory=dict)
    tenants: frozenset[str] = frozenset()

    def names_of(self, tenant: str, principal: str) -> frozenset[str]:
        return self.holds.get((tenant, principal), _STRANGER)

    def roles_of(self, tenant: str, principal: str) -> tuple[str, ...]:
        held = self.holds.get((tenant, principal), _STRANGER)
        return tuple(sorted(name[5:] for name in held if name.startswith("role:")))


_STRANGER = frozenset({ANYONE})
