"""What a condition may read: every attribute with its type, declared in ``schema.yaml``, checked when rules load."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from controlplane.policy.catalogue import Catalogue, Resource
from controlplane.policy.conditions import Condition, attributes_in, comparisons_in, has_type
from controlplane.policy.grammar import Attribute, Compare, Listing, Literal
from controlplane.policy.resources import Pattern
from controlplane.policy.sources import AttributeDeclaration, SchemaFile

# What the verified credential itself says; neither a directory entry nor a claim of the same name may replace it.
IDENTITY_ATTRIBUTES = frozenset({"id", "kind", "tenant", "roles", "chain", "client_id", "issuer", "scopes"})


@dataclass(frozen=True, slots=True)
class Schema:
    types: Mapping[tuple[str, ...], str] = field(default_factory=dict)
    enums: Mapping[tuple[str, ...], frozenset[str]] = field(default_factory=dict)
    claims: frozenset[str] = frozenset()  # subject attributes that verified claims or the directory may supply

    @classmethod
    def of(cls, file: SchemaFile) -> Schema:
        sections: dict[str, dict[str, AttributeDeclaration]]
        sections = {"sub": file.subject, "obj": file.object, "ctx": file.context}
        declared = {(root, name): one for root, section in sections.items() for name, one in section.items()}
        return cls(
            types={("act",): "string", **{path: one.type for path, one in declared.items()}},
            enums={path: frozenset(one.enum) for path, one in declared.items() if one.enum is not None},
            claims=frozenset(file.subject) - IDENTITY_ATTRIBUTES,
        )

    def faults_of_value(self, name: str, value: Any) -> Iterator[str]:
        """What is wrong with a subject attribute given in the directory."""
        path = ("sub", name)
        if name not in self.claims:
            yield f"attribute {name!r} is not one that schema.yaml lets a directory entry give"
        elif not has_type(value, self.types[path]):
            yield f"attribute {name!r} is not of type {self.types[path]}"
        elif path in self.enums and value not in self.enums[path]:
            yield f"attribute {name!r} is none of {sorted(self.enums[path])}"

    def faults_of_condition(
        self, condition: Condition, patterns: Iterable[Pattern], catalogue: Catalogue
    ) -> Iterator[str]:
        """What is wrong with a condition for a rule on ``patterns``: unknown attributes, impossible comparisons."""
        known = {("ctx", "args", *path): kind for path, kind in _arguments(patterns, catalogue).items()}
        known.update(self.types)
        for attribute in attributes_in(condition.node):
            if attribute.path not in known:
                yield f"{attribute} is not declared in schema.yaml or as an argument of the resource"
        for comparison in comparisons_in(condition.node):
            yield from self._faults_of_comparison(comparison, known)

    def _faults_of_comparison(self, comparison: Compare, known: Mapping[tuple[str, ...], str]) -> Iterator[str]:
        left, right = comparison.left, comparison.right
        if comparison.operator in ("in", "not in"):
            if isinstance(right, Listing):
                for item in right.items:
                    yield from self._faults_of_pair(left, item, known)
            elif isinstance(right, Attribute) and known.get(right.path, "array") not in ("strings", "array", "any"):
                yield f"{right} is no list"
            elif isinstance(right, Literal):
                yield "'in' needs a list on its right"
            return
        yield from self._faults_of_pair(left, right, known)
        yield from self._faults_of_pair(right, left, known)

    def _faults_of_pair(self, one: object, other: object, known: Mapping[tuple[str, ...], str]) -> Iterator[str]:
        if not isinstance(one, Attribute) or not isinstance(other, Literal):
            return
        declared = known.get(one.path, "any")
        if declared != "any" and not _comparable(declared, other.value):
            yield f"{one} is of type {declared} and can never be compared with {other.value!r}"
        elif one.path in self.enums and other.value not in self.enums[one.path]:
            yield f"{one} is never {other.value!r}: {sorted(self.enums[one.path])}"


def _comparable(declared: str, value: Any) -> bool:
    return has_type(value, "number" if declared == "integer" else declared)


def _arguments(patterns: Iterable[Pattern], catalogue: Catalogue) -> dict[tuple[str, ...], str]:
    """Argument types of everything that the patterns can mean; `any` where two resources disagree."""
    found: dict[tuple[str, ...], str] = {}
    for pattern in patterns:
        for resource in _meant_by(pattern, catalogue):
            for path, kind in resource.argument_types.items():
                found[path] = kind if found.get(path, kind) == kind else "any"
        if pattern.segments:
            found.update(catalogue.arguments.get(pattern.segments[0], {}))
    return found


def _meant_by(pattern: Pattern, catalogue: Catalogue) -> list[Resource]:
    paths = [pattern.text] if pattern.is_literal else catalogue.resources
    resources = [catalogue.resource(path) for path in paths]
    return [one for one in resources if pattern.matches(one.path, one.segments)]
