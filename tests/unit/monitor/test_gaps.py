"""When nobody watched, and that it is told once."""

from __future__ import annotations

import json
from itertools import count

from controlplane.monitor.client import Page
from controlplane.monitor.gaps import Gaps


def gaps() -> Gaps:
    numbers = count(1)
    return Gaps(60_000, key=lambda: f"g{next(numbers)}")


def page(lost: int = 0, boot: str = "b") -> Page:
    return Page([], 0, lost, boot)


def told(found: Gaps, now_ms: int) -> list[tuple[str, int, int, int]]:
    return [(each.reason, each.lost, each.from_ms, each.to_ms) for each in found.due(now_ms)]


def test_the_first_reading_of_all_is_no_gap() -> None:
    found = gaps()
    assert not found.saw(page(), "", 1_000)
    assert told(found, 100_000) == []


def test_what_was_overwritten_is_a_gap_since_the_last_reading() -> None:
    found = gaps()
    found.saw(page(), "", 1_000)
    assert found.saw(page(lost=7), "b", 9_000)
    assert told(found, 40_000) == [("overwritten", 7, 1_000, 9_000)]


def test_losses_that_go_on_are_one_gap_until_it_is_told() -> None:
    found = gaps()
    for second in range(1, 40):
        found.saw(page(lost=1), "b", second * 1_000)
    assert told(found, 40_000) == [("overwritten", 39, 1_000, 39_000)]
    found.saw(page(lost=1), "b", 41_000)
    assert told(found, 42_000) == [("overwritten", 39, 1_000, 39_000)], "and the next one not at once"
    assert [each[1] for each in told(found, 80_000)] == [39, 1]


def test_a_clock_that_is_set_back_keeps_no_gap_to_itself() -> None:
    found = gaps()
    found.saw(page(lost=1), "b", 90_000_000)
    assert len(told(found, 90_000_000)) == 1
    found.recorded(found.told[0])
    found.saw(page(lost=1), "b", 5_000_000)
    assert len(told(found, 5_000_000)) == 1


def test_another_life_of_the_gateway_lost_what_was_not_read_of_the_last() -> None:
    found = gaps()
    found.saw(page(), "", 1_000)
    assert found.saw(page(boot="other"), "b", 2_000)
    assert told(found, 40_000) == [("gateway_restarted", 0, 1_000, 2_000)]


def test_a_long_absence_is_a_gap_even_when_nothing_was_lost() -> None:
    found = gaps()
    found.saw(page(), "", 1_000)
    assert not found.saw(page(), "b", 61_000)
    assert found.saw(page(), "b", 121_001)
    assert told(found, 200_000) == [("monitor_away", 0, 61_000, 121_001)]


def test_gaps_of_two_kinds_are_two_gaps() -> None:
    found = gaps()
    found.saw(page(), "", 1_000)
    found.saw(page(boot="other"), "b", 2_000)
    found.saw(page(lost=4, boot="other"), "other", 3_000)
    assert [each[:2] for each in told(found, 40_000)] == [("gateway_restarted", 0), ("overwritten", 4)]


def test_a_killed_monitor_tells_the_same_gap_with_the_same_key() -> None:
    found, again = gaps(), gaps()
    found.saw(page(), "", 1_000)
    found.saw(page(lost=3), "b", 2_000)
    before = found.due(40_000)
    again.resume(json.loads(json.dumps(found.snapshot())))
    assert again.due(40_000) == before
    again.recorded(before[0])
    assert again.due(90_000) == []
