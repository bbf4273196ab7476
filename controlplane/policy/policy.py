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

import anyio
from anyio import to_thread

from controlplane.calls import Call, Decision, Effect, Principal
from controlplane.policy.adaptation import AdaptationFile
from controlplane.policy.attributes import context_values
from controlplane.policy.behaviour import NO_BEHAVIOUR, Behaviour
from controlplane.policy.bundle import NO_ADAPTATION, Bundle, build, read_files, revision_of
from controlplane.policy.cases import read_cases
from controlplane.policy.catalogue import Catalogue
from controlplane.policy.documents import BundleError, Problem
from controlplane.policy.enforcer import Casbin
from controlplane.policy.engine import GRANTED, Answer, Engine, Rulings
from controlplane.policy.resources import is_valid_path
from controlplane.policy.rules import ACTIONS
from controlplane.policy.settings import PolicySettings
from controlplane.policy.shadow import disagreements
from controlplane.policy.snapshot import Snapshot

MAX_ACTORS = 8  # a delegation deeper than this is a loop or an attack, and every actor costs a decision

log = logging.getLogger("controlplane.policy")


@dataclass(frozen=True, slots=True)
class PolicyStatus:
    """``revision`` and ``rules`` of the bundle that is served; ``age`` is the seconds since its files were last seen
    to hold it. ``error`` says why the files on disk are not served, since the wall-clock second ``error_since``.
    ``engine`` is what decides; ``engine_note`` says why that is not the engine of the settings, "" when it is.
    """

    revision: str = ""
    loaded_at_s: float | None = None
    age: float | None = None
    rules: int = 0
    error: str = ""
    error_since: float | None = None
    engine: str = ""
    engine_note: str = ""


@dataclass(frozen=True, slots=True)
class _Served:
    bundle: Bundle
    engine: Engine
    engine_note: str
    rulings: Rulings
    loaded_at_s: float
    paths: frozenset[str]  # those of the catalogue that are valid

    @classmethod
    def of(cls, bundle: Bundle, settings: PolicySettings, now_s: float, files: Mapping[str, bytes]) -> _Served:
        """``files`` hold the bundle's own tests, for the engines to be compared on; {} compares nothing.

        Raises: BundleError for a model that cannot be served, or when the engines disagree.
        """
        engine, note = _engine(bundle, settings, files)
        paths = frozenset(filter(is_valid_path, bundle.catalogue.resources))
        return cls(bundle, engine, note, Rulings(bundle), now_s, paths)


def _engine(bundle: Bundle, settings: PolicySettings, files: Mapping[str, bytes]) -> tuple[Engine, str]:
    authority = Casbin(bundle)  # reads the model and every rule, whoever decides in the end
    if settings.engine == authority.name:
        return authority, ""
    if authority.deviation:
        return authority, f"model.conf is not the model that the snapshot compiles: {authority.deviation}"
    snapshot = Snapshot(bundle)
    problems = disagreements(bundle, read_cases(files), snapshot, authority) if files else []
    if problems:
        raise BundleError(problems)
    return snapshot, ""


