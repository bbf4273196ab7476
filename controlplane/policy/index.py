"""Which rules could speak about a question, found without looking at the others.

By tenant, action and subject first, by path then: literal patterns in a dictionary, wildcards in a tree of segments.
Conditions are not known here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from controlplane.policy.resources import Pattern
from controlplane.policy.rules import ACTIONS, ANYWHERE, Rule


@dataclass(slots=True)
class _Node:
    """One segment of wildcard patterns: those that end here, and those that want one segment more or many."""

    ends: list[int] = field(default_factory=list)
    tails: list[int] = field(default_factory=list)
    children: dict[str, _Node] = field(default_factory=dict)


@dataclass(slots=True)
class Patterns:
    """The numbers of rules by the patterns they stand on."""

    literal: dict[str, list[int]] = field(default_factory=dict)
    root: _Node = field(default_factory=_Node)

    def add(self, pattern: Pattern, number: int) -> None:
        if pattern.is_literal:
            self.literal.setdefault(pattern.text, []).append(number)
            return
        node = self.root
        for segment in pattern.segments:
            node = node.children.setdefault(segment, _Node())
        (node.tails if pattern.has_tail else node.ends).append(number)

    def matching(self, path: str, segments: tuple[str, ...]) -> list[int]:
        """In any order, and several times where several patterns of a rule match."""
        found = list(self.literal.get(path, ()))
        front = [self.root]
        for segment in segments:
            below = []
            for node in front:
                found += node.tails
                for key in (segment, "*"):
                    child = node.children.get(key)
                    if child is not None:
                        below.append(child)
            if not below:
                return found
            front = below
        for node in front:
            found += node.ends
        return found

    def covering(self, pattern: Pattern) -> list[int]:
        """Those whose pattern may cover all that ``pattern`` does, and perhaps some more; as ``matching`` otherwise."""
        more = ("**",) if pattern.has_tail else ()
        return self.matching(pattern.text, (*pattern.segments, *more))


class Index:
    """Rules are known by their number in the bundle's order. Immutable after construction."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._by_place: dict[tuple[str, str, str], Patterns] = {}
        for number, rule in enumerate(rules):
            for action in ACTIONS if rule.actions == ("*",) else rule.actions:
                for subject in rule.subjects:
                    patterns = self._by_place.setdefault((rule.domain, action, subject), Patterns())
                    for pattern in rule.patterns:
                        patterns.add(pattern, number)

    def candidates(
        self, tenant: str, held: frozenset[str], action: str, path: str, segments: tuple[str, ...]
    ) -> list[int]:
        """The rules of ``tenant`` and of everywhere for anybody in ``held``, in the bundle's order, each once."""
        found: set[int] = set()
        for domain in (tenant, ANYWHERE):
            for subject in held:
                patterns = self._by_place.get((domain, action, subject))
                if patterns is not None:
                    found.update(patterns.matching(path, segments))
        return sorted(found)
