"""Nobody speaks for everybody."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.drift.seats import Seats


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 120)), max_size=60))
def test_no_principal_has_more_than_its_share_of_any_block(calls: list[tuple[str, int]]) -> None:
    seats, came, blocks = Seats(5, 50, 200), 0, [Counter[str]()]
    for principal, rows in calls:
        seated = set(seats.take(principal, rows))
        assert seated <= set(range(rows))
        for row in range(rows):
            if came == 200 or blocks[-1].total() == 50:
                blocks.append(Counter())
                came = 0
            came += 1
            blocks[-1][principal] += row in seated
    assert all(count <= 5 for block in blocks for count in block.values())
    assert all(block.total() <= 50 for block in blocks)


def test_one_principal_of_many_gets_a_tenth_at_most() -> None:
    """The attack that was seen to work without it: one row in seven from one who wants a retraining."""
    seats, counted = Seats(5, 50, 200), Counter[str]()
    for number in range(7_000):
        principal = "attacker" if number % 7 == 0 else f"agent-{number % 23}"
        counted[principal] += len(seats.take(principal, 1))
    assert counted["attacker"] <= 0.1 * (counted.total() + 50)


def test_a_single_principal_is_heard_all_the_same() -> None:
    seats = Seats(5, 50, 200)
    assert sum(len(seats.take("only", 50)) for _ in range(40)) == 50


@pytest.mark.parametrize("cut", [0, 1, 7, 100])
def test_a_resumed_block_goes_on(cut: int) -> None:
    calls = [(f"agent-{n % 4}", n % 9) for n in range(200)]
    whole, first, second = Seats(5, 50, 200), Seats(5, 50, 200), Seats(5, 50, 200)
    expected = [whole.take(*call) for call in calls]
    found = [first.take(*call) for call in calls[:cut]]
    second.resume(first.snapshot())
    assert found + [second.take(*call) for call in calls[cut:]] == expected
