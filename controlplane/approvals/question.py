"""One question to people, and what they have said of it so far. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

MILLI = 1000


class State(StrEnum):
    WAITING = "waiting"
    APPROVED = "approved"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Approver:
    """So many people who hold a role must agree."""

    role: str
    people: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """What one person said; ``roles`` are those of the approvers that the person spoke for."""

    by: str
    roles: tuple[str, ...]
    approves: bool
    at_s: float
    reason: str
    index: int  # in the ledger; -1 until it is there

    def placed(self, index: int) -> Word:
        return replace(self, index=index)

    def within(self, roles: Collection[str]) -> Word:
        """The same word for those of its roles alone."""
        return replace(self, roles=tuple(role for role in self.roles if role in roles))


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """``id`` is the call that was refused because nobody had approved it yet; ``statement`` what exactly it wanted.

    ``shown`` is what would go out, for people to read; never stored, so "" after a restart. Wall seconds.
    """

    id: str
    statement: str
    tenant: str
    subject: str
    chain: tuple[str, ...]
    action: str
    resource: str
    operation: str
    rules: tuple[tuple[str, str], ...]  # id and where it stands
    approvers: tuple[Approver, ...]
    ttl_s: int
    asked_s: float
    shown: str = ""
    words: tuple[Word, ...] = ()

    @property
    def state(self) -> State:
        """One person's no is enough; a yes takes as many people of each role as policy asks for."""
        if any(not word.approves for word in self.words):
            return State.REFUSED
        return State.WAITING if any(self.missing().values()) else State.APPROVED

    @property
    def until_s(self) -> float:
        """Each step lasts as long as policy says: the question, and then the answer to it."""
        since_s = self.asked_s if self.state is State.WAITING else max(word.at_s for word in self.words)
        return since_s + self.ttl_s

    def missing(self) -> Mapping[str, int]:
        """How many people of each role have not agreed yet."""
        return {each.role: max(0, each.people - self._agreed(each.role)) for each in self.approvers}

    def _agreed(self, role: str) -> int:
        return len({word.by for word in self.words if word.approves and role in word.roles})

    def facts(self) -> dict[str, Any]:
        """As a record of what was said of it tells it: enough to know it again after a restart."""
        return {
            "id": self.id,
            "statement": self.statement,
            "tenant": self.tenant,
            "subject": self.subject,
            "chain": list(self.chain),
            "action": self.action,
            "resource": self.resource,
            "operation": self.operation,
            "rules": [{"id": name, "source": source} for name, source in self.rules],
            "approvers": approver_facts(self.approvers),
            "ttl_s": self.ttl_s,
            "asked_ms": int(self.asked_s * MILLI),
        }


def approver_facts(approvers: Sequence[Approver]) -> list[dict[str, Any]]:
    return [{"by": each.role, "people": each.people} for each in approvers]


def question_of(facts: Mapping[str, Any]) -> Question:
    """The other way round. Raises ``KeyError``, ``TypeError`` or ``ValueError`` for what are not such facts."""
    return Question(
        id=str(facts["id"]),
        statement=str(facts["statement"]),
        tenant=str(facts["tenant"]),
        subject=str(facts["subject"]),
        chain=tuple(facts["chain"]),
        action=str(facts["action"]),
        resource=str(facts["resource"]),
        operation=str(facts["operation"]),
        rules=tuple((each["id"], each["source"]) for each in facts["rules"]),
        approvers=approvers_in(facts["approvers"]),
        ttl_s=int(facts["ttl_s"]),
        asked_s=facts["asked_ms"] / MILLI,
    )


def word_facts(word: Word) -> dict[str, Any]:
    """``approves``, ``at_s`` and ``index`` are the record's own: its kind, its time, its place."""
    return {"by": word.by, "roles": list(word.roles), "reason": word.reason}


def word_of(facts: Mapping[str, Any], *, approves: bool, at_s: float, index: int) -> Word:
    roles = tuple(facts["roles"])
    return Word(by=facts["by"], roles=roles, approves=approves, at_s=at_s, reason=facts["reason"], index=index)


def approvers_in(said: Sequence[Mapping[str, Any]]) -> tuple[Approver, ...]:
    """Raises ``ValueError`` for nobody: what nobody must agree to would be agreed to at once."""
    if not said:
        raise ValueError("no approvers")
    return tuple(Approver(str(each["by"]), int(each["people"])) for each in said)
