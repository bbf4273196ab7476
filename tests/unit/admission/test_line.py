"""Whose turn it is: urgent calls first, agents in turn, seconds of service shared alike."""

from __future__ import annotations

from collections import Counter

import pytest

from controlplane.admission.line import Agent, Ticket, WaitingLine

GREEDY, MODEST = ("acme", "greedy"), ("acme", "modest")


def ticket(agent: Agent = GREEDY, priority: int = 5) -> Ticket:
    return Ticket(agent, priority, expires_s=1e9)


def line_of(*tickets: Ticket) -> WaitingLine:
    line = WaitingLine()
    for one in tickets:
        line.add(one)
    return line


def taken(line: WaitingLine) -> list[Ticket]:
    found = []
    while one := line.next():
        found.append(one)
    return found


def test_most_urgent_go_first_and_equals_in_order_of_arrival() -> None:
    late, early, urgent, least = ticket(), ticket(), ticket(priority=0), ticket(priority=9)
    assert taken(line_of(least, early, late, urgent)) == [urgent, early, late, least]


def test_one_call_waits_behind_one_call_of_a_thousand() -> None:
    many, one = [ticket() for _ in range(1000)], ticket(MODEST)
    assert taken(line_of(*many, one)).index(one) == 1


def test_same_name_in_another_tenant_is_another_agent() -> None:
    mine, theirs = [ticket(("acme", "a")) for _ in range(5)], ticket(("globex", "a"))
    assert taken(line_of(*mine, theirs)).index(theirs) == 1


def test_seconds_of_service_are_shared_not_calls() -> None:
    """One agent's calls take ten times as long; with the other waiting all the time each gets half of the server."""
    line = line_of(*[ticket(GREEDY) for _ in range(2000)], *[ticket(MODEST) for _ in range(2000)])
    line.turn_s, took_s = 2.0, {GREEDY: 5.0, MODEST: 0.5}
    used: Counter[Agent] = Counter()
    for _ in range(1500):
        one = line.next()
        assert one is not None
        line.settle(one.agent, one.charged_s, took_s[one.agent])
        used[one.agent] += took_s[one.agent]
    assert used[GREEDY] == pytest.approx(used[MODEST], rel=0.1)


def test_debt_of_an_endless_call_is_bounded() -> None:
    line = line_of(*[ticket(GREEDY) for _ in range(100)], *[ticket(MODEST) for _ in range(100)])
    first = line.next()
    assert first is not None
    line.settle(GREEDY, first.charged_s, 1e9)
    order = [one.agent for one in taken(line)]
    assert order.index(GREEDY) <= 9


def test_credit_cannot_be_hoarded() -> None:
    line = line_of(*[ticket(GREEDY) for _ in range(100)], *[ticket(MODEST) for _ in range(100)])
    for _ in range(20):
        one = line.next()
        assert one is not None
        line.settle(one.agent, one.charged_s, 0.0)
    order = [one.agent for one in taken(line)]
    assert MODEST in order[:17]
    assert GREEDY in order[:17]


def test_who_gives_up_is_taken_out_wherever_he_stands() -> None:
    first, second, third = ticket(), ticket(), ticket()
    line = line_of(first, second, third)
    line.remove(second)
    assert len(line) == 2
    assert taken(line) == [first, third]


@pytest.mark.parametrize(
    ("waiting", "joining", "goes"),
    [
        ([(GREEDY, 5), (GREEDY, 9), (GREEDY, 9)], (MODEST, 5), 2),  # the newest of the least urgent
        ([(GREEDY, 5), (GREEDY, 3)], (MODEST, 9), None),  # whoever joins is the least urgent himself
        ([(GREEDY, 5)], (MODEST, 5), None),  # equals: the newest
        ([(GREEDY, 5), (GREEDY, 5), (MODEST, 5)], (MODEST, 5), None),  # two each with it: the newest
        ([(GREEDY, 5), (GREEDY, 5), (GREEDY, 5)], (MODEST, 5), 2),  # who has most gives way to who has none
        ([(GREEDY, 5), (GREEDY, 5)], (GREEDY, 5), None),
        ([(GREEDY, 0), (MODEST, 0)], (MODEST, 9), None),
    ],
)
def test_least_urgent_newest_of_the_greediest_goes(
    waiting: list[tuple[Agent, int]], joining: tuple[Agent, int], goes: int | None
) -> None:
    tickets, newcomer = [ticket(*one) for one in waiting], ticket(*joining)
    assert line_of(*tickets).last(newcomer) is (newcomer if goes is None else tickets[goes])


def test_only_those_urgent_enough_are_called() -> None:
    ordinary, urgent = ticket(), ticket(priority=2)
    line = line_of(ordinary, urgent)
    assert line.next(2) is urgent
    assert line.next(2) is None
    assert line.next() is ordinary


def test_calls_ahead_are_those_as_urgent_or_more() -> None:
    line = line_of(ticket(priority=1), ticket(priority=5), ticket(priority=9))
    assert [line.ahead_of(priority) for priority in (0, 1, 5, 9)] == [0, 1, 2, 3]
