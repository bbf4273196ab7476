"""Where people answer what agents ask: the book of questions in the shape of the console's port.

A word counts once it is in the ledger, and a start reads there what was said in the last days. The questions
themselves are kept in memory alone: an agent whose question is lost asks again by repeating its call.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from audit import LedgerReader, LedgerReceipt, Record
from controlplane.approvals import Book, NotPossible, Question, Word
from controlplane.approvals.book import GIVEN, LONGEST_S, REFUSED, USED, RolesOf
from controlplane.approvals.question import word_facts
from controlplane.behaviour.past import first_since
from controlplane.calls import Principal
from controlplane.console.approval_views import QuestionShown, WordShown
from controlplane.console.ports import Append, ChangeFailed, ChangeRefused, NotAllowed, NotFound
from controlplane.policy import BundlePolicy
from controlplane.telemetry.metrics import Metrics

PAGE = 1000


@dataclass(frozen=True, slots=True)
class ApprovalDesk:
    """``console.approval_views.ApprovalControl``."""

    book: Book
    roles_of: RolesOf
    append: Append
    wall: Callable[[], float]
    metrics: Metrics

    def questions(self, reader: Principal) -> Sequence[QuestionShown]:
        standing = self.book.standing(self.wall())
        return [_shown(each, self._hindrance(each, reader)) for each in standing if each.tenant == reader.tenant]

    async def answer(self, question: str, by: Principal, reason: str, *, approves: bool) -> LedgerReceipt:
        now_s = self.wall()
        found = self.book.find(question, now_s)
        if found is None or found.tenant != by.tenant:
            raise NotFound(
                "unknown_question", "no such question stands that you may see; its time may be over, or it was used"
            )
        try:
            roles = self._roles(found, by)
        except NotPossible as error:
            refusal = ChangeRefused if error.reason == "already_refused" else NotAllowed
            raise refusal(error.reason, error.detail) from None
        word = Word(by=by.subject, roles=roles, approves=approves, at_s=now_s, reason=reason, index=-1)
        receipt = await self.append(GIVEN if approves else REFUSED, _record(found, word))
        self.metrics.observe_approval("given" if approves else "refused")
        if self.book.hear(question, word.placed(receipt.index)) is None:
            raise ChangeFailed("question_over", "recorded, and too late: it was used or over meanwhile")
        return receipt

    def _roles(self, question: Question, by: Principal) -> tuple[str, ...]:
        roles = self.roles_of(by.tenant, by.subject)
        return self.book.require(question, by=by.subject, delegated=bool(by.chain), roles=roles)

    def _hindrance(self, question: Question, reader: Principal) -> str:
        try:
            self._roles(question, reader)
        except NotPossible as error:
            return error.detail
        return ""


def roles_in(policy: BundlePolicy) -> RolesOf:
    """As the directory of the bundle in force has them."""

    def roles_of(tenant: str, person: str) -> Collection[str]:
        bundle = policy.bundle
        return () if bundle is None else bundle.directory.roles_of(tenant, person)

    return roles_of


def recall(book: Book, reader: LedgerReader, now_s: float) -> None:
    """Blocking; raises ``AuditUnavailable``."""
    book.recall(_records(reader, first_since(reader, now_s - LONGEST_S, reader.head().size) - 1))


def _records(reader: LedgerReader, after: int) -> Iterator[Record]:
    while records := reader.read(after, PAGE, kinds=[GIVEN, REFUSED, USED]):
        yield from records
        after = records[-1].index


def _record(question: Question, word: Word) -> Mapping[str, Any]:
    return {"approval": {**question.facts(), **word_facts(word)}}


def _shown(question: Question, hindrance: str) -> QuestionShown:
    words = [
        WordShown(
            by=word.by,
            roles=word.roles,
            approves=word.approves,
            at_s=word.at_s,
            reason=word.reason,
            ledger_index=word.index,
        )
        for word in question.words
    ]
    return QuestionShown(
        id=question.id,
        tenant=question.tenant,
        subject=question.subject,
        chain=question.chain,
        action=question.action,
        resource=question.resource,
        operation=question.operation,
        rules=question.rules,
        state=question.state.value,
        missing=question.missing(),
        words=tuple(words),
        asked_s=question.asked_s,
        until_s=question.until_s,
        shown=question.shown,
        hindrance=hindrance,
    )
