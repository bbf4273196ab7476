"""Playbooks on a real ledger; deeds on a real fleet with an embedded model server."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from audit import AuditUnavailable
from controlplane.playbook_deeds import FleetDeeds, run_command
from controlplane.playbook_settings import Playbook, PlaybookSettings
from controlplane.playbooks import DONE, RUN, DeedFailed, Fault, Playbooks
from controlplane.resilience.breaker import Verdict
from controlplane.shown import PlaybooksShown
from tests.unit.controlplane.rig import Rig, publish

OPEN = Fault("breaker_open", "risk", "risk/1")


def book(**said: Any) -> Playbook:
    whole = {"id": "heal", "model": "risk", "when": "breaker_open", "do": "switch", "dry_run": False, "for_s": 60}
    return Playbook.model_validate(whole | said)


@dataclass
class Day:
    """A clock, what is wrong, and what was done about it."""

    rig: Rig
    book: Playbook
    now_s: float = 1_800_000_000.0
    faults: list[Fault] = field(default_factory=list)
    done: list[Fault] = field(default_factory=list)
    breaks: bool = False
    told: list[tuple[str, str | int]] = field(default_factory=list)

    def observe_playbook(self, *, playbook: str, result: str) -> None:
        self.told.append((playbook, result))

    def observe_playbook_left(self, *, playbook: str, left: int) -> None:
        self.told.append((playbook, left))

    def __post_init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        self.playbooks = Playbooks(
            PlaybookSettings(playbooks=(self.book,)),
            self.rig.ledger,
            lambda: self.faults,
            {self.book.do: self.perform},
            lambda: self.now_s,
            lambda: self.now_s,
            self,
        )
        self.playbooks.resume()

    async def perform(self, book: Playbook, fault: Fault) -> None:
        assert len(self.runs()) == len(self.done) + 1, "recorded before the deed"
        assert book is self.book
        self.done.append(fault)
        if self.breaks:
            raise DeedFailed("command_failed")

    async def after(self, seconds: float) -> None:
        self.now_s += seconds
        await self.playbooks.turn()

    def runs(self) -> list[dict[str, Any]]:
        return [record.body["playbook"] for record in self.rig.ledger.read(kinds=[RUN])]

    def outcomes(self) -> list[str]:
        return [record.body["playbook"]["outcome"] for record in self.rig.ledger.read(kinds=[DONE])]


async def test_a_fault_that_lasts_gets_its_answer_once(rig: Rig) -> None:
    day = Day(rig, book())
    day.faults = [OPEN]
    await day.after(0)
    await day.after(59)
    assert day.done == []
    await day.after(1)
    await day.after(60)
    assert day.done == [OPEN]
    assert day.runs() == [
        {"id": "heal", "model": "risk", "subject": "risk/1", "when": "breaker_open", "do": "switch", "dry_run": 0}
    ]
    assert day.outcomes() == ["done"]


async def test_a_fault_that_comes_and_goes_has_to_last_anew(rig: Rig) -> None:
    day = Day(rig, book())
    for _ in range(10):
        day.faults = [OPEN]
        await day.after(40)
        day.faults = []
        await day.after(1)
    assert day.runs() == []


async def test_by_default_it_is_put_on_record_and_not_done(rig: Rig) -> None:
    day = Day(rig, book(dry_run=True, for_s=0))
    day.faults = [OPEN]
    await day.after(0)
    assert Playbook(id="x", model="m", when="canary_open", do="roll_back").dry_run
    assert (day.done, [run["dry_run"] for run in day.runs()]) == ([], [1])


async def test_no_more_than_so_many_times_a_day_and_not_without_a_pause(rig: Rig) -> None:
    day = Day(rig, book(for_s=0, per_day=3, pause_s=900))
    day.faults = [OPEN]
    for _ in range(60):
        await day.after(100)
    assert len(day.done) == 3
    await day.after(25 * 3600)
    assert len(day.done) == 4


async def test_every_run_is_counted_by_its_result_and_what_is_left_is_told(rig: Rig) -> None:
    day = Day(rig, book(for_s=0, per_day=2, pause_s=900))
    day.faults = [OPEN]
    await day.after(0)
    day.breaks = True
    await day.after(901)
    await day.after(901)
    assert day.told == [("heal", "done"), ("heal", 1), ("heal", "command_failed"), ("heal", 0), ("heal", 0)]
    await day.after(24 * 3600)
    assert day.told[-1] == ("heal", 1), "a day later two are given, and one is used"


async def test_what_people_see_of_a_playbook_outlives_the_process(rig: Rig) -> None:
    day = Day(rig, book(for_s=60, per_day=3), breaks=True)
    day.now_s = time.time()
    day.faults = [OPEN]
    view = lambda: PlaybooksShown(day.playbooks).status()[0]  # noqa: E731  of whichever process it is
    await day.after(0)
    await day.after(40)
    assert (view().lasting, view().last_at_ms, view().left) == ({"risk/1": 40.0}, None, 3)
    await day.after(30)
    before = view()
    assert (before.last_result, before.last_subject, before.left) == ("command_failed", "risk/1", 2)
    day.begin()
    after = view()
    assert (after.last_result, after.last_subject, after.left) == ("command_failed", "risk/1", 2)
    assert abs((after.last_at_ms or 0) - (before.last_at_ms or 0)) < 120_000
    assert after.lasting == {}


async def test_a_run_whose_process_died_is_shown_without_a_result(rig: Rig) -> None:
    day = Day(rig, book(for_s=0))
    day.now_s = time.time()
    said = {"id": "heal", "model": "risk", "subject": "risk/1", "when": "breaker_open", "do": "switch", "dry_run": 0}
    await rig.ledger.append(RUN, {"playbook": said})
    day.begin()
    assert PlaybooksShown(day.playbooks).status()[0].last_result == ""


async def test_a_dry_run_is_shown_as_one(rig: Rig) -> None:
    day = Day(rig, book(dry_run=True, for_s=0))
    day.now_s = time.time()
    day.faults = [OPEN]
    await day.after(0)
    assert day.told == [("heal", "dry_run"), ("heal", 2)]
    day.begin()
    assert PlaybooksShown(day.playbooks).status()[0].last_result == "dry_run"


async def test_who_died_in_between_does_not_do_it_again(rig: Rig) -> None:
    day = Day(rig, book(for_s=0))
    day.now_s = time.time()  # that of the ledger's records, which are read back
    day.faults = [OPEN]
    await day.after(0)
    day.begin()
    await day.after(10)
    assert len(day.done) == 1
    await day.after(901)
    assert len(day.done) == 2


async def test_what_cannot_be_recorded_is_not_done(rig: Rig) -> None:
    day = Day(rig, book(for_s=0))
    day.faults = [OPEN]
    await rig.ledger.close()
    with pytest.raises(AuditUnavailable):
        await day.after(0)
    assert day.done == []


async def test_a_deed_that_fails_is_recorded_as_failed(rig: Rig) -> None:
    day = Day(rig, book(for_s=0), breaks=True)
    day.faults = [OPEN]
    await day.after(0)
    assert day.outcomes() == ["command_failed"]


def test_a_command_belongs_to_restart_and_scale_alone() -> None:
    with pytest.raises(ValidationError, match="need a command"):
        book(do="restart")
    with pytest.raises(ValidationError, match="need a command"):
        book(do="switch", command=["true"])
    with pytest.raises(ValidationError, match="ids of their own"):
        PlaybookSettings(playbooks=(book(), book()))


async def test_a_command_knows_what_is_at_fault_and_its_end_is_told(tmp_path: Path) -> None:
    code = "import sys; open(sys.argv[1], 'w').write(' '.join(sys.argv[2:]))"
    command = [sys.executable, "-c", code, str(tmp_path / "said"), "{model}", "{subject}"]
    await run_command(book(do="restart", command=command), OPEN)
    assert (tmp_path / "said").read_text() == "risk risk/1"
    with pytest.raises(DeedFailed) as failed:
        await run_command(book(do="scale", command=[sys.executable, "-c", "raise SystemExit(3)"]), OPEN)
    assert failed.value.reason == "command_failed"
    with pytest.raises(DeedFailed) as late:
        await run_command(book(do="scale", command=["sleep", "60"], timeout_s=0.05), OPEN)
    assert late.value.reason == "command_timeout"
    with pytest.raises(DeedFailed) as missing:
        await run_command(book(do="scale", command=["/nowhere/at/all"]), OPEN)
    assert missing.value.reason == "command_failed"


def break_open(rig: Rig, version: int) -> None:
    breaker = rig.fleet.breakers.of("risk", version)
    for _ in range(50):
        permit = breaker.admit(0.0)
        if permit is None:
            return
        breaker.report(permit, Verdict.UNREACHABLE, 0.0, 0.0)


async def test_a_canary_whose_breaker_is_open_is_ended_and_a_stable_version_rolled_back_once(rig: Rig) -> None:
    deployment = rig.fleet.deployment_of("risk")
    assert deployment is not None
    await deployment.start()
    for version in (2, 3):
        publish(rig.server.folder / "risk", version)
    await deployment.load("risk", 2)
    await deployment.move_label("risk", "stable", 2)
    await deployment.set_canary("risk", 3, 50)
    deeds = FleetDeeds(rig.fleet)
    assert list(deeds.faults()) == []
    break_open(rig, 3)
    (fault,) = deeds.faults()
    assert fault == Fault("canary_open", "risk", "risk/3")
    await deeds.roll_back(book(do="roll_back", when="canary_open"), fault)
    served = deployment.models["risk"]
    assert (served.canary_percent, served.labels["stable"]) == (0, 2)
    bad = Fault("breaker_open", "risk", "risk/2")
    for _ in range(2):
        await deeds.roll_back(book(do="roll_back"), bad)
        assert deployment.models["risk"].labels["stable"] == 1


async def test_a_switch_holds_the_version_so_that_the_fallback_answers(rig: Rig) -> None:
    deeds = FleetDeeds(rig.fleet)
    for _ in range(2):
        await deeds.switch(book(), OPEN)
    assert rig.holds() == ("playbook",)


async def test_a_replica_that_serves_nothing_is_away(rig: Rig) -> None:
    deployment = rig.fleet.deployment_of("risk")
    assert deployment is not None
    deeds = FleetDeeds(rig.fleet)
    assert [fault.when for fault in deeds.faults()] == ["replica_away"]
    await deployment.start()
    assert list(deeds.faults()) == []
