"""casbin, with the parts replaced that are unsafe or slow in stock (the model and its meaning stay casbin's).

- conditions and patterns are registered functions: casbin never sees ``eval`` or a regular expression from a file;
- the role closure is computed once and never cleared: stock reload empties the live role graph and then allows wrongly;
- the effector never stops early, so that every matching rule is seen, not only the last one before casbin was sure;
- the matcher of the usual model is Python with the same meaning; stock parses its text anew for every decision and
  walks a tree for every line (8 µs each). Another model that may be served keeps casbin's own reading of its text;
- nothing is logged: stock writes whole requests, arguments included, to a log.

Under the usual model lines are dealt out to one enforcer for each tenant and action: a decision scans only lines that
could match. Another model's decision scans all.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import casbin  # type: ignore[import-untyped]  # ships no types
from casbin.effect.default_effectors import AllowAndDenyEffector  # type: ignore[import-untyped]
from casbin.effect.effector import Effector  # type: ignore[import-untyped]
from casbin.persist import Adapter  # type: ignore[import-untyped]
from casbin.rbac import RoleManager  # type: ignore[import-untyped]

from controlplane.calls import Principal
from controlplane.policy.attributes import subject_attributes
from controlplane.policy.bundle import Bundle
from controlplane.policy.catalogue import Catalogue, Resource
from controlplane.policy.conditions import UNKNOWN, Condition, ConditionError, Facts
from controlplane.policy.engine import GRANTED, Answer
from controlplane.policy.model import DecisionModel, read_model
from controlplane.policy.rules import ACTIONS, ANYWHERE, Directory, Line


@dataclass(frozen=True, slots=True)
class Subject:
    """One principal of the chain, as conditions may read it."""

    id: str
    attributes: Mapping[str, Any]


@dataclass(slots=True)
class Context:
    """The rest of the call; ``values`` is None while it is not known.

    ``matched`` collects the rules that hold; the one whose condition failed, if any, comes first.
    """

    values: Mapping[str, Any] | None
    matched: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Request:
    """What casbin is asked, in the order of the model's request definition."""

    subject: Subject
    domain: str
    resource: Resource
    action: str
    context: Context


class Enforcers:
    """The casbin enforcers of one bundle. Raises BundleError for a model that cannot be served."""

    def __init__(self, bundle: Bundle) -> None:
        self.model = read_model(bundle.model)
        self._tenants = bundle.directory.tenants
        self._parts = _Parts(self.model, _Roles(bundle.directory), _functions(bundle))
        lines = [line for rule in bundle.rules.values() for line in rule.lines()]
        self._all = _Enforcer(lines, self._parts)  # casbin has read every rule before the bundle is served
        self._lines = _dealt(lines)
        self._shards: dict[tuple[str, str], _Enforcer] = {}

    def shard(self, tenant: str, action: str) -> casbin.Enforcer:
        """The enforcer whose lines can match; that of guards and roles alone for a tenant without files."""
        if self.model.deviation:
            return self._all
        place = (tenant if tenant in self._tenants else ANYWHERE, action)
        shard = self._shards.get(place)
        if shard is None:
            numbered = {**self._lines.get((ANYWHERE, action), {}), **self._lines.get(place, {})}
            shard = _Enforcer([numbered[number] for number in sorted(numbered)], self._parts)
            self._shards[place] = shard
        return shard


class Casbin:
    """An ``Engine``, and the authority on what a bundle means. Raises BundleError for a model that cannot be served."""

    name = "casbin"

    def __init__(self, bundle: Bundle, enforcers: Enforcers | None = None) -> None:
        self._bundle = bundle
        self._enforcers = Enforcers(bundle) if enforcers is None else enforcers
        self._resources = {path: bundle.catalogue.resource(path) for path in bundle.catalogue.resources}

    @property
    def deviation(self) -> str:
        """How model.conf differs from the usual model; "" when it does not."""
        return self._enforcers.model.deviation

    def supposing(self, catalogue: Catalogue) -> Self:
        """The same rules over another catalogue."""
        return type(self)(replace(self._bundle, catalogue=catalogue), self._enforcers)

    def answer(
        self, principal: Principal, name: str, action: str, path: str, values: Mapping[str, Any] | None
    ) -> Answer:
        subject = Subject(name, subject_attributes(self._bundle, principal, name))
        resource = self._resources.get(path) or self._bundle.catalogue.resource(path)
        request = Request(subject, principal.tenant, resource, action, Context(values))
        try:
            permitted = self._enforce(request)
        except ConditionError:
            return "condition_error", _once(request.context.matched)
        matched = _once(request.context.matched)
        if permitted:
            return GRANTED, matched
        denies = any(self._bundle.rules[rule].effect == "deny" for rule in matched)
        return "rule_denied" if denies else "no_matching_rule", matched

    def _enforce(self, request: Request) -> bool:
        """Ask casbin. Raises whatever a condition raises."""
        shard, context = self._enforcers.shard(request.domain, request.action), request.context
        return bool(shard.enforce(request.subject, request.domain, request.resource, request.action, context))


def _once(rules: Iterable[str]) -> tuple[str, ...]:
    """A rule has a line for each subject, pattern and action, and several may match."""
    return tuple(dict.fromkeys(rules))


def _dealt(lines: Iterable[Line]) -> dict[tuple[str, str], dict[int, Line]]:
    """Lines by domain and action, each with its place among all."""
    dealt: dict[tuple[str, str], dict[int, Line]] = {}
    for number, line in enumerate(lines):
        for action in ACTIONS if line.action == "*" else (line.action,):
            dealt.setdefault((line.domain, action), {})[number] = line
    return dealt


