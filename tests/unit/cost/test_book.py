"""Sums from a real ledger: nothing twice, nothing lost, whoever reads it and however often it starts."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from audit import LedgerReader, Record
from controlplane.cost import Account
from controlplane.cost.book import CostBook
from controlplane.cost.budgets import window_of
from controlplane.cost.commands import costs
from tests.unit.cost.ledgers import ledger_settings, written

NOW = time.time()
TODAY = time.strftime("%Y-%m-%d", time.gmtime(NOW))
SINCE = window_of("month", NOW)[0]
ACCOUNT = Account("subject", "acme", "agent:a", "month", "", SINCE)
HELD = {
    "held_micro_usd": 500,
    "limits": [
        {"key": "subject", "who": "agent:a", "per": "month", "name": "", "since_s": SINCE, "max_micro_usd": 9_000}
    ],
}


def book(folder: Path, **more: Any) -> CostBook:
    return CostBook(LedgerReader(ledger_settings(folder).path), **more)


def totals(found: CostBook, *by: str, **more: Any) -> dict[tuple[str, ...], int]:
    return {tuple(getattr(row.key, part) for part in by): row.sums.micro_usd for row in found.report(by, **more)}


async def test_costs_are_summed_by_whatever_is_asked(tmp_path: Path) -> None:
    async with written(tmp_path) as ledger:
        await ledger.call(10)
        await ledger.call(20, agent="agent:b")
        await ledger.call(40, tenant="globex", model="/model/large")
        await ledger.call(80, model="/tool/refund")  # no model, no sum
    found = book(tmp_path)
    assert found.catch_up()
    assert totals(found, "tenant", "agent") == {
        ("acme", "agent:a"): 10,
        ("acme", "agent:b"): 20,
        ("globex", "agent:a"): 40,
    }
    assert totals(found, "model") == {("large",): 40, ("tiny",): 30}
    assert totals(found, "day") == {(TODAY,): 70}
    assert totals(found) == {(): 70}
    assert totals(found, tenants=["acme"]) == {(): 30}
    assert totals(found, tenants=[]) == {}
    assert totals(found, since=TODAY, until=TODAY) == {(): 70}
    assert totals(found, since="2999-01-01") == totals(found, until="1999-01-01") == {}


async def test_saved_lighter_estimated_and_unknown_calls_are_told_apart(tmp_path: Path) -> None:
    async with written(tmp_path) as ledger:
        tokens = {"in": 7, "out": 3, "cached": 2}
        await ledger.end(await ledger.begin(), 10, tokens=tokens, cost={"estimated": 1, "energy_uwh": 5})
        await ledger.end(await ledger.begin(), 0, rung="cached", tokens=tokens, cost={"saved_micro_usd": 10})
        await ledger.end(await ledger.begin(), 4, rung="lighter", served_by="small/2")
        await ledger.end(await ledger.begin(), status="unknown")
    found = book(tmp_path)
    found.catch_up()
    (small, tiny) = found.report(["model"])
    assert (small.key.model, small.sums.calls, small.sums.micro_usd) == ("small", 1, 4)
    sums = tiny.sums
    assert (sums.calls, sums.micro_usd, sums.saved_micro_usd, sums.saved, sums.estimated) == (3, 10, 10, 1, 1)
    assert (sums.input_tokens, sums.output_tokens, sums.cached_tokens, sums.energy_uwh) == (7, 3, 2, 5)


async def test_a_run_of_many_calls_has_its_sum_and_belongs_to_its_tenant(tmp_path: Path) -> None:
    run = "c" * 32
    async with written(tmp_path) as ledger:
        for cost in (1, 2, 4):
            await ledger.call(cost, run=run)
        await ledger.call(100, run=run, tenant="globex")
        await ledger.call(100)
    found = book(tmp_path)
    found.catch_up()
    sums = found.run("acme", run)
    assert sums is not None
    assert (sums.calls, sums.micro_usd) == (3, 7)
    assert found.run("acme", "d" * 32) is None


async def test_budgets_come_back_with_what_calls_cost_and_what_unended_ones_hold(tmp_path: Path) -> None:
    async with written(tmp_path) as ledger:
        await ledger.end(await ledger.begin(budget=HELD), 30)
        await ledger.end(await ledger.begin(budget=HELD), status="unknown")  # nobody knows: all that was held
        await ledger.begin(budget=HELD)
        found = book(tmp_path)
        found.catch_up()
        assert found.spent(NOW) == {ACCOUNT: 30 + 500 + 500}
        assert found.spent(ACCOUNT.until_s) == {}


async def test_a_call_that_died_with_the_gateway_keeps_what_it_held(tmp_path: Path) -> None:
    async with written(tmp_path) as ledger:
        await ledger.begin(budget=HELD)
    async with written(tmp_path):  # the next start closes the intent as unknown
        found = book(tmp_path)
        found.catch_up()
    assert found.spent(NOW) == {ACCOUNT: 500}


class Counting(LedgerReader):
    """Counts how often the file was looked into."""

    looks = 0

    def read(self, *args: Any, **more: Any) -> list[Record]:
        self.looks += 1
        return super().read(*args, **more)


async def test_who_is_told_of_every_record_reads_the_ledger_once_and_knows_the_same(tmp_path: Path) -> None:
    async with written(tmp_path) as ledger:
        await ledger.call(1, run="c" * 32)
        reader = Counting(ledger_settings(tmp_path).path)
        told = CostBook(reader, hears=True)
        ledger.ledger.listen(told.learn)
        await ledger.call(2)  # heard, and read as well
        assert told.catch_up()
        looks = reader.looks
        await ledger.end(await ledger.begin(budget=HELD), 30)
        await ledger.call(4, model="/tool/refund")
        await ledger.begin(budget=HELD)
        assert told.catch_up()
        assert reader.looks == looks
        read = book(tmp_path)
        read.catch_up()
        assert told.report(("day", "agent", "model")) == read.report(("day", "agent", "model"))
        assert told.spent(NOW) == read.spent(NOW) == {ACCOUNT: 530}
        assert told.index == read.index
        assert told.run("acme", "c" * 32) == read.run("acme", "c" * 32)


async def test_a_record_that_was_not_heard_is_read(tmp_path: Path) -> None:
    async with written(tmp_path) as ledger:
        told = book(tmp_path, hears=True)
        told.catch_up()
        await ledger.call(1)
        ledger.ledger.listen(told.learn)
        await ledger.call(2)
        assert totals(told) == {}, "there is a gap"
        assert told.catch_up()
        assert totals(told) == {(): 3}
        await ledger.call(4)
        assert totals(told) == {(): 7}, "complete again"


async def test_what_comes_while_the_book_is_in_use_is_taken_up_later(tmp_path: Path) -> None:
    async with written(tmp_path) as ledger:
        told = book(tmp_path, hears=True)
        told.catch_up()
        ledger.ledger.listen(told.learn)
        with told._lock:
            await ledger.call(1)  # would never end if it waited
        assert totals(told) == {}
        assert told.catch_up()
        assert totals(told) == {(): 1}


async def test_a_bounded_look_goes_on_where_the_last_one_ended(tmp_path: Path) -> None:
    async with written(tmp_path) as ledger:
        for _ in range(5):
            await ledger.call(1)
    found, looks = book(tmp_path), 0
    while not found.catch_up(3):
        looks += 1
    assert looks >= 3
    assert totals(found) == {(): 5}
    assert found.catch_up()
    assert totals(found) == {(): 5}, "nothing is counted twice"


async def test_a_snapshot_saves_reading_and_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "state" / "costs.json"
    async with written(tmp_path) as ledger:
        await ledger.call(1, run="c" * 32, budget=HELD)
        open_call = await ledger.begin(budget=HELD)
        first = book(tmp_path, file=file)
        first.catch_up()
        first.save()
        await ledger.end(open_call, 2)
        again, anew = book(tmp_path, file=file), book(tmp_path)
        assert again.index == first.index
        for each in (again, anew):
            each.catch_up()
    assert again.report(("day", "agent")) == anew.report(("day", "agent"))
    assert again.spent(NOW) == anew.spent(NOW) == {ACCOUNT: 3}
    assert again.run("acme", "c" * 32) == anew.run("acme", "c" * 32)


@pytest.mark.parametrize(
    "spoil", [b"", b"{", b'{"version":1,"index":0,"leaf_hash":"\xff"}'], ids=["another ledger", "no JSON", "no text"]
)
async def test_a_snapshot_of_something_else_is_not_believed(tmp_path: Path, spoil: bytes) -> None:
    file = tmp_path / "costs.json"
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        async with written(tmp_path / name) as ledger:
            await ledger.call(1 if name == "one" else 5)
    first = book(tmp_path / "one", file=file)
    first.catch_up()
    first.save()
    if spoil:
        file.write_bytes(spoil)
    found = book(tmp_path / "other", file=file)
    found.catch_up()
    assert totals(found) == {(): 5}


async def test_more_agents_than_rows_are_summed_together(tmp_path: Path) -> None:
    async with written(tmp_path) as ledger:
        for number in range(5):
            await ledger.call(1, agent=f"agent:{number}")
    found = book(tmp_path, max_rows=2)
    found.catch_up()
    assert totals(found, "agent") == {("_others",): 3, ("agent:0",): 1, ("agent:1",): 1}


async def test_the_command_prints_sums(tmp_path: Path) -> None:
    async with written(tmp_path) as ledger:
        await ledger.call(1_500_000)
        await ledger.call(1, tenant="globex")
    path = str(ledger_settings(tmp_path).path)
    shown = CliRunner().invoke(costs, ["--ledger", path, "--by", "tenant"])
    assert shown.exit_code == 0, shown.output
    assert [line.split()[:3] for line in shown.output.splitlines()[1:]] == [
        ["acme", "1", "1.500000"],
        ["globex", "1", "0.000001"],
    ]
    lines = CliRunner().invoke(costs, ["--ledger", path, "--by", "day,model", "--tenant", "acme", "--json"]).output
    assert json.loads(lines) == {
        "day": TODAY, "model": "tiny", "calls": 1, "micro_usd": 1_500_000, "saved_micro_usd": 0, "input_tokens": 0,
        "output_tokens": 0, "cached_tokens": 0, "energy_uwh": 0, "estimated": 0, "saved": 0,
    }  # fmt: skip
    assert CliRunner().invoke(costs, ["--ledger", path, "--by", "colour"]).exit_code == 2
