"""Budgets: no call without room, all accounts or none, and a window that ends."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import ClassVar

import pytest

from controlplane.cost import Account, Budgets, BudgetUse, Exhausted, Held, Limit, MemoryBudgets
from controlplane.cost.budgets import DAY_S, BudgetsUnavailable, window_of

NOW = datetime(2026, 11, 21, 13, 45, 7, tzinfo=UTC).timestamp()
DAY, _ = window_of("day", NOW)


def account(who: str = "agent:a", key: str = "subject", since_s: int = DAY) -> Account:
    return Account(key, "acme", who, "day", "", since_s)


def limits(*most: int) -> list[Limit]:
    return [Limit(account(f"agent:{number}"), each) for number, each in enumerate(most)]


@pytest.mark.parametrize(
    ("per", "since", "until"),
    [
        ("hour", datetime(2026, 11, 21, 13, tzinfo=UTC), datetime(2026, 11, 21, 14, tzinfo=UTC)),
        ("day", datetime(2026, 11, 21, tzinfo=UTC), datetime(2026, 11, 22, tzinfo=UTC)),
        ("month", datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC)),
    ],
)
def test_windows_are_of_the_calendar(per: str, since: datetime, until: datetime) -> None:
    assert window_of(per, NOW) == (since.timestamp(), until.timestamp())


def test_december_ends_with_the_year() -> None:
    assert (
        window_of("month", datetime(2026, 12, 31, 23, tzinfo=UTC).timestamp())[1]
        == datetime(2027, 1, 1, tzinfo=UTC).timestamp()
    )


async def test_money_is_held_on_all_accounts_or_on_none() -> None:
    budgets = Budgets(MemoryBudgets(10), 0.8)
    assert await budgets.hold(limits(100, 50), 40, NOW) == Held(tuple(each.account for each in limits(100, 50)), 40)
    refused = await budgets.hold(limits(100, 50), 20, NOW)
    assert refused == Exhausted(limits(100, 50)[1], 40)
    assert isinstance(await budgets.hold(limits(100), 60, NOW), Held), "the refused call burnt nothing on the first"
    assert isinstance(await budgets.hold(limits(100), 1, NOW), Exhausted)


async def test_settling_takes_back_what_was_too_much_and_giving_back_all_of_it() -> None:
    budgets = Budgets(MemoryBudgets(10), 0.8)
    for cost in (10, 0):
        held = await budgets.hold(limits(100), 90, NOW)
        assert isinstance(held, Held)
        budgets.settle(held, cost)
    assert isinstance(await budgets.hold(limits(100), 90, NOW), Held)
    assert isinstance(await budgets.hold(limits(100), 1, NOW), Exhausted)


async def test_a_call_that_cost_more_than_was_held_is_spent_all_the_same() -> None:
    budgets = Budgets(MemoryBudgets(10), 0.8)
    held = await budgets.hold(limits(100), 10, NOW)
    assert isinstance(held, Held)
    budgets.settle(held, 130)
    assert await budgets.hold(limits(100), 1, NOW) == Exhausted(limits(100)[0], 130)
    assert isinstance(await budgets.hold(limits(100), 0, NOW), Held), "what is free needs no room"


async def test_calls_at_the_same_time_cannot_spend_the_same_money() -> None:
    budgets = Budgets(MemoryBudgets(10), 0.8)
    answers = [await budgets.hold(limits(100), 30, NOW) for _ in range(10)]
    assert sum(isinstance(each, Held) for each in answers) == 3


async def test_the_next_window_begins_with_nothing_spent() -> None:
    budgets = Budgets(MemoryBudgets(10), 0.8)
    await budgets.hold([Limit(account(), 10)], 10, NOW)
    tomorrow = Limit(account(since_s=DAY + 86400), 10)
    assert isinstance(await budgets.hold([tomorrow], 10, NOW + 86400), Held)


async def test_newcomers_beyond_the_bound_are_refused_until_windows_end() -> None:
    store = MemoryBudgets(2)
    await store.hold(limits(9, 9), 1, NOW)
    with pytest.raises(BudgetsUnavailable):
        await store.hold([Limit(account("agent:new"), 9)], 1, NOW)
    await store.hold([Limit(account("agent:new", since_s=DAY + 86400), 9)], 1, NOW + 86400)
    assert len(store) == 1


class Watched(Account, frozen=True):
    looks: ClassVar[list[str]] = []

    @property
    def until_s(self) -> int:
        self.looks.append(self.who)
        return super().until_s


async def test_full_house_does_not_look_at_everybody_with_every_call() -> None:
    """A hundred thousand accounts took 40 ms of the event loop, for those who have one too."""
    store, known = MemoryBudgets(20), [Limit(Watched("subject", "t", str(n), "day", "", DAY), 9) for n in range(20)]
    budgets = Budgets(store, 0.8, max_uses=10)

    async def ask(limit: Limit, now_s: float) -> str:
        try:
            return type(await budgets.hold([limit], 0, now_s)).__name__
        except BudgetsUnavailable as error:
            return error.reason

    for limit in known:
        assert await ask(limit, NOW) == "Held"
    Watched.looks.clear()
    newcomer = Limit(Watched("subject", "t", "new", "day", "", DAY), 9)
    for number in range(100):
        assert await ask(known[number % 20], NOW + 2) == "Held"
        assert await ask(newcomer, NOW + 2) == "too_many_accounts"
    assert len(Watched.looks) <= 20 + 10, "once for the accounts, once for what is shown of them"
    assert await ask(newcomer, NOW - 3600) == "too_many_accounts", "a clock that was set back"
    assert await ask(Limit(Watched("subject", "t", "new", "day", "", DAY + 86400), 9), NOW + 86400) == "Held"


async def test_use_is_warned_of_once_a_window_when_it_is_known() -> None:
    told: list[BudgetUse] = []
    budgets = Budgets(MemoryBudgets(10), 0.8, told.append)
    for cost, warnings in ((70, 0), (9, 0), (1, 1), (5, 1)):
        held = await budgets.hold(limits(100), 10, NOW)
        assert isinstance(held, Held)
        budgets.settle(held, cost)
        assert len(told) == warnings
    assert (told[0].spent_micro_usd, told[0].ratio) == (80, 0.8)
    assert [use.spent_micro_usd for use in budgets.uses(NOW)] == [85]
    assert budgets.uses(NOW + 86400) == []
    assert budgets.fullest(NOW) == {("acme", "subject/day"): 0.85}
    assert budgets.fullest(NOW + 86400) == {("acme", "subject/day"): 0.0}, "or the board would show it for ever"


async def test_refusal_is_shown_and_warned_of_although_nothing_was_spent_through_this_process() -> None:
    store, warned = MemoryBudgets(10), list[BudgetUse]()
    await store.raise_to({account("agent:0"): 95})
    budgets = Budgets(store, 0.8, warned.append)
    assert isinstance(await budgets.hold(limits(100), 10, NOW), Exhausted)
    assert budgets.uses(NOW) == warned == [BudgetUse(limits(100)[0], 95)]


async def test_newcomer_beside_a_known_account_takes_one_place() -> None:
    store = MemoryBudgets(2)
    await store.hold(limits(100), 1, NOW)
    assert await store.hold(limits(100, 100), 1, NOW) == [2, 1]


async def test_uses_are_shown_within_a_bound_and_the_known_ones_stay_true() -> None:
    budgets = Budgets(MemoryBudgets(10), 0.8, max_uses=1)
    first, second = limits(100, 100)
    for limit in (first, second, first):
        await budgets.hold([limit], 10, NOW)
    assert budgets.uses(NOW) == [BudgetUse(first, 20)]
    tomorrow = NOW + DAY_S
    later = Limit(account("agent:1", since_s=DAY + DAY_S), 100)
    await budgets.hold([later], 10, tomorrow)
    assert budgets.uses(tomorrow) == [BudgetUse(later, 10)]


def test_window_of_no_known_word_is_an_error() -> None:
    with pytest.raises(ValueError, match="week"):
        window_of("week", NOW)


async def test_sums_come_back_after_a_start_and_never_lower_what_is_there() -> None:
    store = MemoryBudgets(10)
    await store.raise_to({account(): 70})
    await store.raise_to({account(): 50})
    assert await store.hold([Limit(account(), 100)], 40, NOW) == Exhausted(Limit(account(), 100), 70)
