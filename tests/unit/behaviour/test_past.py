"""What a real ledger and a file bring back after a restart."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import AsyncGenerator
from math import inf
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from audit import AuditSettings, AuditUnavailable, LedgerReader, SqliteLedger
from controlplane.behaviour import BehaviourSettings, Keeper, past
from controlplane.behaviour.agents import Agent, AgentKey
from controlplane.behaviour.past import load, read_back, save
from controlplane.calls import Call, Principal
from controlplane.gateway.recorder import LedgerRecorder
from tests.unit.behaviour.rig import ALLOW, REFUSED, TRACES, Rig, agent, bundle
from tests.unit.behaviour.test_sequences import LEAK


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncGenerator[SqliteLedger]:
    settings = AuditSettings(
        writer="thread",
        path=tmp_path / "ledger.sqlite",
        signing_key=tmp_path / "sign",
        commitment_key=tmp_path / "commit",
    )
    ledger = SqliteLedger(settings)
    await ledger.open()
    yield ledger
    await ledger.close()


async def write(ledger: SqliteLedger, rig: Rig, name: str, *, who: Principal | None = None, **more: Any) -> Call:
    call = rig.call(name, **more)
    await LedgerRecorder(ledger, lambda _: "k").record_intent(call, who or agent(), ALLOW)
    return call


def waking(served: Any, **settings: Any) -> Rig:
    rig = Rig(served, BehaviourSettings(**settings), past=None)
    rig.now_s = time.time()
    return rig


def keeper(rig: Rig, ledger: SqliteLedger, tmp_path: Path) -> Keeper:
    return Keeper(
        rig.settings, rig.watch, LedgerReader(tmp_path / "ledger.sqlite"), state=tmp_path, wall_clock=lambda: rig.now_s
    )


class Saving(Keeper):
    """Says when it has looked and saved."""

    def __init__(self, rig: Rig, folder: Path) -> None:
        ticks = iter(range(10**6))
        now_s = time.time()
        reader = LedgerReader(folder / "ledger.sqlite")
        super().__init__(rig.settings, rig.watch, reader, state=folder, wall_clock=lambda: now_s + next(ticks) / 1000)
        self.saved = anyio.Event()

    async def save_beside(self) -> None:
        await super().save_beside()
        self.saved.set()


async def test_a_restart_reads_who_did_what_in_which_run(ledger: SqliteLedger, tmp_path: Path) -> None:
    before = Rig(bundle())
    actor = Principal(subject="user:u", tenant="acme", chain=("agent:deputy", "agent:outer"))
    first = await write(ledger, before, "vault", run=4)
    await write(ledger, before, "look", who=actor)
    await LedgerRecorder(ledger, lambda _: "k").record_intent(before.call("mail"), agent(), REFUSED)
    await ledger.append("adaptation.transition", {"adaptation": {"rule": "x"}})
    happened, covered_s = await anyio.to_thread.run_sync(
        read_back, LedgerReader(tmp_path / "ledger.sqlite"), time.time() - 3600, 1000
    )
    assert covered_s == -inf
    assert [(one.agent, one.deed.path, one.run, one.session, one.is_admitted) for one in happened] == [
        ("agent:a", "/tool/vault", TRACES[4][3:35], None, True),
        ("agent:deputy", "/tool/look", "", None, True),
        ("agent:a", "/tool/mail", "", None, False),
    ]
    assert happened[0].call_id == first.id
    assert abs(happened[0].at_s - time.time()) < 60


async def test_a_blocked_sequence_stays_blocked_over_a_restart(ledger: SqliteLedger, tmp_path: Path) -> None:
    await write(ledger, Rig(bundle()), "vault")
    rig = waking(bundle(sequences=[LEAK]))
    assert rig.ask("mail") == "behaviour_state_unknown"
    await keeper(rig, ledger, tmp_path).begin()
    assert rig.ask("mail", who=agent(session="new")) == "behaviour_blocked"
    assert rig.ask("mail", who=agent("agent:b")) == "granted"


async def test_records_that_are_too_many_leave_their_time_unknown(ledger: SqliteLedger, tmp_path: Path) -> None:
    for _ in range(6):
        await write(ledger, Rig(bundle()), "look")
    rig = waking(bundle(sequences=[LEAK | {"within": "10m"}]), rebuild_records=3)
    await keeper(rig, ledger, tmp_path).begin()
    assert rig.ask("mail") == "behaviour_state_unknown"
    rig.now_s += 601
    assert rig.ask("mail") == "granted"


async def test_what_is_too_old_to_matter_is_not_read(ledger: SqliteLedger, tmp_path: Path) -> None:
    await write(ledger, Rig(bundle()), "vault")
    happened, covered_s = await anyio.to_thread.run_sync(
        read_back, LedgerReader(tmp_path / "ledger.sqlite"), time.time() + 3600, 1000
    )
    assert (happened, covered_s) == ([], -inf)


async def test_a_ledger_that_cannot_be_read_leaves_the_rule_refusing_until_it_can(
    ledger: SqliteLedger, tmp_path: Path
) -> None:
    class Shut(LedgerReader):
        is_shut = True

        def head(self) -> Any:
            if self.is_shut:
                raise AuditUnavailable("io_error")
            return super().head()

    rig, reader = waking(bundle(sequences=[LEAK])), Shut(tmp_path / "ledger.sqlite")
    watching = Keeper(rig.settings, rig.watch, reader, state=tmp_path, wall_clock=lambda: rig.now_s)
    await watching.begin()
    assert rig.ask("mail") == "behaviour_state_unknown"
    reader.is_shut = False
    await watching.rebuild()
    assert rig.ask("mail") == "granted"


async def test_rules_that_a_reload_brings_are_given_their_past_while_calls_go_on(
    ledger: SqliteLedger, tmp_path: Path
) -> None:
    await write(ledger, Rig(bundle()), "vault")
    rig = waking(bundle(), check_s=0.001, save_s=0.001)
    watching = Saving(rig, tmp_path)
    await watching.begin()
    rig.served = bundle(sequences=[LEAK])
    assert rig.ask("mail") == "behaviour_state_unknown"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watching.keep)
        with anyio.fail_after(60):
            await watching.saved.wait()
        tasks.cancel_scope.cancel()
    assert rig.ask("mail") == "behaviour_blocked"
    assert (tmp_path / "behaviour.json").exists()


async def test_calls_go_on_while_rates_are_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rig, called = Rig(bundle(rates=[{"id": "rate.habit"}])), threading.Event()
    rig.ask("look")

    def slow(agents: list[tuple[AgentKey, Agent]], path: Path) -> None:
        assert called.wait(10), "nobody could call meanwhile"
        save(agents, path)

    monkeypatch.setattr(past, "save", slow)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(Saving(rig, tmp_path).save_beside)
        await anyio.lowlevel.checkpoint()
        assert rig.ask("look") == "granted"
        called.set()
    assert (tmp_path / "behaviour.json").exists()


def test_learnt_rates_survive_and_a_broken_file_teaches_nothing(tmp_path: Path) -> None:
    rates = {"rates": [{"id": "rate.habit"}]}
    rig, again = Rig(bundle(**rates)), Rig(bundle(**rates))
    for _ in range(50):
        rig.ask("look")
        rig.now_s += 30
    path = tmp_path / "state" / "behaviour.json"
    save(rig.watch.agents(), path)
    load(again.watch, path, again.now_s)
    ((_, known),) = again.watch.agents()
    ((_, learnt),) = rig.watch.agents()
    assert known.rates["rate.habit"].hours == learnt.rates["rate.habit"].hours
    for broken in ("", "[]", '{"rates.0": []}', json.dumps({"rates.2": [["a", "b", "c", [1, 2]]]}), '{"rates.2": 7}'):
        path.write_text(broken)
        fresh = Rig(bundle(**rates))
        load(fresh.watch, path, 0.0)
        assert fresh.watch.agents() == []
