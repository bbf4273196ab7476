"""What the console shows of agents' behaviour, and what people say of them: ours in the shape of the console's ports.

Their words are ``console.change`` records; a start reads those of the last thirty days, and no word holds longer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from audit import LedgerReader, Record
from controlplane.behaviour import Oversight
from controlplane.behaviour.past import first_since
from controlplane.behaviour.said import LONGEST_WORD_S, Word
from controlplane.behaviour.standing import Standing
from controlplane.console.agent_words import BLOCK, LIFT
from controlplane.console.behaviour_views import BY_HAND, AgentWord, HeldAgent, LeftAlone
from controlplane.console.changes import CHANGE

PAGE = 1000
ORDER = ("block", "step_up", "throttle")


@dataclass(frozen=True, slots=True)
class BehaviourDesk:
    """``console.behaviour_views.BehaviourControl``."""

    oversight: Oversight
    wall_clock: Callable[[], float]

    def held(self) -> Sequence[HeldAgent]:
        now_s = self.now_s()
        by_hand = [_blocked(one) for one in self.oversight.words(now_s) if one.what == "block"]
        found = [*by_hand, *(_held(one) for one in self.oversight.standing(now_s))]
        return sorted(found, key=lambda one: (ORDER.index(one.answer), -one.since_s))

    def left_alone(self) -> Sequence[LeftAlone]:
        return [_alone(one) for one in self.oversight.words(self.now_s()) if one.what == "lift"]

    def unknown_rules(self) -> int:
        return self.oversight.unknown_rules(self.now_s())

    def knows(self, rule: str) -> bool:
        return rule == BY_HAND or self.oversight.rule(rule) is not None

    def now_s(self) -> float:
        return self.wall_clock()

    def lift(self, word: AgentWord, index: int) -> None:
        self._heed("lift", word, index)

    def block(self, word: AgentWord, index: int) -> None:
        self._heed("block", word, index)

    def _heed(self, what: str, word: AgentWord, index: int) -> None:
        now_s = self.now_s()
        said = Word(
            what="block" if what == "block" else "lift",
            agent=(word.tenant, word.agent),
            rule=word.rule,
            at_s=now_s,
            until_s=word.until_s,
            by=word.by,
            reason=word.reason,
            index=index,
        )
        self.oversight.heed(said, now_s)


def words_in(reader: LedgerReader, now_s: float) -> list[Word]:
    """What people have said that may still hold, oldest first. Blocking; raises ``AuditUnavailable``."""
    records = _records(reader, first_since(reader, now_s - LONGEST_WORD_S, reader.head().size) - 1)
    return [_word(one) for one in records if one.body["change"]["what"] in (LIFT, BLOCK)]


def _records(reader: LedgerReader, after: int) -> Iterator[Record]:
    while records := reader.read(after, PAGE, kinds=[CHANGE]):
        yield from records
        after = records[-1].index


def _word(record: Record) -> Word:
    said = record.body["change"]
    return Word(
        what="block" if said["what"] == BLOCK else "lift",
        agent=(said["agent_tenant"], said["agent"]),
        rule=said["rule"],
        at_s=record.time_ms / 1000,
        until_s=said["until_ms"] / 1000,
        by=said["by"],
        reason=said["reason"],
        index=record.index,
    )


def _blocked(word: Word) -> HeldAgent:
    tenant, agent = word.agent
    return HeldAgent(
        tenant=tenant,
        agent=agent,
        answer="block",
        rule=word.rule,
        source=word.source,
        description="Blocked by a person.",
        sort="operator",
        since_s=word.at_s,
        until_s=word.until_s,
        by=word.by,
        reason=word.reason,
    )


def _held(one: Standing) -> HeldAgent:
    tenant, agent = one.agent
    return HeldAgent(
        tenant=tenant,
        agent=agent,
        answer=one.answer,
        rule=one.rule.id,
        source=one.rule.source,
        description=one.description,
        sort=one.sort,
        scope=one.scope,
        since_s=one.since_s,
        until_s=one.until_s,
        times=one.times,
        call_id=one.call_id,
        facts=one.facts,
    )


def _alone(word: Word) -> LeftAlone:
    tenant, agent = word.agent
    return LeftAlone(
        tenant=tenant,
        agent=agent,
        rule=word.rule,
        since_s=word.at_s,
        until_s=word.until_s,
        by=word.by,
        reason=word.reason,
    )
