from __future__ import annotations

import pytest

from controlplane.drift.ring import ObservationRing


def test_reader_gets_every_item_once_in_order() -> None:
    ring: ObservationRing[str] = ObservationRing(10)
    for letter in "abcde":
        ring.append(letter)
    first, lost = ring.after(0, 2)
    assert (first, lost) == ([(1, "a"), (2, "b")], 0)
    rest, lost = ring.after(2, 100)
    assert ([letter for _, letter in rest], lost) == (["c", "d", "e"], 0)
    assert ring.after(5, 100) == ([], 0)


def test_a_reader_that_is_too_slow_learns_how_many_it_lost() -> None:
    ring: ObservationRing[int] = ObservationRing(3)
    for number in range(1, 8):
        ring.append(number)
    assert ring.after(2, 100) == ([(5, 5), (6, 6), (7, 7)], 2)
    assert ring.overwritten == 4


def test_a_sequence_number_of_an_earlier_life_starts_again_with_the_oldest() -> None:
    ring: ObservationRing[int] = ObservationRing(3)
    ring.append(1)
    assert ring.after(999, 10) == ([(1, 1)], 0)


def test_the_ring_keeps_the_very_object_and_does_not_copy() -> None:
    ring: ObservationRing[bytes] = ObservationRing(3)
    body = b"x" * 1000
    ring.append(body)
    ((_, kept),), _ = ring.after(0, 1)
    assert kept is body


def test_a_ring_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        ObservationRing(0)


def test_what_is_forgotten_before_its_turn_is_lost_once() -> None:
    ring: ObservationRing[int] = ObservationRing(3)
    assert ring.forget_oldest() is None
    for number in (1, 2, 3):
        ring.append(number)
    assert (ring.forget_oldest(), ring.forget_oldest(), len(ring)) == (1, 2, 1)
    assert ring.after(0, 10) == ([(3, 3)], 2)
    ring.append(4)
    ring.append(5)
    assert (ring.after(3, 10), ring.overwritten, len(ring)) == (([(4, 4), (5, 5)], 0), 2, 3)
    ring.append(6)
    assert (ring.after(0, 10), ring.overwritten) == (([(4, 4), (5, 5), (6, 6)], 3), 3)
    assert [ring.forget_oldest() for _ in range(4)] == [4, 5, 6, None]
    assert ring.after(6, 10) == ([], 0)
