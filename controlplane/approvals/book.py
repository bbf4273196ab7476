"""Every question that stands, by its statement. MUST be used from one event loop; nothing here waits."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from controlplane.approvals.question import MILLI, Question, State, Word, question_of, word_of
from controlplane.approvals.settings import ApprovalSettings

GIVEN, REFUSED, USED = "approval.given", "approval.refused", "approval.used"
"""Kinds of ledger records. Who was asked what stands in the ``deny`` of the call that asked."""

LONGEST_S = 7 * 24 * 3600
"""No question and no answer stands for longer (policy sees to it), so that a start has only so much to read back."""


RolesOf = Callable[[str, str], Collection[str]]
"""The roles that a person holds in a tenant."""


class Crowded(Exception):
    """No more questions now; ``reason`` is a stable word."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class NotPossible(Exception):
    """This person cannot say that of this question; ``reason`` is a stable word, ``detail`` a sentence."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


class Record(Protocol):
    """``audit.Record``."""

    @property
    def index(self) -> int: ...
    @property
    def time_ms(self) -> int: ...
    @property
    def kind(self) -> str: ...
    @property
    def body(self) -> Mapping[str, Any]: ...


class Book:
    def __init__(self, settings: ApprovalSettings) -> None:
        self._settings = settings
        self._questions: dict[str, Question] = {}

    def standing(self, now_s: float) -> list[Question]:
        """All that wait or were answered, the oldest first; what is over is forgotten."""
        self._questions = {key: each for key, each in self._questions.items() if now_s < each.until_s}
        return sorted(self._questions.values(), key=lambda each: each.asked_s)

    def about(self, statement: str, now_s: float) -> Question | None:
        found = self._questions.get(statement)
        return found if found is not None and now_s < found.until_s else None

    def find(self, question_id: str, now_s: float) -> Question | None:
        return next((each for each in self.standing(now_s) if each.id == question_id), None)

    def ask(self, question: Question) -> None:
        """Raises ``Crowded``."""
        standing = self.standing(question.asked_s)
        if len(standing) >= self._settings.max_questions:
            raise Crowded("approvals_full")
        who = question.tenant, question.subject
        waiting = [each for each in standing if each.state is State.WAITING and (each.tenant, each.subject) == who]
        if len(waiting) >= self._settings.max_questions_per_agent:
            raise Crowded("too_many_questions")
        self._questions[question.statement] = question

    def require(self, question: Question, *, by: str, delegated: bool, roles: Iterable[str]) -> tuple[str, ...]:
        """The roles for which this person may speak here. Raises ``NotPossible``."""
        if question.state is State.REFUSED:
            raise NotPossible("already_refused", "somebody has refused it; the agent may ask again when that is over")
        if delegated:
            raise NotPossible("delegated", "an approval is a person's own: a token that acts for somebody gives none")
        if by == question.subject or by in question.chain:
            raise NotPossible("own_call", "nobody approves a call of their own")
        spoken_for = tuple(sorted({each.role for each in question.approvers} & set(roles)))
        if not spoken_for:
            wanted = " or ".join(each.role for each in question.approvers)
            raise NotPossible("not_an_approver", f"this takes somebody who holds {wanted}")
        return spoken_for

    def hear(self, question_id: str, word: Word) -> Question | None:
        """What the question has become; None where it has been used or is over meanwhile. The newest word of a person
        is the one that counts."""
        current = self.find(question_id, word.at_s)
        if current is None:
            return None
        others = tuple(each for each in current.words if each.by != word.by)
        heard = replace(current, words=(*others, word))
        self._questions[heard.statement] = heard
        return heard

    def recount(self, statement: str, roles_of: RolesOf) -> None:
        """Leave out what people agreed to for roles that they hold no longer. A no stays a no. What waits again and
        cannot be shown any more is forgotten: it has to be asked anew.
        """
        found = self._questions.get(statement)
        if found is None:
            return
        counted = tuple(word.within(roles_of(found.tenant, word.by)) for word in found.words)
        left = replace(found, words=tuple(word for word in counted if word.roles or not word.approves))
        if found.state is not left.state and not left.shown:
            del self._questions[statement]
        else:
            self._questions[statement] = left

    def take(self, statement: str, now_s: float) -> Question | None:
        """The approval, for one call: nobody else gets it. None where it is not approved."""
        found = self.about(statement, now_s)
        if found is None or found.state is not State.APPROVED:
            return None
        return self._questions.pop(statement)

    def put_back(self, question: Question) -> None:
        """It was not used after all."""
        self._questions.setdefault(question.statement, question)

    def recall(self, records: Iterable[Record]) -> None:
        """What people said before this process: records of the three kinds, the oldest first.

        What still waits is left out: nobody can be shown any more what would go out, so the agent has to ask again.
        Raises what ``question_of`` raises.
        """
        over: set[str] = set()
        for record in records:
            said = record.body["approval"]
            if record.kind == USED:
                over.add(said["id"])
                self._questions = {key: each for key, each in self._questions.items() if each.id != said["id"]}
                continue
            if said["id"] in over:
                continue  # the last word came when the approval had been used
            word = word_of(said, approves=record.kind == GIVEN, at_s=record.time_ms / MILLI, index=record.index)
            if self.find(said["id"], word.at_s) is None:
                question = question_of(said)
                self._questions[question.statement] = question
            self.hear(said["id"], word)
        self._questions = {key: each for key, each in self._questions.items() if each.state is not State.WAITING}
