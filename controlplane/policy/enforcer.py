"""casbin, with the parts replaced that are unsafe or slow in stock (the model and its meaning stay casbin's).

- conditions and patterns are registered functions: casbin never sees ``eval`` or a regular expression from a file;
- the role closure is computed once and never cleared: stock reload empties the live role graph and then allows wrongly;
- the effector never stops early, so that every matching rule is seen, not only the last one before casbin was sure;
- the matcher is Python with the meaning of the model's; stock parses its text anew for every decision and walks a tree
  for every line (8 µs each: 50 lines cost a call 0.4 ms);
- nothing is logged: stock writes whole requests, arguments included, to a log.

Lines are dealt out to one enforcer for each tenant and action: a decision scans only lines that could match.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import casbin  # type: ignore[import-untyped]  # ships no types
from casbin.effect.default_effectors import AllowAndDenyEffector  # type: ignore[import-untyped]
from casbin.effect.effector import Effector  # type: ignore[import-untyped]
from casbin.persist import Adapter  # type: ignore[import-untyped]
from casbin.rbac import RoleManager  # type: ignore[import-untyped]

from controlplane.policy.bundle import Bundle
from controlplane.policy.catalogue import Resource
from controlplane.policy.conditions import UNKNOWN, Condition, ConditionError, Facts
from controlplane.policy.documents import BundleError, Problem
from controlplane.policy.rules import ACTIONS, ANYWHERE, Directory, Line

# The only model we serve: sharding, explanation and the reading of matches rely on exactly this meaning.
MODEL = {
    "r": "sub, dom, obj, act, ctx",
    "p": "id, sub, dom, obj, act, cond, eft",
    "g": "_, _, _",
    "e": "some(where (p_eft == allow)) && !some(where (p_eft == deny))",
    "m": "onResource(r_obj, p_obj) && g(r_sub.id, p_sub, r_dom) && inDomain(r_dom, p_dom) && isAction(r_act, p_act)"
    " && when(p_id, p_cond, r_sub, r_obj, r_act, r_ctx)",
}


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
    """The casbin enforcers of one bundle. Immutable after construction; may be asked from several threads."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        parts = _Parts(_Roles(bundle.directory), _functions(bundle))
        lines = [line for rule in bundle.rules.values() for line in rule.lines()]
        self._shards = {
            (domain, action): _Enforcer(
                _model(bundle.model),
                _Lines([line for line in lines if line.domain in (domain, ANYWHERE) and line.action in (action, "*")]),
                parts,
            )
            for domain in (*sorted(bundle.directory.tenants), ANYWHERE)
            for action in ACTIONS
        }

    def shard(self, request: Request) -> casbin.Enforcer:
        """The enforcer whose lines can match; that of guards and roles alone for a tenant without files."""
        found = self._shards.get((request.domain, request.action))
        return self._shards[ANYWHERE, request.action] if found is None else found


def enforce(enforcer: casbin.Enforcer, request: Request) -> bool:
    """Ask casbin. Raises whatever a condition raises; the caller denies."""
    context = request.context
    return bool(enforcer.enforce(request.subject, request.domain, request.resource, request.action, context))


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
        facts = Facts(subject.attributes, resource.attributes, action, context.values, resource.argument_types)
        try:
            holds = conditions[text].evaluate(facts)
        except ConditionError:
            context.matched.insert(0, rule)
            raise
        if holds is UNKNOWN:  # asked whether a call could be allowed: doubt speaks for the call
            holds = rule not in denies
        if holds:
            context.matched.append(rule)
        return bool(holds)

    return {"inDomain": in_domain, "isAction": is_action, "onResource": on_resource, "when": when}


def _model(text: str) -> casbin.Model:
    """Raises: BundleError unless the model says exactly what ``MODEL`` says."""
    model = casbin.Model()
    try:
        model.load_model_from_text(text)
        found = {section: model[section][section].value for section in MODEL}
    except Exception as error:  # noqa: BLE001  casbin's reader raises what it likes
        raise BundleError([Problem("model.conf", f"not a casbin model: {error}")]) from None
    problems = [
        Problem("model.conf", f"{section} is {found[section]!r}, and we can only serve {meaning!r}")
        for section, meaning in MODEL.items()
        if found[section] != meaning
    ]
    if problems:
        raise BundleError(problems)
    return model


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

    def has_link(self, name1: str, name2: str, *domain: str) -> bool:
        return name2 in self._directory.names_of(domain[0], name1)

    def print_roles(self) -> None:
        """Who holds what is nobody's log line."""


class _EveryMatch(AllowAndDenyEffector):  # type: ignore[misc]  # casbin ships no types
    """Deny overrides, as the model says, but decided only after every line was seen."""

    def intermediate_effect(self, effects: set[int]) -> int:  # noqa: ARG002  casbin's signature
        return int(Effector.INDETERMINATE)


class _Matcher:
    """``MODEL["m"]`` in Python, where casbin expects the text parsed. Keeps nothing, so threads may share it."""

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


@dataclass(frozen=True, slots=True)
class _Parts:
    roles: _Roles
    functions: Mapping[str, Callable[..., bool]]


class _Enforcer(casbin.Enforcer):  # type: ignore[misc]  # casbin ships no types
    def __init__(self, model: casbin.Model, lines: _Lines, parts: _Parts) -> None:
        self._parts, self._matcher = parts, _Matcher(parts.functions, parts.roles)
        super().__init__(model, lines)
        self.eft = _EveryMatch()
        for name, function in parts.functions.items():
            self.add_function(name, function)
        # Not casbin's named logger: any later dictConfig would switch that one on again, arguments and all.
        self.logger = logging.Logger("casbin.silent", level=logging.CRITICAL + 1)  # noqa: LOG001  unregistered

    def init_rm_map(self) -> None:
        self.rm_map["g"] = self._parts.roles
        self.model["g"]["g"].rm = self._parts.roles

    def _get_expression(self, expr: str, functions: Mapping[str, Callable[..., Any]] | None = None) -> _Matcher:  # noqa: ARG002  casbin's signature
        """The text is ``MODEL``'s, or the bundle would not have loaded."""
        return self._matcher
