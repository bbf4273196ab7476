"""Holds come back after a restart, as the ledger tells them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from audit import AuditSettings, SqliteLedger
from controlplane.calls import Principal
from controlplane.console.changes import Changes, Wish
from controlplane.held import restore
from controlplane.resilience.breaker import State
from controlplane.resilience.breakers import Breakers
from controlplane.resilience.settings import BreakerSettings
from tests.unit.resilience.fakes import FakeClock

OPERATOR = Principal(subject="user:operator", tenant="acme", kind="user")
WISH = Wish(OPERATOR, "refunds twice")


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncGenerator[SqliteLedger]:
    paths = {name: tmp_path / name for name in ("path", "signing_key", "commitment_key")}
    found = SqliteLedger(AuditSettings(writer="thread", **paths))
    await found.open()
    yield found
    await found.close()


def new_breakers() -> Breakers:
    return Breakers(lambda _: BreakerSettings(), FakeClock(100.0))


def console(ledger: SqliteLedger, breakers: Breakers) -> Changes:
    return Changes(ledger.append, breakers, None)  # models are not asked


async def another_gateway_said(ledger: SqliteLedger, what: str, name: str, word: str, at_ms: int) -> None:
    body = {"what": what, "breaker": name, "word": word, "gateway": "b", "at_ms": at_ms}
    await ledger.append("breaker.shared", {"change": body})


@pytest.mark.parametrize("name", ["risk/2", "tool:refund", "mcp:shop"])
async def test_hold_of_a_person_outlives_the_process_with_who_and_why_on_record(
    ledger: SqliteLedger, name: str
) -> None:
    await console(ledger, new_breakers()).hold(name, WISH)
    breakers = new_breakers()
    said = restore(ledger, breakers, {})
    assert breakers.holds() == [(name, "operator")]
    assert said[name, "operator"].is_held
    (record,) = ledger.read(kinds=["console.change"])
    change = record.body["change"]
    assert (change["what"], change["breaker"], change["by"], change["reason"]) == (
        "breaker.hold",
        name,
        "user:operator",
        "refunds twice",
    )


async def test_released_hold_stays_released(ledger: SqliteLedger) -> None:
    changes = console(ledger, new_breakers())
    await changes.hold("tool:refund", WISH)
    await changes.release("tool:refund", WISH)
    breakers = new_breakers()
    said = restore(ledger, breakers, {})
    assert (breakers.holds(), said["tool:refund", "operator"].is_held) == ([], False)


async def test_breaker_of_a_tool_that_has_been_added_is_the_one_that_is_held(ledger: SqliteLedger) -> None:
    await console(ledger, new_breakers()).hold("tool:refund", WISH)
    breakers = new_breakers()
    restore(ledger, breakers, {})
    breaker = breakers.add("tool:refund", BreakerSettings())
    assert (breaker.state, breaker.holds) == (State.HELD, ("operator",))
    assert breakers.release("tool:refund", "operator")
    assert breaker.state is State.HALF_OPEN


async def test_what_another_gateway_decided_comes_back_too(ledger: SqliteLedger) -> None:
    await another_gateway_said(ledger, "breaker.hold", "risk/2", "operator", 5)
    await another_gateway_said(ledger, "breaker.hold", "risk/3", "operator", 5)
    await another_gateway_said(ledger, "breaker.release", "risk/3", "operator", 6)
    breakers = new_breakers()
    restore(ledger, breakers, {})
    assert breakers.holds() == [("risk/2", "operator")]


@pytest.mark.parametrize(("released_ms", "held"), [(99, True), (101, False)])
async def test_verdict_is_let_go_only_by_a_release_that_is_newer(
    ledger: SqliteLedger, released_ms: int, held: bool
) -> None:
    await another_gateway_said(ledger, "breaker.release", "risk/2", "drift", released_ms)
    breakers = new_breakers()
    breakers.hold("risk/2", "drift")
    restore(ledger, breakers, {"risk": 100})
    assert bool(breakers.holds()) is held


async def test_verdict_of_another_gateway_is_its_own_to_tell_again(ledger: SqliteLedger) -> None:
    await another_gateway_said(ledger, "breaker.hold", "risk/2", "drift", 5)
    breakers = new_breakers()
    restore(ledger, breakers, {})
    assert breakers.holds() == []


async def test_other_changes_are_passed_over(ledger: SqliteLedger) -> None:
    await ledger.append("console.change", {"change": {"what": "model.label", "model": "risk", "version": 2}})
    assert restore(ledger, new_breakers(), {}) == {}
