"""What the console shows of servers and of adaptation, and the words of a person that adaptation waits for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from controlplane.adaptation.signals import Subject
from controlplane.adapting import Adapting
from controlplane.calls import Principal
from controlplane.console.playbook_views import PlaybookShown
from controlplane.console.ports import AdaptedShown, NotFound, ReplicaShown, RuleShown
from controlplane.playbook_settings import Playbook
from controlplane.playbooks import Playbooks
from controlplane.policy import BundlePolicy
from controlplane.pools import ReplicaView


def replicas_shown(views: Iterable[ReplicaView]) -> Sequence[ReplicaShown]:
    return [
        ReplicaShown(
            backend=each.backend,
            name=each.status.name,
            models=each.models,
            state=each.status.state.value,
            reason=each.status.reason,
            in_flight=each.status.in_flight,
            waiting=each.status.waiting,
            running=each.status.running,
            kv_ratio=each.status.kv_ratio,
        )
        for each in views
    ]


class PlaybooksShown:
    """``console.playbook_views.PlaybooksView``."""

    def __init__(self, playbooks: Playbooks) -> None:
        self._playbooks = playbooks

    def status(self) -> Sequence[PlaybookShown]:
        return [self._shown(book) for book in self._playbooks.settings.playbooks]

    def _shown(self, book: Playbook) -> PlaybookShown:
        last = self._playbooks.last(book)
        return PlaybookShown(
            id=book.id,
            model=book.model,
            when=book.when,
            for_s=book.for_s,
            do=book.do,
            program=book.command[0] if book.command else "",
            dry_run=book.dry_run,
            per_day=book.per_day,
            left=self._playbooks.left(book),
            pause_s=book.pause_s,
            lasting=self._playbooks.lasting(book),
            last_at_ms=None if last is None else last.run.at_ms,
            last_subject="" if last is None else last.run.subject,
            last_result="" if last is None else last.result,
        )


class AdaptationShown:
    """``console.ports.AdaptationControl``."""

    def __init__(self, adapting: Adapting, policy: BundlePolicy) -> None:
        self._adapting, self._policy = adapting, policy

    def status(self) -> Sequence[AdaptedShown]:
        return [
            AdaptedShown(
                rule=each.rule,
                subject=each.subject,
                action=each.action,
                level=each.level,
                steps=each.steps,
                ends_on=each.ends_on,
            )
            for each in self._adapting.loop.status()
        ]

    def rules(self) -> Sequence[RuleShown]:
        return [
            RuleShown(
                id=rule.id, for_each=rule.for_each, description=rule.description, then=rule.then, steps=rule.steps
            )
            for rule in self._policy.adaptation.rules
        ]

    async def tell(self, rule: str, subject: str, word: str, by: Principal) -> None:
        kind, _, name = subject.partition(":")
        if not await self._adapting.loop.tell(rule, Subject(kind, name), word, by.subject):
            raise NotFound("nothing_waits", "no rule waits for this word; somebody may have said it already")
