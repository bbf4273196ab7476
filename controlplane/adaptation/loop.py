"""The loop: read the signals, move the rules, put each step on record, then make it true.

Not recorded, therefore not done: a step whose record fails has not been taken, and the next window takes it again. What
is on record and could not be done is tried again every window. A restart of the gateway takes the levels from the
ledger, so that a replica which a person must inspect does not come back by itself.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import anyio

from controlplane.adaptation.actions import Act
from controlplane.adaptation.engine import NORMAL, Readings, Standing, Step, advance, end
from controlplane.adaptation.settings import AdaptationSettings
from controlplane.adaptation.signals import GATEWAY, Sources, Subject
from controlplane.policy.adaptation import AdaptationFile, AdaptationRule

KIND, FAILED_KIND = "adaptation.transition", "adaptation.failed"
GONE_WINDOWS = 30  # after so many windows without a word of a subject there is nothing left to adapt
TELLS = frozenset({"human_review", "notify"})
"""Actions that are done when they are on record."""

ONCE = frozenset({"restart"})
"""Actions that are over when they are done: a gateway that starts again does not repeat them."""

log = logging.getLogger(__name__)

Record = Callable[[str, Mapping[str, Any]], Awaitable[object]]
"""(kind, body) → durable on return; raises when it cannot be. Whole numbers and words only. MUST NOT be cut short by a
cancellation, as no ledger is: whoever stops the loop must not leave it unsure what is on disk."""

Key = tuple[str, Subject]
"""Rule id and subject."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """One step as it stands in the ledger. ``mode``: ``act``, ``dry_run``, or ``nobody`` can do it here.

    ``signals`` are those that the rule looks at, as decimal words; ``by`` is the person who ended it; ``revision`` is
    that of the policy which holds the rule.
    """

    rule: str
    subject: Subject
    action: str
    step: Step
    mode: str
    signals: Mapping[str, str] = field(default_factory=dict)
    relapses: int = 0
    by: str = ""
    revision: str = ""

    def facts(self) -> dict[str, Any]:
        step = self.step
        facts: dict[str, Any] = {"rule": self.rule, "subject": self.subject.kind, "name": self.subject.name}
        facts |= {"action": self.action, "from": step.before, "to": step.after, "reason": step.reason}
        facts |= {"mode": self.mode, "signals": dict(self.signals), "relapses": self.relapses}
        facts["policy_revision"] = self.revision
        return facts | {"by": self.by} if self.by else facts


Listener = Callable[[Transition], None]


@dataclass(frozen=True, slots=True)
class AdaptationStatus:
    """A rule that is not at its normal level for a subject, as the console shows it."""

    rule: str
    subject: str
    action: str
    level: int
    steps: int
    ends_on: str  # the word of a person that ends it, "" when only time and health do


class Adaptation:
    """``rules`` may answer with another file after a reload of policy; ``task_of`` gives a model's task.

    Whoever listens is told after the record is durable; one that raises is logged and hurts nothing.
    """

    def __init__(
        self,
        settings: AdaptationSettings,
        rules: Callable[[], AdaptationFile],
        sources: Sources,
        actions: Mapping[str, Act],
        record: Record,
        *,
        now: Callable[[], float],
        task_of: Callable[[str], str] = lambda _model: "",
        revision: Callable[[], str] = lambda: "",
    ) -> None:
        self._settings, self._rules, self._sources = settings, rules, sources
        self._actions, self._record, self._now, self._task_of = actions, record, now, task_of
        self._revision = revision
        self._standings: dict[Key, Standing] = {}
        self._then: dict[str, str] = {}  # rule id → its action, also of rules that are gone
        self._absent: dict[Subject, int] = {}
        self._done: dict[tuple[str, Subject], int] = {}
        self._failing: set[tuple[str, Subject]] = set()
        self._listeners: list[Listener] = []
        self._moving = anyio.Lock()

    def listen(self, listener: Listener) -> None:
        self._listeners.append(listener)

    def resume(self, facts: Iterable[Mapping[str, Any]]) -> None:
        """Take levels from earlier transitions (the ``adaptation`` part of their records), the oldest first."""
        now_s = self._now()
        for said in facts:
            key = str(said["rule"]), Subject(str(said["subject"]), str(said["name"]))
            level, what = int(said["to"]), (str(said["action"]), key[1])
            self._store(key, Standing(level=level, relapses=int(said["relapses"]), held_until_s=now_s))
            if what[0] in ONCE:
                self._done[what] = level

    def status(self) -> list[AdaptationStatus]:
        rules = {rule.id: rule for rule in self._rules().rules}
        return [
            AdaptationStatus(rule.id, str(subject), rule.then, standing.level, rule.steps, rule.back_on)
            for (name, subject), standing in sorted(
                self._standings.items(), key=lambda one: (one[0][0], str(one[0][1]))
            )
            if standing.level and (rule := rules.get(name)) is not None
        ]

    async def run(self) -> None:
        """Until cancelled, once in a window. A window that breaks is logged; the next one tries again."""
        is_complaining = False
        while True:
            await anyio.sleep(self._rules().window_s)
            try:
                await self.tick()
                is_complaining = False
            except Exception:
                if not is_complaining:
                    log.exception("adaptation could not take its steps; trying again every window")
                is_complaining = True

    async def tick(self) -> None:
        """One window. Raises what the record raises: then nothing more was done in it."""
        if not self._settings.enabled:
            return
        async with self._moving:
            now_s = self._now()
            readings, file = self._sources.read(now_s), self._rules()
            await self._clear_away(file, readings)
            for rule in file.rules:
                for subject in self._subjects_of(rule, readings):
                    await self._advance(rule, subject, readings.get(subject, readings[GATEWAY]), now_s)
            await self._make_true(file)

    async def tell(self, rule_id: str, subject: Subject, word: str, by: str) -> bool:
        """A person's word (``reviewed``, ``inspected``); False when it ends nothing. Raises what the record raises."""
        async with self._moving:
            file = self._rules()
            rule = next((one for one in file.rules if one.id == rule_id), None)
            standing = self._standings.get((rule_id, subject), NORMAL)
            if rule is None or not word or rule.back_on != word or not standing.level:
                return False
            await self._end(rule.then, (rule_id, subject), word, by)
            await self._make_true(file)
            return True

    def _subjects_of(self, rule: AdaptationRule, readings: Mapping[Subject, Readings]) -> Iterator[Subject]:
        """Those there are, and those where the rule still stands above normal."""
        standing = {subject for name, subject in self._standings if name == rule.id}
        for subject in sorted(readings.keys() | standing, key=str):
            if self._concerns(rule, subject):
                yield subject

    def _concerns(self, rule: AdaptationRule, subject: Subject) -> bool:
        if subject.kind != rule.for_each:
            return False
        if not rule.tasks and not rule.except_tasks:
            return True
        task = self._task_of(subject.name)
        return (not rule.tasks or task in rule.tasks) and task not in rule.except_tasks

    async def _advance(self, rule: AdaptationRule, subject: Subject, readings: Readings, now_s: float) -> None:
        key = rule.id, subject
        after, step = advance(rule, self._standings.get(key, NORMAL), readings, now_s)
        if step is not None:
            looked_at = (*rule.when.leaves(), *(rule.back_when.leaves() if rule.back_when else ()))
            signals = {leaf.signal: f"{readings[leaf.signal]:.6g}" for leaf in looked_at if leaf.signal in readings}
            await self._put_on_record(
                Transition(
                    rule=rule.id,
                    subject=subject,
                    action=rule.then,
                    step=step,
                    mode=self._mode(rule.then),
                    signals={str(name): value for name, value in signals.items()},
                    relapses=after.relapses,
                    revision=self._revision(),
                )
            )
        self._store(key, after)

    async def _clear_away(self, file: AdaptationFile, readings: Mapping[Subject, Readings]) -> None:
        """Rules that are no longer in the file and subjects that nobody has seen for long go back to normal."""
        known = {rule.id: rule for rule in file.rules}
        self._then |= {rule.id: rule.then for rule in file.rules}
        subjects = {subject for _, subject in self._standings}
        self._absent = {one: self._absent.get(one, 0) + 1 for one in subjects if one not in readings}
        for (name, subject), standing in list(self._standings.items()):
            rule = known.get(name)
            if rule is None or not self._concerns(rule, subject):
                reason = "rule_gone"
            elif self._absent.get(subject, 0) >= GONE_WINDOWS:
                reason = "gone"
            else:
                self._standings[name, subject] = replace(standing, level=min(standing.level, rule.steps))
                continue
            if standing.level:
                await self._end(self._then.get(name, ""), (name, subject), reason)
            self._standings.pop((name, subject), None)

    async def _end(self, action: str, key: Key, reason: str, by: str = "") -> None:
        after, step = end(self._standings[key], reason, self._now())
        await self._put_on_record(
            Transition(
                rule=key[0],
                subject=key[1],
                action=action,
                step=step,
                mode=self._mode(action),
                by=by,
                revision=self._revision(),
            )
        )
        self._store(key, after)

    def _mode(self, action: str) -> str:
        if action in self._settings.dry_run:
            return "dry_run"
        return "act" if action in TELLS or action in self._actions else "nobody"

    async def _put_on_record(self, transition: Transition) -> None:
        await self._record(KIND, {"adaptation": transition.facts()})
        log.warning(
            "adaptation moved",
            extra={
                "rule": transition.rule,
                "subject": str(transition.subject),
                "level": transition.step.after,
                "reason": transition.step.reason,
            },
        )
        for listener in self._listeners:
            try:
                listener(transition)
            except Exception:
                log.exception("a listener to adaptation failed")

    def _store(self, key: Key, standing: Standing) -> None:
        """A standing that says nothing is not kept, so that subjects which come and go leave nothing behind."""
        if standing == NORMAL:
            self._standings.pop(key, None)
        else:
            self._standings[key] = standing

    async def _make_true(self, file: AdaptationFile) -> None:
        """Where several rules ask for one action, the one that has gone furthest has its way."""
        wanted: dict[tuple[str, Subject], int] = dict.fromkeys(self._done, 0)
        actions = {rule.id: rule.then for rule in file.rules}
        for (rule_id, subject), standing in self._standings.items():
            what = actions.get(rule_id, ""), subject
            wanted[what] = max(wanted.get(what, 0), standing.level)
        for (action, subject), level in wanted.items():
            if level != self._done.get((action, subject), 0) and self._mode(action) == "act" and action not in TELLS:
                await self._act(action, subject, level)

    async def _act(self, action: str, subject: Subject, level: int) -> None:
        what = action, subject
        try:
            await self._actions[action](subject, level)
        except Exception as error:
            if what not in self._failing:
                self._failing.add(what)
                log.exception("an adaptation could not be carried out; trying again every window")
                failed = {"action": action, "subject": subject.kind, "name": subject.name, "to": level}
                await self._record(FAILED_KIND, {"adaptation": failed | {"error": type(error).__name__}})
            return
        self._failing.discard(what)
        if level:
            self._done[what] = level
        else:
            self._done.pop(what, None)
