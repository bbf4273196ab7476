"""Who waits, and whose turn it is: priorities first, within one priority agents in turn. Pure.

Deficit round robin over seconds of service: a turn is worth the mean of a call, whoever used more pays with his next
turns, whoever used less has some left. An agent joins at the end of the round, so nobody can keep another waiting by
bringing more calls, longer ones or more agents. Debts are forgotten when the line is empty: there is nothing to share.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

PRIORITIES = 10
LEAST_URGENT = PRIORITIES - 1
DEBT_LIMIT = 8  # turns that one agent may owe: what keeps a round finite
LEAST_CHARGE = 1 / 16  # of a turn: however short his calls, an agent has so many in one turn at most
COST_LEARNT = 0.25  # how much of an agent's cost his newest call decides
ACCOUNTS_KEPT = 10_000

Agent = tuple[str, str]
"""Tenant and subject: the same name in another tenant is somebody else."""


class Standing(StrEnum):
    WAITING = "waiting"
    ADMITTED = "admitted"
    SHED = "shed"
    GONE = "gone"  # the caller hung up


def _nobody(_: Ticket) -> None:
    """Nobody asks."""


@dataclass(slots=True, eq=False)
class Ticket:
    """One call in the line. ``settled`` is told once, when it is admitted or shed; ``cause`` says why it was shed."""

    agent: Agent
    priority: int
    expires_s: float
    settled: Callable[[Ticket], None] = _nobody
    standing: Standing = Standing.WAITING
    cause: str = ""
    retry_after_s: float = 0.0
    charged_s: float = 0.0


Queue = OrderedDict[Ticket, None]


@dataclass(slots=True)
class Account:
    """Seconds of service that an agent may still use in this turn (or owes), and what a call of his costs."""

    credit_s: float
    cost_s: float


class WaitingLine:
    """``turn_s`` is what one turn is worth: whoever holds the line keeps it near the mean time of a call."""

    __slots__ = ("_accounts", "_length", "_levels", "turn_s")

    def __init__(self) -> None:
        self.turn_s = 1.0
        self._levels: tuple[OrderedDict[Agent, Queue], ...] = tuple(OrderedDict() for _ in range(PRIORITIES))
        self._accounts: dict[Agent, Account] = {}
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def add(self, ticket: Ticket) -> None:
        self._levels[ticket.priority].setdefault(ticket.agent, OrderedDict())[ticket] = None
        self._length += 1

    def remove(self, ticket: Ticket) -> None:
        """Take out a ticket that waits."""
        level = self._levels[ticket.priority]
        queue = level[ticket.agent]
        del queue[ticket]
        if not queue:
            del level[ticket.agent]
            self._leaves(ticket.agent)
        self._length -= 1
        if not self._length:
            self._accounts.clear()

    def next(self, least_urgent: int = LEAST_URGENT) -> Ticket | None:
        """Whose turn it is among priorities up to ``least_urgent``; taken out and charged."""
        for level in self._levels[: least_urgent + 1]:
            if level:
                return self._take(level)
        return None

    def last(self, joining: Ticket) -> Ticket:
        """Who has to go if ``joining`` comes too: of the least urgent, the newest of whoever has most calls there."""
        for priority in range(LEAST_URGENT, joining.priority, -1):
            if level := self._levels[priority]:
                most: Queue = max(level.values(), key=len)
                return next(reversed(most))
        level = self._levels[joining.priority]
        if level:
            most = max(level.values(), key=len)
            if len(most) > len(level.get(joining.agent, ())) + 1:
                return next(reversed(most))
        return joining

    def ahead_of(self, priority: int) -> int:
        """How many are before the next call of ``priority``, if nobody more urgent comes."""
        return sum(len(queue) for level in self._levels[: priority + 1] for queue in level.values())

    def settle(self, agent: Agent, charged_s: float, took_s: float) -> None:
        """A call that was charged ``charged_s`` for took ``took_s``."""
        account = self._accounts.get(agent)
        if account is None:
            return
        took_s = max(took_s, LEAST_CHARGE * self.turn_s)
        account.cost_s += (took_s - account.cost_s) * COST_LEARNT
        self._change(account, charged_s - took_s)

    def _take(self, level: OrderedDict[Agent, Queue]) -> Ticket:
        while True:
            agent, queue = next(iter(level.items()))
            account = self._accounts.setdefault(agent, Account(0.0, self.turn_s))
            if account.credit_s <= 0:
                self._change(account, self.turn_s)
            if account.credit_s > 0:
                break
            level.move_to_end(agent)
        ticket = next(iter(queue))
        ticket.charged_s = max(account.cost_s, LEAST_CHARGE * self.turn_s)
        self._change(account, -ticket.charged_s)
        if account.credit_s <= 0:
            level.move_to_end(agent)
        self.remove(ticket)
        return ticket

    def _change(self, account: Account, by_s: float) -> None:
        account.credit_s = min(self.turn_s, max(-DEBT_LIMIT * self.turn_s, account.credit_s + by_s))

    def _leaves(self, agent: Agent) -> None:
        """Credit is for those who wait; debts stay."""
        if len(self._accounts) > ACCOUNTS_KEPT:
            self._accounts.clear()
        elif (account := self._accounts.get(agent)) is not None:
            account.credit_s = min(account.credit_s, 0.0)