def _functions(bundle: Bundle) -> dict[str, Callable[..., bool]]:
    conditions: dict[str, Condition] = {rule.condition.text: rule.condition for rule in bundle.rules.values()}
    patterns = {pattern.text: pattern for rule in bundle.rules.values() for pattern in rule.patterns}
    denies = {rule.ref.id for rule in bundle.rules.values() if rule.effect == "deny"}

    def in_domain(domain: str, of_rule: str) -> bool:
        return of_rule in (ANYWHERE, domain)

    def is_action(action: str, of_rule: str) -> bool:
        return of_rule in (action, "*")

    def on_resource(resource: Resource, of_rule: str) -> bool:
        pattern = patterns.get(of_rule)  # casbin asks about the pattern "" when there is no rule at all
        return pattern is not None and pattern.matches(resource.path, resource.segments)

    def when(  # noqa: PLR0917  the model calls it by position
        rule: str, text: str, subject: Subject, resource: Resource, action: str, context: Context
    ) -> bool:
        condition = conditions.get(text)
        if condition is None:  # no rule at all, as above
            return False
        facts = Facts(subject.attributes, resource.attributes, action, context.values, resource.argument_types)
        try:
            holds = condition.evaluate(facts)
        except ConditionError:
            context.matched.insert(0, rule)
            raise
        if holds is UNKNOWN:  # asked whether a call could be allowed: doubt speaks for the call
            holds = rule not in denies
        if holds:
            context.matched.append(rule)
        return bool(holds)

    return {"inDomain": in_domain, "isAction": is_action, "onResource": on_resource, "when": when}


class _Lines(Adapter):  # type: ignore[misc]  # casbin ships no types
    """Read-only: hands lines to casbin as they are, so that no text format stands between."""

    def __init__(self, lines: Iterable[Line]) -> None:
        self._lines = list(lines)

    def load_policy(self, model: casbin.Model) -> None:
        model["p"]["p"].policy.extend(list(line) for line in self._lines)


class _Roles(RoleManager):  # type: ignore[misc]  # casbin ships no types
    """The directory's closure: one dictionary look-up a question, and questions never change it."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    def clear(self) -> None:
        """Nothing to clear: the closure belongs to the bundle and goes with it."""

    def __deepcopy__(self, _: object) -> Self:
        """casbin copies the model, and us in it, for every shard. Nobody changes a directory."""
        return self

    def has_link(self, name1: str, name2: str, *domain: str) -> bool:
        return name2 in self._directory.names_of(domain[0], name1)

    def print_roles(self) -> None:
        """Who holds what is nobody's log line."""


class _EveryMatch(AllowAndDenyEffector):  # type: ignore[misc]  # casbin ships no types
    """Deny overrides, as the model says, but decided only after every line was seen."""

    def intermediate_effect(self, effects: set[int]) -> int:  # noqa: ARG002  casbin's signature
        return int(Effector.INDETERMINATE)


class _Matcher:
    """The matcher of ``model.MODEL`` in Python, where casbin expects the text parsed. Threads may share it."""

    def __init__(self, functions: Mapping[str, Callable[..., bool]], roles: _Roles) -> None:
        self._on_resource, self._when = functions["onResource"], functions["when"]
        self._in_domain, self._is_action = functions["inDomain"], functions["isAction"]
        self._g = roles.has_link

    def eval(self, names: Mapping[str, Any]) -> bool:
        """``names`` are casbin's: what is asked under ``r_``, one line of policy under ``p_``."""
        if not self._on_resource(names["r_obj"], names["p_obj"]):
            return False  # most lines end here
        subject, domain, action = names["r_sub"], names["r_dom"], names["r_act"]
        return (
            self._g(subject.id, names["p_sub"], domain)
            and self._in_domain(domain, names["p_dom"])
            and self._is_action(action, names["p_act"])
            and self._when(names["p_id"], names["p_cond"], subject, names["r_obj"], action, names["r_ctx"])
        )


class _AsWritten:
    """casbin's own reading of another model's matcher. A rule counts as matched only if the whole matcher holds."""

    def __init__(self, expression: Any) -> None:
        self._expression = expression

    def eval(self, names: Mapping[str, Any]) -> bool:
        matched: list[str] = names["r_ctx"].matched
        before = len(matched)
        holds = bool(self._expression.eval(names))
        if not holds:
            del matched[before:]
        return holds


@dataclass(frozen=True, slots=True)
class _Parts:
    model: DecisionModel
    roles: _Roles
    functions: Mapping[str, Callable[..., bool]]


class _Enforcer(casbin.Enforcer):  # type: ignore[misc]  # casbin ships no types
    def __init__(self, lines: Iterable[Line], parts: _Parts) -> None:
        self._parts = parts
        self._matcher = None if parts.model.deviation else _Matcher(parts.functions, parts.roles)
        super().__init__(parts.model.casbin(), _Lines(lines))
        self.eft = _EveryMatch()
        for name, function in parts.functions.items():
            self.add_function(name, function)
        # Not casbin's named logger: any later dictConfig would switch that one on again, arguments and all.
        self.logger = logging.Logger("casbin.silent", level=logging.CRITICAL + 1)  # noqa: LOG001  unregistered

    def init_rm_map(self) -> None:
        self.rm_map["g"] = self._parts.roles

    def _get_expression(
        self, expr: str, functions: Mapping[str, Callable[..., Any]] | None = None
    ) -> _Matcher | _AsWritten:
        return self._matcher or _AsWritten(super()._get_expression(expr, functions))
