"""The policy decision point: files in git → "may this principal take this action on this resource?".

Fails closed. ``decide`` does no I/O and never raises: no bundle, a stale one, a condition that cannot be answered, a
path that is not one, or a defect in here are all denials with a stable reason. A bundle that does not load never
replaces one that did; ``status`` and the log say so until it is mended.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import anyio
from anyio import to_thread

from controlplane.calls import Call, Decision, Effect, Obligation, Principal, RuleRef
from controlplane.policy.bundle import Bundle, build, read_files, revision_of
from controlplane.policy.catalogue import Catalogue, Resource
from controlplane.policy.conditions import ConditionError
from controlplane.policy.documents import BundleError, Problem
from controlplane.policy.enforcer import Context, Enforcers, Request, Subject, enforce
from controlplane.policy.obligations import strictest
from controlplane.policy.resources import is_valid_path
from controlplane.policy.rules import ACTIONS
from controlplane.policy.settings import PolicySettings

MAX_ACTORS = 8  # a delegation deeper than this is a loop or an attack, and every actor costs a decision

log = logging.getLogger("controlplane.policy")


@dataclass(frozen=True, slots=True)
class PolicyStatus:
    """``revision`` and ``rules`` of the bundle that is served; ``age`` is the seconds since its files were last seen
    to hold it. ``error`` says why the files on disk are not served, since the wall-clock second ``error_since``.
    """

    revision: str = ""
    loaded_at_s: float | None = None
    age: float | None = None
    rules: int = 0
    error: str = ""
    error_since: float | None = None


@dataclass(frozen=True, slots=True)
class _Served:
    bundle: Bundle
    enforcers: Enforcers
    loaded_at_s: float
    resources: Mapping[str, Resource]  # those of the catalogue

    @classmethod
    def of(cls, bundle: Bundle, now_s: float) -> _Served:
        catalogue = bundle.catalogue
        return cls(bundle, Enforcers(bundle), now_s, {path: catalogue.resource(path) for path in catalogue.resources})

    def resource(self, path: str) -> Resource:
        return self.resources.get(path) or self.bundle.catalogue.resource(path)


@dataclass(slots=True)
class _Answer:
    """What one principal of the chain may do; ``reason`` is "" for an allow."""

    reason: str
    rules: list[str]


class BundlePolicy:
    """Decides by the bundle in ``settings.path``. Swapping bundles is one assignment: a decision sees one, whole."""

    def __init__(self, settings: PolicySettings, wall_clock: Callable[[], float] = time.time) -> None:
        self._settings, self._wall_clock = settings, wall_clock
        self._served: _Served | None = None
        self._confirmed_at_s = float("-inf")
        self._error, self._refused_revision = "", ""
        self._error_since: float | None = None

    @classmethod
    def serving(cls, bundle: Bundle) -> BundlePolicy:
        """A policy for a bundle that stands in no folder, e.g. one with a supposed catalogue."""
        policy = cls(PolicySettings())
        policy._confirmed_at_s = policy._wall_clock()
        policy._served = _Served.of(bundle, policy._confirmed_at_s)
        return policy

    @property
    def catalogue(self) -> Catalogue:
        """Of the bundle that is served; empty while there is none."""
        return Catalogue() if self._served is None else self._served.bundle.catalogue

    @property
    def bundle(self) -> Bundle | None:
        return None if self._served is None else self._served.bundle

    def decide(self, principal: Principal, call: Call, now_s: float) -> Decision:
        """The decision, with every rule that matched and every duty they oblige to.

        The right is the intersection over the subject and every actor in its chain. Deny overrides allow; without a
        rule that allows, the answer is no.
        """
        started_ns = time.perf_counter_ns()
        served = self._served
        try:
            reason, rules = self._answer(served, principal, call, now_s)
            return _decision(served, reason, rules, started_ns)
        except Exception as error:  # noqa: BLE001  a defect in here must deny, whatever it is
            log.error("policy defect: %s", type(error).__name__)  # noqa: TRY400  a traceback would show arguments
            revision = "" if served is None else served.bundle.revision
            eval_us = _microseconds_since(started_ns)
            return Decision(effect=Effect.DENY, reason="policy_defect", revision=revision, eval_us=eval_us)

    def could_permit(self, principal: Principal, action: str, resource: str) -> bool:
        """Whether any arguments could make such a call allowed: for lists of tools and models, not for decisions."""
        served = self._served
        try:
            if served is None or self._refusal(served, principal, action, resource, self._wall_clock()):
                return False
            described = served.resource(resource)
            return all(
                not self._of_one(served, principal, name, (described, action, None)).reason
                for name in (principal.subject, *principal.chain)
            )
        except Exception as error:  # noqa: BLE001  what cannot be answered is not shown
            log.error("policy defect: %s", type(error).__name__)  # noqa: TRY400  a traceback would show arguments
            return False

    def load(self) -> None:
        """Load for the first time. Files that do not load leave no policy: everything is denied with ``no_policy``."""
        self.reload()

    def reload(self) -> bool:
        """Serve what the files say now. False when they cannot be served; then the last good bundle stays."""
        try:
            files = read_files(self._settings.path)
        except BundleError as error:
            self._refuse("", error)
            return False
        return self._serve(files)

    async def watch(self) -> None:
        """Follow the files until cancelled. Reads and builds off the event loop."""
        while True:
            await anyio.sleep(self._settings.reload_interval_s)
            await self.poll()

    async def poll(self) -> bool:
        """One look at the files; True when what they say is what is served."""
        return await to_thread.run_sync(self._follow)

    def status(self) -> PolicyStatus:
        served = self._served
        if served is None:
            return PolicyStatus(error=self._error or "never loaded", error_since=self._error_since)
        return PolicyStatus(
            revision=served.bundle.revision,
            loaded_at_s=served.loaded_at_s,
            age=self._wall_clock() - self._confirmed_at_s,
            rules=len(served.bundle.rules),
            error=self._error,
            error_since=self._error_since,
        )

    def _follow(self) -> bool:
        try:
            files = read_files(self._settings.path)
        except BundleError as error:
            self._refuse("", error)
            return False
        revision = revision_of(files)
        if self._refused_revision and revision == self._refused_revision:
            return False  # said once, and not worth building every two seconds
        return self._serve(files)

    def _serve(self, files: Mapping[str, bytes]) -> bool:
        revision, now_s = revision_of(files), self._wall_clock()
        if self._served is None or self._served.bundle.revision != revision:
            try:
                bundle = build(files)
                served = _Served.of(bundle, now_s)
            except BundleError as error:
                self._refuse(revision, error)
                return False
            except Exception as error:  # noqa: BLE001  a bundle that breaks the builder is a broken bundle
                self._refuse(revision, BundleError([Problem(str(self._settings.path), f"cannot be built: {error!r}")]))
                return False
            self._served = served
            log.info("policy %s is served: %d rules", revision[:12], len(bundle.rules))
        self._confirmed_at_s = now_s
        self._error, self._error_since, self._refused_revision = "", None, ""
        return True

    def _refuse(self, revision: str, error: BundleError) -> None:
        if self._error != str(error):
            kept = "nothing, every call is denied" if self._served is None else self._served.bundle.revision[:12]
            log.error("policy files are refused, serving %s: %s", kept, error)
        self._error, self._refused_revision = str(error), revision
        self._error_since = self._wall_clock() if self._error_since is None else self._error_since

    def _refusal(self, served: _Served | None, principal: Principal, action: str, resource: str, now_s: float) -> str:
        """Why the rules need not be asked; "" when they must be."""
        if served is None:
            return "no_policy"
        max_stale_s = self._settings.max_stale_s
        if max_stale_s is not None and now_s - self._confirmed_at_s > max_stale_s:
            return "policy_stale"
        if action not in ACTIONS:
            return "invalid_action"
        if not is_valid_path(resource):
            return "invalid_resource"
        if len(principal.chain) > MAX_ACTORS:
            return "chain_too_long"
        return ""

    def _answer(self, served: _Served | None, principal: Principal, call: Call, now_s: float) -> tuple[str, list[str]]:
        """The reason, and the rules that matched for whomever it came from: the first refused, or all."""
        refusal = self._refusal(served, principal, call.action, call.resource, now_s)
        if refusal or served is None:
            return refusal, []
        resource, context = served.resource(call.resource), context_values(call, now_s)
        matched: list[str] = []
        for name in (principal.subject, *principal.chain):
            answer = self._of_one(served, principal, name, (resource, call.action, context))
            if answer.reason:
                return answer.reason, answer.rules
            matched += answer.rules
        return "granted", list(dict.fromkeys(matched))

    def _of_one(
        self,
        served: _Served,
        principal: Principal,
        name: str,
        wish: tuple[Resource, str, Mapping[str, Any] | None],
    ) -> _Answer:
        resource, action, values = wish
        subject = Subject(name, subject_attributes(served.bundle, principal, name))
        request = Request(subject, principal.tenant, resource, action, Context(values))
        matched = request.context.matched
        try:
            permitted = self._enforce(served.enforcers, request)
        except ConditionError:
            return _Answer("condition_error", matched)
        if permitted:
            return _Answer("", matched)
        denies = any(served.bundle.rules[rule].effect == "deny" for rule in matched)
        return _Answer("rule_denied" if denies else "no_matching_rule", matched)

    def _enforce(self, enforcers: Enforcers, request: Request) -> bool:
        """casbin's whole share of a decision, in one place so that it can be timed or taken out."""
        return enforce(enforcers.shard(request), request)


