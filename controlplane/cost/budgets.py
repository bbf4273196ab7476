"""Budgets: money is held back before a call goes out, and settled when it is known what the call cost.

A held amount counts as spent at once, so that calls at the same time cannot spend the same money twice; settling takes
back what was too much. Whatever dies in between leaves too much spent and never too little, until the window ends.
Windows are calendar hours, days and months in UTC.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol

from msgspec import Struct

YEAR_MONTHS = 12
DAY_S = 86_400
SWEEP_INTERVAL_S = 1.0


class Account(Struct, frozen=True):
    """Whose spending in which window. ``who`` is a subject or a team, "" for a tenant; ``since_s`` are Unix seconds."""

    key: str
    tenant: str
    who: str
    per: str
    name: str
    since_s: int

    @property
    def until_s(self) -> int:
        return window_of(self.per, self.since_s)[1]


class Limit(Struct, frozen=True):
    account: Account
    max_micro_usd: int


class Held(Struct, frozen=True):
    """What is held back for one call, on each of these accounts."""

    accounts: tuple[Account, ...]
    micro_usd: int


class Exhausted(Struct, frozen=True):
    """No room: which limit, and what its account had spent."""

    limit: Limit
    spent_micro_usd: int


class BudgetUse(Struct, frozen=True):
    """What a limit that was met lately holds; ``spent_micro_usd`` includes what is held back."""

    limit: Limit
    spent_micro_usd: int

    @property
    def ratio(self) -> float:
        limit = self.limit.max_micro_usd
        return self.spent_micro_usd / limit if limit else float(self.spent_micro_usd > 0)


class BudgetStore(Protocol):
    async def hold(self, limits: Sequence[Limit], micro_usd: int, now_s: float) -> Exhausted | Sequence[int]:
        """Add to every account or to none. The sums after it, in order, or the first limit without room.

        Raises ``BudgetsUnavailable`` when it cannot be told.
        """
        ...

    def add(self, accounts: Sequence[Account], micro_usd: int) -> None:
        """Correct by an amount, mostly less than nothing. MUST NOT raise and MUST NOT block; happens soon."""
        ...

    async def raise_to(self, spent: Mapping[Account, int]) -> None:
        """Let no account hold less than this; how sums come back after a start."""
        ...


class BudgetsUnavailable(Exception):
    """It cannot be told what is left; ``reason`` is a stable word."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def window_of(per: str, now_s: float) -> tuple[int, int]:
    """First second of the window and of the next one, Unix seconds. Raises ``ValueError`` for a word unknown."""
    match per:
        case "hour":
            since = int(now_s) // 3600 * 3600
            return since, since + 3600
        case "day":
            since = int(now_s) // DAY_S * DAY_S
            return since, since + DAY_S
        case "month":
            return _month_of(int(now_s) // DAY_S)
        case _:
            raise ValueError(f"no window {per!r}")


@lru_cache(maxsize=64)
def _month_of(day: int) -> tuple[int, int]:
    begin = datetime.fromtimestamp(day * DAY_S, UTC).replace(day=1)
    year, month = (begin.year + 1, 1) if begin.month == YEAR_MONTHS else (begin.year, begin.month + 1)
    return int(begin.timestamp()), int(begin.replace(year=year, month=month).timestamp())


@dataclass(slots=True)
class _Sweep:
    """When to look for windows that have ended: not on every call, for it looks at all of them."""

    swept_at_s: float = float("-inf")

    def is_due(self, now_s: float) -> bool:
        if abs(now_s - self.swept_at_s) < SWEEP_INTERVAL_S:  # a clock that was set back must not end it
            return False
        self.swept_at_s = now_s
        return True


class MemoryBudgets:
    """Sums of this process. Pure; keeps windows that have not ended, and refuses newcomers beyond its bound."""

    def __init__(self, max_accounts: int) -> None:
        self._max_accounts = max_accounts
        self._spent: dict[Account, int] = {}
        self._sweep = _Sweep()

    def __len__(self) -> int:
        return len(self._spent)

    async def hold(self, limits: Sequence[Limit], micro_usd: int, now_s: float) -> Exhausted | Sequence[int]:
        for limit in limits:
            spent = self._spent.get(limit.account, 0)
            if micro_usd > 0 and spent + micro_usd > limit.max_micro_usd:
                return Exhausted(limit, spent)
        if not self._has_room(limits):
            self._forget_ended(now_s)
            if not self._has_room(limits):
                raise BudgetsUnavailable("too_many_accounts")
        for limit in limits:
            self._spent[limit.account] = self._spent.get(limit.account, 0) + micro_usd
        return [self._spent[limit.account] for limit in limits]

    def add(self, accounts: Sequence[Account], micro_usd: int) -> None:
        for account in accounts:
            if account in self._spent:
                self._spent[account] += micro_usd

    async def raise_to(self, spent: Mapping[Account, int]) -> None:
        for account, micro_usd in spent.items():
            self._spent[account] = max(micro_usd, self._spent.get(account, 0))

    def _has_room(self, limits: Sequence[Limit]) -> bool:
        if len(self._spent) + len(limits) <= self._max_accounts:
            return True
        new = sum(limit.account not in self._spent for limit in limits)
        return not new or len(self._spent) + new <= self._max_accounts

    def _forget_ended(self, now_s: float) -> None:
        if self._sweep.is_due(now_s):
            self._spent = {account: spent for account, spent in self._spent.items() if account.until_s > now_s}


Warned = Callable[[BudgetUse], None]
"""Told once for each window in which a budget's use passes the share to warn of."""


@dataclass(slots=True)
class Budgets:
    """What the gateway asks. ``uses`` are the limits met by calls through this process, in windows not yet ended."""

    store: BudgetStore
    warn_ratio: float
    warned: Warned = lambda _use: None
    max_uses: int = 100_000
    _uses: dict[Account, BudgetUse] = field(default_factory=dict)
    _told: set[Account] = field(default_factory=set)
    _kinds: dict[tuple[str, str], None] = field(default_factory=dict)
    _sweep: _Sweep = field(default_factory=_Sweep)

    async def hold(self, limits: Sequence[Limit], micro_usd: int, now_s: float) -> Held | Exhausted:
        """Raises ``BudgetsUnavailable``."""
        answer = await self.store.hold(limits, micro_usd, now_s)
        if isinstance(answer, Exhausted):
            self._note(answer.limit, answer.spent_micro_usd, now_s)
            self._warn(BudgetUse(answer.limit, answer.spent_micro_usd))
            return answer
        for limit, spent in zip(limits, answer, strict=True):
            self._note(limit, spent, now_s)
        return Held(tuple(limit.account for limit in limits), micro_usd)

    def settle(self, held: Held, micro_usd: int) -> None:
        """The call cost this much after all; 0 for one that never went out."""
        self.store.add(held.accounts, micro_usd - held.micro_usd)
        for account in held.accounts:
            use = self._uses.get(account)
            if use is not None:
                spent = use.spent_micro_usd + micro_usd - held.micro_usd
                self._uses[account] = use = BudgetUse(use.limit, spent)
                self._warn(use)

    def uses(self, now_s: float) -> list[BudgetUse]:
        return [use for account, use in self._uses.items() if account.until_s > now_s]

    def fullest(self, now_s: float) -> Mapping[tuple[str, str], float]:
        """The largest share used of the budgets of each kind, by (tenant, ``subject/day``); 0 where they have ended."""
        for account in self._uses:
            self._kinds.setdefault((account.tenant, f"{account.key}/{account.per}"))
        fullest = dict.fromkeys(self._kinds, 0.0)
        for use in self.uses(now_s):
            account = use.limit.account
            kind = (account.tenant, f"{account.key}/{account.per}")
            fullest[kind] = max(fullest[kind], use.ratio)
        return fullest

    def _note(self, limit: Limit, spent: int, now_s: float) -> None:
        if len(self._uses) >= self.max_uses and limit.account not in self._uses and self._sweep.is_due(now_s):
            self._uses = {account: use for account, use in self._uses.items() if account.until_s > now_s}
            self._told &= self._uses.keys()
        if len(self._uses) < self.max_uses or limit.account in self._uses:
            self._uses[limit.account] = BudgetUse(limit, spent)

    def _warn(self, use: BudgetUse) -> None:
        account = use.limit.account
        if use.ratio >= self.warn_ratio and account not in self._told:
            self._told.add(account)
            self.warned(use)
