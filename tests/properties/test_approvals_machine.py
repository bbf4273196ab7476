"""Whatever people say, in whichever order, with restarts between: a call goes out only on an approval of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from controlplane.approvals import ApprovalSettings, Approver, Book, NotPossible, Question, Word
from controlplane.approvals.book import GIVEN, REFUSED, USED
from controlplane.approvals.question import word_facts

PEOPLE = ("ada", "bob", "agent:seven")
ROLES = ("boss", "legal")
STATEMENTS = ("pay 5", "pay 500")
TTL_S = 600


@dataclass(frozen=True)
class Recorded:
    kind: str
    body: dict[str, Any]
    index: int
    time_ms: int


class Approving(RuleBasedStateMachine):
    """An agent that asks and repeats, people who come and go, a process that is started anew."""

    @initialize(needed=st.sampled_from(({"boss": 1}, {"boss": 2}, {"boss": 1, "legal": 1})))
    def begin(self, needed: dict[str, int]) -> None:
        self.approvers = tuple(Approver(role, people) for role, people in needed.items())
        self.roles = {who: frozenset(ROLES) for who in PEOPLE}
        self.now_s, self.asked = 1_800_000_000.0, 0
        self.records: list[Recorded] = []
        self.used: dict[str, Question] = {}
        self.book = Book(ApprovalSettings())

    def roles_of(self, tenant: str, person: str) -> frozenset[str]:
        assert tenant == "acme"
        return self.roles[person]

    @rule(statement=st.sampled_from(STATEMENTS))
    def call(self, statement: str) -> None:
        """As ``KeepApprovals`` does: use an approval, or ask."""
        self.book.recount(statement, self.roles_of)
        taken = self.book.take(statement, self.now_s)
        if taken is None:
            if self.book.about(statement, self.now_s) is None:
                self.asked += 1
                self.book.ask(self.question(f"call-{self.asked}", statement))
            return
        self.require_agreement(taken)
        assert taken.id not in self.used
        self.used[taken.id] = taken
        self.record(USED, {"id": taken.id, "statement": statement})

    def require_agreement(self, taken: Question) -> None:
        """What the records say, and nothing that the book remembers."""
        said = [one for one in self.records if one.kind != USED and one.body["approval"]["id"] == taken.id]
        newest = {one.body["approval"]["by"]: one for one in said}
        assert all(one.kind == GIVEN for one in newest.values())
        assert "agent:seven" not in newest
        assert all(one.body["approval"]["statement"] == taken.statement for one in said)
        for approver in self.approvers:
            agreed = [who for who, one in newest.items() if approver.role in one.body["approval"]["roles"]]
            assert sum(approver.role in self.roles[who] for who in agreed) >= approver.people
        assert max(one.time_ms for one in said) > (self.now_s - TTL_S) * 1000

    @rule()
    def everybody_agrees(self) -> None:
        for who in PEOPLE:
            self.answer(who, approves=True)

    @rule(who=st.sampled_from(PEOPLE), approves=st.booleans())
    def answer(self, who: str, approves: bool) -> None:
        """As the desk does: refused, or on record and then heard."""
        standing = self.book.standing(self.now_s)
        if not standing:
            return
        question = standing[0]
        try:
            roles = self.book.require(question, by=who, delegated=False, roles=self.roles[who])
        except NotPossible:
            return
        word = Word(by=who, roles=roles, approves=approves, at_s=self.now_s, reason="why", index=len(self.records))
        self.record(GIVEN if approves else REFUSED, {**question.facts(), **word_facts(word)})
        assert self.book.hear(question.id, word) is not None

    @precondition(lambda self: self.used)
    @rule()
    def agree_too_late(self) -> None:
        """The approval was used while this word was on its way to the ledger."""
        question = list(self.used.values())[-1]
        word = Word(by="bob", roles=ROLES, approves=True, at_s=self.now_s, reason="why", index=len(self.records))
        self.record(GIVEN, {**question.facts(), **word_facts(word)})
        assert self.book.hear(question.id, word) is None

    @rule(who=st.sampled_from(PEOPLE), roles=st.frozensets(st.sampled_from(ROLES)))
    def move(self, who: str, roles: frozenset[str]) -> None:
        self.roles[who] = roles

    @rule(seconds=st.sampled_from((1.0, TTL_S / 2, TTL_S - 1.0, TTL_S + 1.0)))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    @rule()
    def restart(self) -> None:
        self.book = Book(ApprovalSettings())
        self.book.recall(self.records)

    def question(self, name: str, statement: str) -> Question:
        return Question(
            id=name,
            statement=statement,
            tenant="acme",
            subject="agent:seven",
            chain=(),
            action="call",
            resource="/tool/refund",
            operation="call",
            rules=(),
            approvers=self.approvers,
            ttl_s=TTL_S,
            asked_s=self.now_s,
            shown=statement,
        )

    def record(self, kind: str, said: dict[str, Any]) -> None:
        self.records.append(Recorded(kind, {"approval": said}, len(self.records), int(self.now_s * 1000)))


TestApproving = Approving.TestCase
TestApproving.settings = settings(max_examples=300, stateful_step_count=30)
