"""The snapshot against casbin, when files are loaded: the bundle's own tests and a sample made from its rules.

The sample is drawn by the revision, so that the same files are always compared on the same questions.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

from controlplane.calls import Call, Principal
from controlplane.policy.attributes import context_values
from controlplane.policy.bundle import Bundle
from controlplane.policy.cases import Case
from controlplane.policy.catalogue import Catalogue
from controlplane.policy.conditions import comparisons_in
from controlplane.policy.documents import Problem
from controlplane.policy.engine import Answer, Engine
from controlplane.policy.grammar import Attribute, Compare, Listing, Literal
from controlplane.policy.resources import Pattern, is_valid_path
from controlplane.policy.rules import ACTIONS, ANYWHERE, Rule

SAMPLE = 200
SAMPLE_LINES = 60_000  # that casbin scans at most for the sample: about a quarter of a second
SMALLEST_SAMPLE = 20
MAX_PROBLEMS = 5


class _Comparable(Engine, Protocol):
    def supposing(self, catalogue: Catalogue) -> Self: ...


@dataclass(frozen=True, slots=True)
class Question:
    principal: Principal
    call: Call
    now_s: float

    def __str__(self) -> str:
        """Without arguments and claims: this goes into logs."""
        who = " for ".join((*reversed(self.principal.chain), self.principal.subject))
        return f"{who} of {self.principal.tenant}: {self.call.action} {self.call.resource}"


def disagreements(
    bundle: Bundle, cases: Sequence[tuple[str, Case]], snapshot: _Comparable, authority: _Comparable
) -> list[Problem]:
    """The first questions that the two answer differently; [] when they agree on all."""
    found: list[Problem] = []
    for source, case in cases:
        catalogue = case.supposed(bundle.catalogue)
        question = Question(case.principal.principal(), case.call.call(), case.now)
        if catalogue is bundle.catalogue:
            found += _differences(source, question, snapshot, authority)
        else:
            found += _differences(source, question, snapshot.supposing(catalogue), authority.supposing(catalogue))
    for question in sample(bundle):
        if len(found) >= MAX_PROBLEMS:
            break
        found += _differences("sample", question, snapshot, authority)
    return found[:MAX_PROBLEMS]


def sample(bundle: Bundle) -> Iterator[Question]:
    """Questions near the rules: about what they name and by whom they name, and a little beside it."""
    rules = list(bundle.rules.values())
    draw = random.Random(bundle.revision)  # noqa: S311  nothing secret
    draw.shuffle(rules)
    size = max(SMALLEST_SAMPLE, min(SAMPLE, SAMPLE_LINES // max(_scanned(rules), 1)))
    drawing = _Drawing(bundle, draw)
    for number in range(size if rules else 0):
        yield drawing.question(rules[number % len(rules)])


def _scanned(rules: Sequence[Rule]) -> int:
    """Lines that casbin scans for a decision of the tenant with the most of them, about."""
    lines: Counter[str] = Counter()
    for rule in rules:
        lines[rule.domain] += len(rule.subjects) * len(rule.patterns)
    everywhere = lines.pop(ANYWHERE, 0)
    return everywhere + max(lines.values(), default=0)


def _differences(source: str, question: Question, snapshot: Engine, authority: Engine) -> Iterator[Problem]:
    if not is_valid_path(question.call.resource) or question.call.action not in ACTIONS:
        return  # no engine is ever asked
    for name in (question.principal.subject, *question.principal.chain):
        for values in (context_values(question.call, question.now_s), None):
            said, meant = (_said(engine, question, name, values) for engine in (snapshot, authority))
            if said != meant:
                yield Problem(source, f"the snapshot says {said} where casbin says {meant} ({name} in {question})")


def _said(engine: Engine, question: Question, name: str, values: Mapping[str, Any] | None) -> Answer:
    try:
        return engine.answer(question.principal, name, question.call.action, question.call.resource, values)
    except Exception as error:  # noqa: BLE001  what breaks in both denies in both, and what breaks in one is told
        return f"policy_defect: {type(error).__name__}", ()


class _Drawing:
    def __init__(self, bundle: Bundle, draw: random.Random) -> None:
        self._bundle, self._draw = bundle, draw
        self._people = sorted(bundle.directory.holds) or [("nowhere", "agent:nobody")]
        self._tenants = [*sorted(bundle.directory.tenants), "nowhere"]
        self._holders: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
        for person in self._people:
            for name in sorted(bundle.directory.names_of(*person)):
                self._holders[person[0], name].append(person)
                self._holders[ANYWHERE, name].append(person)

    def question(self, rule: Rule) -> Question:
        draw = self._draw
        tenant, subject = self._person(rule)
        chain = (draw.choice(self._people)[1],) if draw.random() < 0.2 else ()  # noqa: PLR2004  a fifth is delegated
        values = self._values(rule)
        claims = {path[1]: value for path, value in values.items() if path[0] == "sub"}
        arguments: dict[str, Any] = {}
        for path, value in values.items():
            if path[:2] == ("ctx", "args") and len(path) == 3:  # noqa: PLR2004  arguments inside of others stay absent
                arguments[path[2]] = value
        call = Call(
            id="sample",
            door=str(values.get(("ctx", "door"), "")),
            action=draw.choice([*(ACTIONS if rule.actions == ("*",) else rule.actions), draw.choice(ACTIONS)]),
            resource=self._path(draw.choice(rule.patterns)),
            arguments=arguments,
            operation=str(values.get(("ctx", "operation"), "")),
        )
        return Question(
            Principal(subject=subject, tenant=tenant, chain=chain, claims=claims), call, draw.choice((0, 1e9))
        )

    def _person(self, rule: Rule) -> tuple[str, str]:
        """Mostly somebody whom the rule speaks of; else anybody, or the right name in another tenant."""
        named = self._holders.get((rule.domain, self._draw.choice(rule.subjects)))
        tenant, subject = self._draw.choice(named or self._people)
        kind = self._draw.random()
        if kind < 0.1:  # noqa: PLR2004  a tenth
            return self._draw.choice(self._people)
        if kind < 0.2:  # noqa: PLR2004  another tenth
            return self._draw.choice(self._tenants), subject
        return tenant, subject

    def _path(self, pattern: Pattern) -> str:
        kinds = pattern.segments[:1]
        known = [path for path in self._bundle.catalogue.resources if kinds in ((), ("*",), (path.split("/")[1],))]
        segments = [self._draw.choice(("a", "b")) if segment == "*" else segment for segment in pattern.segments]
        made = "/" + "/".join([*segments, *(["a", "b"][: self._draw.randint(0, 2)] if pattern.has_tail else [])])
        return self._draw.choice([made, made, *known[:8]]) if len(made) > 1 else "/a"

    def _values(self, rule: Rule) -> dict[tuple[str, ...], Any]:
        """For what the condition compares with a constant: the constant, its neighbours, or nothing."""
        found: dict[tuple[str, ...], Any] = {}
        for comparison in comparisons_in(rule.condition.node):
            for attribute, value in _pairs(comparison):
                near = [value + 1, value - 1] if _is_number(value) else ["other"]
                if self._draw.random() < 0.9:  # noqa: PLR2004  a tenth is absent
                    found[attribute.path] = self._draw.choice([value, value, *near])
        return found


def _pairs(comparison: Compare) -> Iterator[tuple[Attribute, Any]]:
    for one, other in ((comparison.left, comparison.right), (comparison.right, comparison.left)):
        if isinstance(one, Attribute):
            items = other.items if isinstance(other, Listing) else (other,)
            for item in items:
                if isinstance(item, Literal):
                    yield one, item.value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
