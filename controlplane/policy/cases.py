"""Policy tests: ``tests/*_test.yaml`` beside the rules. A case is a request and the decision it must get."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from controlplane.calls import Call, Decision, Principal
from controlplane.policy.catalogue import Catalogue, ModelEntry, SideEffect, ToolEntry
from controlplane.policy.documents import BundleError, Problem, read_document
from inference.catalogue.card import Tier


class _Shape(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class PrincipalShape(_Shape):
    subject: str
    tenant: str
    kind: str = "agent"
    chain: list[str] = Field(default_factory=list)
    scopes: list[str] = Field(default_factory=list)
    claims: dict[str, Any] = Field(default_factory=dict)

    def principal(self) -> Principal:
        return Principal(
            subject=self.subject,
            tenant=self.tenant,
            kind=self.kind,
            chain=tuple(self.chain),
            scopes=frozenset(self.scopes),
            claims=self.claims,
        )


class CallShape(_Shape):
    action: str
    resource: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    door: str = ""
    operation: str = ""
    version: int | None = None
    label: str | None = None
    streams: bool = False

    def call(self) -> Call:
        return Call(id="case", **self.model_dump())


class RequestShape(_Shape):
    principal: PrincipalShape
    call: CallShape
    now: float = Field(default=0.0, description="Seconds since 1970.")


class Expectation(_Shape):
    """``rules`` are all that match, in any order; ``obligations`` are all duties. What is left out is not asked."""

    effect: Literal["allow", "deny"]
    reason: str | None = None
    rules: list[str] | None = None
    obligations: list[dict[str, dict[str, Any]]] | None = None

    def faults(self, decision: Decision) -> Iterator[str]:
        if decision.effect.value != self.effect:
            yield f"effect is {decision.effect.value} ({decision.reason}), expected {self.effect}"
        if self.reason is not None and decision.reason != self.reason:
            yield f"reason is {decision.reason}, expected {self.reason}"
        matched = sorted(rule.id for rule in decision.rules)
        if self.rules is not None and matched != sorted(self.rules):
            yield f"rules are {matched}, expected {sorted(self.rules)}"
        duties = [{duty.name: dict(duty.parameters)} for duty in decision.obligations]
        if self.obligations is not None and duties != self.obligations:
            yield f"obligations are {duties}, expected {self.obligations}"


class Supposition(_Shape):
    """What the catalogue is supposed to say of the resource, so that a guard can be tested before it is needed."""

    labels: list[str] | None = None
    sensitivity: int | None = Field(default=None, ge=0, le=5)
    side_effect: SideEffect | None = None
    tier: Tier | None = Field(default=None, description="Of a model's card.")

    def changes(self, entry: ToolEntry | ModelEntry) -> dict[str, Any]:
        said = self.model_dump(exclude_none=True, exclude={"tier"})
        if self.tier is not None and isinstance(entry, ModelEntry):
            said["card"] = entry.card.model_copy(update={"tier": self.tier})
        return said


class Case(RequestShape):
    name: str
    suppose: Supposition | None = None
    expect: Expectation

    def supposed(self, catalogue: Catalogue) -> Catalogue:
        """``catalogue`` with what the case supposes of its resource."""
        entry = catalogue.entry(self.call.resource)
        if self.suppose is None or entry is None:
            return catalogue  # nothing to suppose about: the case will say what it got
        return catalogue.supposing(self.call.resource, **self.suppose.changes(entry))


class CaseFile(_Shape):
    tests: list[Case]


def read_cases(files: Mapping[str, bytes]) -> list[tuple[str, Case]]:
    """Every case with the line it stands on. Raises: BundleError."""
    found: list[tuple[str, Case]] = []
    problems: list[Problem] = []
    for name in sorted(files):
        if not name.startswith("tests/"):
            continue
        try:
            document = read_document(name, files[name])
        except BundleError as error:
            problems += error.problems
            continue
        try:
            cases = CaseFile.model_validate(document.value).tests
        except ValidationError as error:
            problems += [
                Problem(document.source(one["loc"]), f"{'.'.join(map(str, one['loc']))}: {one['msg']}")
                for one in error.errors()
            ]
            continue
        found += [(document.source(("tests", index)), case) for index, case in enumerate(cases)]
    if problems:
        raise BundleError(problems)
    return found
