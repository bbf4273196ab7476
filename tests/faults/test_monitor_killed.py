"""kill -9 of monitor and trainer at every transition: started again, the monitor goes on where it was, and repeats no
move and loses none.

Everything is a process of its own, as the demo starts it: two model servers, the gateway, the monitor and its trainer.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest

from examples.demo.stage import Stage
from examples.risk_model.data import Rows, concept_change, load
from tests.process.held_trainer import begun_in
from tests.process.loop_scene import LoopStage, Scene, playing, trained_in

LIMIT_S = 900  # of a machine that is busy with other things; usually 30 are enough
WHOLE = ["HEALTHY", "DEGRADED", "DEGRADED", "RETRAINING", "SHADOW", *["CANARY"] * 3, "PROMOTED", "HEALTHY"]
AT_WORK = "training"
BETWEEN = (3, 8)  # and after so many batches, wherever the loop is then
TRAINER = "tests.process.held_trainer"  # whoever looks late still finds it at work


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    return trained_in(tmp_path_factory.mktemp("trained"))


@dataclass
class Killer:
    """Kills the monitor as soon as the ledger has another move, once while its trainer is at work, and in between."""

    scene: Scene
    killed: list[str] = field(default_factory=list)
    seen: int = 0
    batches: int = 0

    def look(self) -> None:
        self.batches += 1
        story = self.scene.story()
        if len(story) > self.seen:
            self.seen = len(story)
            self.kill(story[-1])
        elif AT_WORK not in self.killed and self.trainer_is_at_work():
            self.kill(AT_WORK)
        elif self.batches in BETWEEN:
            self.kill(f"batch {self.batches}")

    def trainer_is_at_work(self) -> bool:
        folder = self.scene.stage.folder
        return begun_in(folder).exists() and bool(trainers(folder))

    def kill(self, when: str) -> None:
        monitor = self.scene.parts.running["monitor"]
        assert monitor.process.poll() is None, f"the monitor ended by itself before {when}; see {monitor.log}"
        monitor.stop(signal.SIGKILL)
        assert monitor.process.returncode == -signal.SIGKILL
        left = left_in(self.scene.stage.folder)
        assert left == [], "a trainer outlives the monitor that asked for it"
        self.killed.append(when)
        self.scene.parts.restart("monitor", lambda: True)


def trainers(folder: Path) -> list[int]:
    """Processes that train for the monitor of this stage; one that has ended and was not yet collected says nothing."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            said = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0") if entry.name.isdigit() else []
        except OSError:
            continue
        if TRAINER in said and any(word.startswith(str(folder)) for word in said):
            found.append(int(entry.name))
    return found


def left_in(folder: Path, limit_s: float = 60.0) -> list[int]:
    """Trainers that still live when the kernel had its time."""
    deadline_s = time.monotonic() + limit_s
    while (pids := trainers(folder)) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    return pids


async def test_killed_at_every_transition_it_goes_on_and_repeats_and_loses_nothing(
    trained: Stage, tmp_path: Path
) -> None:
    rows = load().stream.part(1600, None)
    async with playing(LoopStage(tmp_path, trained=trained, trainer=TRAINER)) as scene:
        killer, deadline_s = Killer(scene), time.monotonic() + LIMIT_S
        await scene.stream(rows.part(0, 300))
        while scene.story()[-1:] != ["HEALTHY"] or len(scene.story()) == 1:
            assert time.monotonic() < deadline_s, f"{scene.story()} after kills in {killer.killed}"
            await scene.ask_next(await scene.state(), rows, concept_change)
            killer.look()
        moves = scene.moves()
        assert [move["to"] for move in moves] == WHOLE
        assert {*WHOLE[:-2], AT_WORK} <= set(killer.killed)
        keys = [move["key"] for move in moves]
        assert len(keys) == len(set(keys)), "a transition was recorded twice"
        assert [later["from"] for _, later in pairwise(moves)] == [sooner["to"] for sooner, _ in pairwise(moves)]
        assert [move.get("percent") for move in moves if move["to"] == "CANARY"] == [1, 10, 50]
        versions = sorted(path.name for path in (tmp_path / "models/risk").iterdir() if path.name.isdigit())
        assert versions == ["1", "2"], "nothing was trained twice"
        assert scene.faults_at_the_end() == []


async def test_a_trainer_killed_alone_is_a_failed_attempt_and_the_next_one_is_promoted(
    trained: Stage, tmp_path: Path
) -> None:
    rows = load().stream.part(1600, None)
    async with playing(LoopStage(tmp_path, trained=trained, trainer=TRAINER)) as scene:
        await scene.stream(rows.part(0, 300))
        await scene.until({"RETRAINING"}, rows, concept_change)
        kill_one(tmp_path)
        await scene.until({"PROMOTED"}, rows, concept_change)
        await scene.until({"HEALTHY"}, rows, concept_change)
        story = [state for state in scene.story() if state != "DEGRADED"]
        again = ["RETRAINING", "SHADOW", "CANARY", "CANARY", "CANARY", "PROMOTED", "HEALTHY"]
        assert story == ["HEALTHY", "RETRAINING", "ROLLED_BACK", *again]
        failed = next(move for move in scene.moves() if move["reason"] == "training_failed")
        assert failed["evidence"]["cause"] == "training_killed"


def kill_one(folder: Path) -> None:
    deadline_s = time.monotonic() + LIMIT_S
    while not begun_in(folder).exists() or not (pids := trainers(folder)):
        assert time.monotonic() < deadline_s
        time.sleep(0.005)
    os.kill(pids[-1], signal.SIGKILL)


def test_rows_of_the_survey_are_enough_for_both_attempts() -> None:
    rows: Rows = load().stream
    assert len(rows.visits) > 1_600 + 1_600