class BundlePolicy:
    """Decides by the bundle in ``settings.path``. Swapping bundles is one assignment: a decision sees one, whole."""

    def __init__(self, settings: PolicySettings, wall_clock: Callable[[], float] = time.time) -> None:
        self._settings, self._wall_clock = settings, wall_clock
        self._served: _Served | None = None
        self._confirmed_at_s = float("-inf")
        self._error, self._refused_revision = "", ""
        self._error_since: float | None = None

    @classmethod
    def serving(cls, bundle: Bundle, settings: PolicySettings | None = None) -> BundlePolicy:
        """A policy for a bundle that stands in no folder, e.g. one with a supposed catalogue. Compares no engines."""
        policy = cls(settings or PolicySettings())
        policy._confirmed_at_s = policy._wall_clock()
        policy._served = _Served.of(bundle, policy._settings, policy._confirmed_at_s, {})
        return policy

    @property
    def catalogue(self) -> Catalogue:
        """Of the bundle that is served; empty while there is none."""
        return Catalogue() if self._served is None else self._served.bundle.catalogue

    @property
    def adaptation(self) -> AdaptationFile:
        """How the running system shall adapt, as the bundle that is served says it; no rules while there is none."""
        return NO_ADAPTATION if self._served is None else self._served.bundle.adaptation

    @property
    def behaviour(self) -> Behaviour:
        """What agents' own traffic may look like, as the bundle that is served says it; no rules without one."""
        return NO_BEHAVIOUR if self._served is None else self._served.bundle.behaviour

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
            reason, matched = self._answer(served, principal, call, now_s)
            if served is None:
                return _denial(reason, "", started_ns)
            ruling = served.rulings.of((reason, matched))
            return Decision(
                effect=Effect.ALLOW if reason == GRANTED else Effect.DENY,
                reason=reason,
                revision=served.bundle.revision,
                rules=ruling.rules,
                obligations=ruling.obligations,
                eval_us=_microseconds_since(started_ns),
            )
        except Exception as error:  # noqa: BLE001  a defect in here must deny, whatever it is
            log.error("policy defect: %s", type(error).__name__)  # noqa: TRY400  a traceback would show arguments
            return _denial("policy_defect", "" if served is None else served.bundle.revision, started_ns)

    def could_permit(self, principal: Principal, action: str, resource: str) -> bool:
        """Whether any arguments could make such a call allowed: for lists of tools and models, not for decisions."""
        served = self._served
        try:
            if served is None or self._refusal(served, principal, action, resource, self._wall_clock()):
                return False
            return all(
                served.engine.answer(principal, name, action, resource, None)[0] == GRANTED
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
        files = self._read()
        return files is not None and self._serve(files)

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
            engine=served.engine.name,
            engine_note=served.engine_note,
        )

    def _follow(self) -> bool:
        files = self._read()
        if files is None:
            return False
        revision = revision_of(files)
        if self._refused_revision and revision == self._refused_revision:
            return False  # said once, and not worth building every two seconds
        return self._serve(files)

    def _read(self) -> Mapping[str, bytes] | None:
        try:
            return read_files(self._settings.path)
        except BundleError as error:
            self._refuse("", error)
        except Exception as error:  # noqa: BLE001  whoever follows the files must not end over what lies there
            self._refuse("", BundleError([Problem(str(self._settings.path), f"cannot be read: {error!r}")]))
        return None

    def _serve(self, files: Mapping[str, bytes]) -> bool:
        revision, now_s = revision_of(files), self._wall_clock()
        if self._served is None or self._served.bundle.revision != revision:
            try:
                bundle = build(files)
                served = _Served.of(bundle, self._settings, now_s, files)
            except BundleError as error:
                self._refuse(revision, error)
                return False
            except Exception as error:  # noqa: BLE001  a bundle that breaks the builder is a broken bundle
                self._refuse(revision, BundleError([Problem(str(self._settings.path), f"cannot be built: {error!r}")]))
                return False
            self._served = served
            log.info("policy %s is served by %s: %d rules", revision[:12], served.engine.name, len(bundle.rules))
            if served.engine_note:
                log.warning("policy %s is served by %s: %s", revision[:12], served.engine.name, served.engine_note)
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
        if resource not in served.paths and not is_valid_path(resource):
            return "invalid_resource"
        if len(principal.chain) > MAX_ACTORS:
            return "chain_too_long"
        return ""

    def _answer(self, served: _Served | None, principal: Principal, call: Call, now_s: float) -> Answer:
        """The reason, and the rules that matched for whomever it came from: the first refused, or all."""
        refusal = self._refusal(served, principal, call.action, call.resource, now_s)
        if refusal or served is None:
            return refusal, ()
        ask, values = served.engine.answer, context_values(call, now_s)
        answer = ask(principal, principal.subject, call.action, call.resource, values)
        if not principal.chain or answer[0] != GRANTED:
            return answer
        matched = dict.fromkeys(answer[1])
        for name in principal.chain:
            answer = ask(principal, name, call.action, call.resource, values)
            if answer[0] != GRANTED:
                return answer
            matched.update(dict.fromkeys(answer[1]))
        return GRANTED, tuple(matched)


def _denial(reason: str, revision: str, started_ns: int) -> Decision:
    return Decision(effect=Effect.DENY, reason=reason, revision=revision, eval_us=_microseconds_since(started_ns))


def _microseconds_since(started_ns: int) -> int:
    return (time.perf_counter_ns() - started_ns) // 1000
