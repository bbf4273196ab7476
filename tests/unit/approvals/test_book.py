"""Questions to people: what they become, how long they stand, and that an approval is used once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from audit.entry import canonical
from controlplane.approvals import ApprovalSettings, Approver, Book, Crowded, NotPossible, Question, State, Word
from controlplane.approvals.book import GIVEN, REFUSED, USED
from controlplane.approvals.question import word_facts

T = 1_800_000_000.0
TTL_S = 600
BOSS = (Approver("boss", 1),)


def a_question(number: int = 1, *, approvers: tuple[Approver, ...] = BOSS, **fields: Any) -> Question:
    return Question(
        **{
            "id": f"call-{number}",
            "statement": f"statement-{number}",
            "tenant": "acme",
            "subject": "agent:seven",
            "chain": ("agent:helper",),
            "action": "call",
            "resource": "/tool/refund",
            "operation": "call",
            "rules": (("support.refund", "roles/support.yaml:4"),),
            "approvers": approvers,
            "ttl_s": TTL_S,
            "asked_s": T,
            "shown": "{}",
            **fields,
        }
    )


def yes(by: str = "ada", at_s: float = T + 1, *roles: str) -> Word:
    return Word(by=by, roles=roles or ("boss",), approves=True, at_s=at_s, reason="it is fine", index=7)


def no(by: str = "bob", at_s: float = T + 2) -> Word:
    return Word(by=by, roles=("boss",), approves=False, at_s=at_s, reason="it is not", index=8)


def a_book(*questions: Question, **settings: int) -> Book:
    book = Book(ApprovalSettings(**settings))
    for question in questions:
        book.ask(question)
    return book


def state_of(book: Book, number: int = 1, now_s: float = T + 3) -> State | None:
    found = book.about(f"statement-{number}", now_s)
    return None if found is None else found.state


def test_one_yes_approves_and_one_no_refuses_whoever_else_agreed() -> None:
    book = a_book(a_question())
    assert state_of(book) is State.WAITING
    book.hear("call-1", yes())
    assert state_of(book) is State.APPROVED
    refused = book.hear("call-1", no("ada"))
    assert refused is not None
    assert (refused.state, dict(refused.missing())) == (State.REFUSED, {"boss": 1})


def test_every_role_needs_its_own_number_of_different_people() -> None:
    book = a_book(a_question(approvers=(Approver("boss", 2), Approver("legal", 1))))
    book.hear("call-1", yes("ada"))
    heard = book.hear("call-1", yes("ada", T + 2))
    assert heard is not None
    assert dict(heard.missing()) == {"boss": 1, "legal": 1}
    book.hear("call-1", yes("bob", T + 3, "boss", "legal"))
    assert state_of(book, now_s=T + 4) is State.APPROVED


def test_an_approval_is_taken_once_and_by_nobody_before_it_is_one() -> None:
    book = a_book(a_question())
    assert book.take("statement-1", T) is None
    book.hear("call-1", yes())
    taken = book.take("statement-1", T + 3)
    assert taken is not None
    assert book.take("statement-1", T + 3) is None
    book.put_back(taken)
    assert book.take("statement-1", T + 3) == taken


def test_a_word_that_comes_after_the_use_brings_nothing_back() -> None:
    book = a_book(a_question())
    book.hear("call-1", yes("ada"))
    assert book.take("statement-1", T + 3)
    assert book.hear("call-1", yes("bob", T + 4)) is None
    assert book.take("statement-1", T + 5) is None


def test_the_question_stands_for_its_time_and_then_so_does_the_answer() -> None:
    book = a_book(a_question())
    assert state_of(book, now_s=T + TTL_S - 1) is State.WAITING
    book.hear("call-1", yes(at_s=T + TTL_S - 1))
    assert state_of(book, now_s=T + 2 * TTL_S - 2) is State.APPROVED
    assert book.take("statement-1", T + 2 * TTL_S - 1) is None
    assert book.standing(T + 2 * TTL_S - 1) == []


def test_half_an_answer_does_not_make_the_question_stand_longer() -> None:
    book = a_book(a_question(approvers=(Approver("boss", 2),)))
    book.hear("call-1", yes(at_s=T + TTL_S - 1))
    assert state_of(book, now_s=T + TTL_S) is None
    assert book.hear("call-1", yes("bob", T + TTL_S)) is None


def test_an_agent_cannot_fill_the_inbox() -> None:
    book = a_book(a_question(1), a_question(2), max_questions=4, max_questions_per_agent=2)
    with pytest.raises(Crowded) as refused:
        book.ask(a_question(3))
    assert refused.value.reason == "too_many_questions"
    for number, who in ((4, "agent:eight"), (5, "agent:nine")):
        book.ask(a_question(number, subject=who))
    with pytest.raises(Crowded) as refused:
        book.ask(a_question(6, subject="agent:ten"))
    assert refused.value.reason == "approvals_full"
    book.ask(a_question(7, subject="agent:ten", asked_s=T + TTL_S))


def test_answered_questions_do_not_keep_an_agent_from_asking() -> None:
    book = a_book(a_question(1), max_questions_per_agent=1)
    book.hear("call-1", yes())
    book.ask(a_question(2))


@pytest.mark.parametrize(
    ("who", "reason"),
    [
        ({"by": "agent:seven"}, "own_call"),
        ({"by": "agent:helper"}, "own_call"),
        ({"delegated": True}, "delegated"),
        ({"roles": ["desk"]}, "not_an_approver"),
        ({"roles": []}, "not_an_approver"),
    ],
)
def test_who_cannot_speak(who: dict[str, Any], reason: str) -> None:
    book = a_book(a_question())
    with pytest.raises(NotPossible) as refused:
        book.require(a_question(), **{"by": "ada", "delegated": False, "roles": ["boss"]} | who)
    assert refused.value.reason == reason


def test_what_somebody_refused_nobody_approves() -> None:
    book = a_book(a_question())
    refused = book.hear("call-1", no())
    assert refused is not None
    with pytest.raises(NotPossible) as error:
        book.require(refused, by="ada", delegated=False, roles=["boss"])
    assert error.value.reason == "already_refused"


def test_a_person_speaks_for_the_roles_that_are_asked_for() -> None:
    question = a_question(approvers=(Approver("boss", 1), Approver("legal", 1)))
    book = a_book(question)
    assert book.require(question, by="ada", delegated=False, roles=["legal", "boss", "desk"]) == ("boss", "legal")


@dataclass(frozen=True)
class Recorded:
    kind: str
    body: dict[str, Any]
    index: int = 0
    time_ms: int = int(T * 1000) + 5_000


@dataclass
class Past:
    """What a ledger would hold of what was said."""

    records: list[Recorded] = field(default_factory=list)

    def said(self, question: Question, word: Word) -> None:
        body = {"approval": {**question.facts(), **word_facts(word)}}
        canonical(body)
        self.records.append(Recorded(GIVEN if word.approves else REFUSED, body))

    def used(self, question: Question) -> None:
        self.records.append(Recorded(USED, {"approval": {"id": question.id, "statement": question.statement}}))

    def book(self) -> Book:
        book = Book(ApprovalSettings())
        book.recall(self.records)
        return book


def test_a_start_knows_what_was_said_and_not_used() -> None:
    past = Past()
    past.said(a_question(1), yes())
    past.said(a_question(2), no())
    past.said(a_question(3), yes())
    past.used(a_question(3))
    past.said(a_question(3), yes("bob"))  # it came too late
    book = past.book()
    assert [state_of(book, number, T + 6) for number in (1, 2, 3)] == [State.APPROVED, State.REFUSED, None]
    taken = book.take("statement-1", T + 6)
    assert taken is not None
    assert (taken.id, taken.chain, taken.rules, taken.shown) == (
        "call-1",
        ("agent:helper",),
        (("support.refund", "roles/support.yaml:4"),),
        "",
    )


def test_after_a_start_nobody_agrees_to_what_they_cannot_be_shown() -> None:
    past = Past()
    past.said(a_question(approvers=(Approver("boss", 2),)), yes())
    assert past.book().standing(T + 6) == []


def test_what_waits_again_after_a_start_is_asked_anew() -> None:
    """Its approver lost the role, and what would go out was known to the process before."""
    past = Past()
    past.said(a_question(), yes())
    book = past.book()
    book.recount("statement-1", lambda _tenant, _person: ("boss",))
    assert state_of(book, 1, T + 6) is State.APPROVED
    book.recount("statement-1", lambda _tenant, _person: ())
    assert state_of(book, 1, T + 6) is None


def test_what_is_asked_again_after_its_use_is_another_question() -> None:
    past = Past()
    past.said(a_question(1), yes())
    past.used(a_question(1))
    again = a_question(1, id="call-9")
    past.said(again, yes())
    assert state_of(past.book(), 1, T + 6) is State.APPROVED
    past.used(again)
    assert state_of(past.book(), 1, T + 6) is None
