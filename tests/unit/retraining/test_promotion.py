from __future__ import annotations

import json
import random
from collections.abc import Iterator

from controlplane.retraining.promotion import PromotionGate, Ruling, resumed_gate


def pairs(seed: int, champion: float, challenger: float, rows: int) -> Iterator[tuple[int, int]]:
    """Both models err on the same hard rows more often than chance: a shared draw for three rows in five."""
    chance = random.Random(seed)
    for _ in range(rows):
        one = chance.random()
        other = one if chance.random() < 0.6 else chance.random()
        yield int(one < champion), int(other < challenger)


def rulings(champion: float, challenger: float, seeds: int = 100, rows: int = 3_000) -> list[Ruling]:
    return [
        PromotionGate(undecided_rows=rows).update_all(pairs(seed, champion, challenger, rows)) for seed in range(seeds)
    ]


def test_a_clearly_better_challenger_is_promoted_soon() -> None:
    for seed in range(20):
        gate = PromotionGate()
        assert gate.update_all(pairs(seed, 0.58, 0.34, 5_000)) is Ruling.PROMOTE
        assert gate.rows < 300


def test_an_equal_challenger_is_hardly_ever_promoted() -> None:
    assert rulings(0.17, 0.17).count(Ruling.PROMOTE) <= 2


def test_a_worse_challenger_is_never_promoted_and_refused_early() -> None:
    found = rulings(0.17, 0.30)
    assert set(found) == {Ruling.REFUSE_WORSE}
    gate = PromotionGate()
    gate.update_all(pairs(1, 0.17, 0.30, 5_000))
    assert gate.rows < 1_000


def test_what_cannot_be_decided_is_refused_in_the_end() -> None:
    gate = PromotionGate(undecided_rows=50)
    assert gate.update_all([(1, 1)] * 49) is Ruling.OPEN
    assert gate.update(0, 0) is Ruling.REFUSE_UNDECIDED


def test_a_ruling_is_final() -> None:
    gate = PromotionGate()
    assert gate.update_all([(1, 0)] * 100) is Ruling.PROMOTE
    rows = gate.rows
    assert gate.update_all([(0, 1)] * 1_000) is Ruling.PROMOTE
    assert gate.rows == rows


def test_a_resumed_gate_rules_at_the_same_row() -> None:
    stream = list(pairs(3, 0.24, 0.17, 5_000))
    whole = PromotionGate()
    whole.update_all(stream)
    cut = PromotionGate()
    cut.update_all(stream[: whole.rows // 2])
    again = resumed_gate(json.loads(json.dumps(cut.snapshot())))
    again.update_all(stream[whole.rows // 2 :])
    assert again.snapshot() == whole.snapshot()


def test_the_evidence_is_fit_for_the_ledger() -> None:
    gate = PromotionGate()
    gate.update_all([(1, 0)] * 100)
    assert all(isinstance(value, int | str) for value in gate.evidence().values())
    assert gate.evidence()["champion_errors"] == gate.rows