def subject_attributes(bundle: Bundle, principal: Principal, name: str) -> dict[str, Any]:
    """What conditions may know of one principal of the chain.

    The credential's claims describe its subject, not the actors: an actor has what the directory says of it. Where
    both speak, the directory wins: it is reviewed, a claim is only signed.
    """
    is_subject = name == principal.subject
    kind = principal.kind if is_subject else name.partition(":")[0]
    attributes: dict[str, Any] = {}
    if is_subject:
        attributes = {key: value for key, value in principal.claims.items() if key in bundle.schema.claims}
    attributes.update(bundle.directory.attributes.get((principal.tenant, name), {}))
    attributes.update(
        id=name,
        kind=kind,
        tenant=principal.tenant,
        roles=bundle.directory.roles_of(principal.tenant, name),
        chain=principal.chain,
        client_id=principal.client_id,
        issuer=principal.issuer,
        scopes=principal.scopes,
    )
    return attributes


def context_values(call: Call, now_s: float) -> dict[str, Any]:
    return {
        "args": call.arguments,
        "now": now_s,
        "door": call.door,
        "operation": call.operation,
        "version": call.version,
        "label": call.label,
        "streams": call.streams,
    }


def _decision(served: _Served | None, reason: str, matched: list[str], started_ns: int) -> Decision:
    if served is None:
        return Decision(effect=Effect.DENY, reason=reason, revision="", eval_us=_microseconds_since(started_ns))
    permits, rules = reason == "granted", served.bundle.rules
    found = [rules[rule] for rule in matched]
    if reason != "condition_error":  # there the rule that failed is first already
        deciding = "allow" if permits else "deny"
        found.sort(key=lambda rule: rule.effect != deciding)
    refs: tuple[RuleRef, ...] = tuple(rule.ref for rule in found)
    obligations: tuple[Obligation, ...] = ()
    if permits:
        obligations = strictest(duty for rule in found for duty in rule.obligations)
    return Decision(
        effect=Effect.ALLOW if permits else Effect.DENY,
        reason=reason,
        revision=served.bundle.revision,
        rules=refs,
        obligations=obligations,
        eval_us=_microseconds_since(started_ns),
    )


def _microseconds_since(started_ns: int) -> int:
    return (time.perf_counter_ns() - started_ns) // 1000
