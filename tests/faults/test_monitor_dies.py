"""A monitor dies around every move and in every transaction: each death leaves the same story in the ledger."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.retraining.gateway_with_memory import Killed
from tests.unit.retraining.toy import HAPPY, ROWS, Toy, story, work


async def run_with_deaths(path: Path, toy: Toy, transactions: int = 10**9) -> int:
    """Live until done, starting again after each death; how often it died."""
    toy.calls(60, turned=False)
    toy.calls(100, turned=True)
    deaths = 0
    while True:
        monitor = toy.start(transactions)
        try:
            await work(toy, monitor)
        except Killed:
            deaths += 1
            transactions = 10**9
            continue
        finally:
            await monitor.close()
        return deaths


@pytest.mark.parametrize("number", range(1, len(HAPPY) + 1))
@pytest.mark.parametrize("moment", ["kill_before", "kill_after"])
async def test_a_kill_around_any_move_neither_repeats_nor_loses_it(tmp_path: Path, number: int, moment: str) -> None:
    toy = Toy(tmp_path)
    setattr(toy.gateway, moment, number)
    assert await run_with_deaths(tmp_path, toy) == 1
    assert await story(tmp_path, toy) == (HAPPY, ROWS * toy.gateway.calls)
    assert len(toy.trainer.jobs) == 1


async def test_a_kill_in_any_transaction_neither_repeats_nor_loses_anything(tmp_path: Path) -> None:
    number = 1
    while True:
        path = tmp_path / str(number)
        toy = Toy(path)
        deaths = await run_with_deaths(path, toy, number)
        assert await story(path, toy) == (HAPPY, ROWS * toy.gateway.calls), f"killed in transaction {number}"
        if not deaths:
            break
        number += 1
    assert number > len(HAPPY) * 2
