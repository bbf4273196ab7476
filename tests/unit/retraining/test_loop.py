"""The loop on a toy: one feature, and the truth turns around. Every kill must leave the same story in the ledger."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from controlplane.drift.settings import ReportSettings, WatchSettings
from controlplane.drift.states import State
from controlplane.drift.store import MonitorStore
from controlplane.monitor import Monitor, MonitorSettings, WatchedModel
from controlplane.retraining.course import Course, Evidence
from controlplane.retraining.loop import GatewayUnavailable, LoopPorts, TransitionRefused
from controlplane.retraining.scoring import ScoringFailed
from controlplane.retraining.settings import PromotionSettings, TrainingSettings
from controlplane.retraining.trainer import Candidate, Progress, TrainingFailed, TrainingJob
from controlplane.retraining.versions import Versions

from .gateway_with_memory import Killed, RememberingGateway

HAPPY = [
    ("HEALTHY", 1, None),
    ("DEGRADED", 1, None),
    ("RETRAINING", 1, 2),
    ("SHADOW", 1, 2),
    ("PROMOTED", 1, 2),
    ("HEALTHY", 2, None),
]

TRAINING = TrainingSettings(command=("x",), rows_after_change=200, growth=1)


def champion(inputs: NDArray[np.float64]) -> NDArray[np.int64]:
    return (inputs[:, 0] > 0).astype(np.int64)


def toy_score(directory: Path, inputs: NDArray[np.float64]) -> NDArray[np.int64]:
    """A version directory holds one word."""
    if not directory.is_dir():
        raise ScoringFailed(str(directory))
    return champion(inputs) if (directory / "word").read_text() == "straight" else 1 - champion(inputs)


@dataclass
class ToyTrainer:
    root: Path
    words: list[str] = field(default_factory=lambda: ["turned"])  # what each training leaves; "" fails
    jobs: list[TrainingJob] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)

    async def train(self, job: TrainingJob, progress: Progress) -> Candidate:
        versions = Versions(self.root, job.model)
        earlier = versions.candidate(job.new_version, job.key)
        if earlier is not None:
            return earlier
        word = self.words[min(len(self.jobs), len(self.words) - 1)]
        self.jobs.append(job)
        with np.load(job.rows) as loaded:
            self.rows.append(len(loaded["labels"]))
        progress({"epoch": 1})
        if not word:
            raise TrainingFailed("no")
        filled = versions.workplace()
        (filled / "word").write_text(word)
        return versions.accept(filled, job.new_version, {"job": job.key})


class DyingStore(MonitorStore):
    """Dies in its n-th transaction, before that one is durable."""

    left = 10**9

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with super().transaction():
            yield
            self.left -= 1
            if self.left == 0:
                raise Killed


@dataclass
class Toy:
    """Everything that outlives a monitor, and a way to start one."""

    path: Path
    gateway: RememberingGateway = field(default_factory=RememberingGateway)
    training: TrainingSettings = TRAINING
    report_breaks: bool = False
    trainer: ToyTrainer = field(init=False)

    def __post_init__(self) -> None:
        self.trainer = ToyTrainer(self.path / "models")
        (self.path / "models/risk/1").mkdir(parents=True)
        (self.path / "models/risk/1/word").write_text("straight")

    def start(self, transactions: int = 10**9) -> Monitor:
        settings = MonitorSettings(
            state_dir=self.path / "state",
            models_root=self.path / "models",
            batch=100,
            report=ReportSettings(enabled=False),
            models=(
                WatchedModel(
                    name="risk",
                    feature_names=("a",),
                    watch=WatchSettings(reference_rows=1_000, reference_errors=100),
                    training=self.training,
                    promotion=PromotionSettings(undecided_rows=500),
                ),
            ),
        )
        store = DyingStore(settings.state_dir / "monitor.sqlite")
        store.left = transactions

        async def report(course: Course) -> Evidence:
            if self.report_breaks:
                raise OSError("no space left")
            return {"report": "made", "report_sha256": course.model}

        ports = LoopPorts(
            store=store,
            gateway=self.gateway,
            trainer=self.trainer,
            score=toy_score,
            report=report,
            progress=lambda _: None,
        )
        return Monitor(settings, self.gateway, store, lambda _: ports)

    def calls(self, count: int, *, turned: bool, error: float = 0.10) -> None:
        """Calls of five rows each; the serving version answers as it would, and ``error`` of the truth is noise."""
        for _ in range(count):
            chance = np.random.default_rng(self.gateway.calls)
            inputs = chance.normal(size=(5, 1))
            truth = (1 - champion(inputs) if turned else champion(inputs)) ^ (chance.random(5) < error)
            served = toy_score(self.path / f"models/risk/{self.gateway.version}", inputs)
            self.gateway.answered(inputs, served, truth)


async def until_quiet(monitor: Monitor) -> None:
    while True:
        busy = await monitor.turn()
        for loop in monitor.loops.values():
            await loop.settle()
            busy |= loop._training is not None
        if not busy:
            return


async def live(toy: Toy) -> None:
    """Start, work until nothing is left to do, end."""
    monitor = toy.start()
    await until_quiet(monitor)
    await monitor.close()


async def test_a_change_of_concept_leads_to_a_promoted_version(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    toy.calls(100, turned=False)
    toy.calls(100, turned=True)
    await live(toy)
    assert toy.gateway.path == HAPPY
    assert (tmp_path / "models/risk/2/word").read_text() == "turned"
    (job,) = toy.trainer.jobs
    assert job.parent_version == 1
    assert 140 <= toy.trainer.rows[0] < 200  # seven tenths of the changed rows, and none from before


async def test_the_report_comes_beside_the_verdict_and_reaches_the_ledger(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    toy.calls(100, turned=False)
    toy.calls(100, turned=True)
    await live(toy)
    assert "report" not in toy.gateway.ledger[1]["evidence"], "no verdict waits for a report"
    assert toy.gateway.ledger[4]["evidence"]["report_sha256"] == "risk"


async def test_a_report_that_fails_changes_nothing(tmp_path: Path) -> None:
    toy = Toy(tmp_path, report_breaks=True)
    toy.calls(100, turned=False)
    toy.calls(100, turned=True)
    await live(toy)
    assert toy.gateway.path == HAPPY
    assert toy.gateway.ledger[4]["evidence"]["report"] == "failed"


async def test_the_new_version_is_watched_with_its_own_reference(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    toy.calls(100, turned=False)
    toy.calls(100, turned=True)
    await live(toy)
    toy.trainer.words = ["straight"]
    toy.calls(400, turned=True)
    await live(toy)
    assert toy.gateway.path == HAPPY, "the new version is right and must be left alone"
    toy.calls(200, turned=False)
    await live(toy)
    assert [move[0] for move in toy.gateway.path[6:]] == ["DEGRADED", "RETRAINING", "SHADOW", "PROMOTED", "HEALTHY"]
    assert toy.gateway.version == 3


async def test_no_change_means_no_move(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    toy.calls(1_000, turned=False)
    await live(toy)
    assert toy.gateway.path == HAPPY[:1]


async def test_a_challenger_that_is_no_better_is_refused_and_a_human_is_left_to_look(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    toy.trainer.words = ["straight"]
    toy.calls(100, turned=False)
    toy.calls(600, turned=True)
    await live(toy)
    states = [move[0] for move in toy.gateway.path]
    assert states == ["HEALTHY", "DEGRADED", *["RETRAINING", "SHADOW", "ROLLED_BACK", "DEGRADED"] * 2]
    assert {move["evidence"].get("cause") for move in toy.gateway.ledger if move["to"] == "ROLLED_BACK"} == {
        "undecided"
    }
    assert not (tmp_path / "models/risk/2").exists(), "a refused version is never shown to a model server"
    assert toy.gateway.serves_fallback


async def test_a_failed_training_is_a_refusal_with_its_reason(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    toy.trainer.words = ["", "turned"]
    toy.calls(100, turned=False)
    toy.calls(100, turned=True)
    await live(toy)
    states = [move[0] for move in toy.gateway.path]
    assert states[2:5] == ["RETRAINING", "ROLLED_BACK", "DEGRADED"]
    assert toy.gateway.ledger[3]["evidence"]["cause"] == "training_failed"
    assert states[-1] == "HEALTHY"


async def test_without_a_trainer_the_fallback_stays(tmp_path: Path) -> None:
    toy = Toy(tmp_path, training=TrainingSettings())
    toy.calls(100, turned=False)
    toy.calls(300, turned=True)
    await live(toy)
    assert [move[0] for move in toy.gateway.path] == ["HEALTHY", "DEGRADED"]


async def test_a_lost_version_directory_refuses_instead_of_guessing(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    toy.calls(100, turned=False)
    toy.calls(100, turned=True)
    (tmp_path / "models/risk/1").rename(tmp_path / "gone")
    await live(toy)
    assert toy.gateway.ledger[4]["evidence"]["cause"] == "scoring_failed"


async def story(path: Path, toy: Toy) -> tuple[list[tuple[str, int, int | None]], int]:
    """What is in the ledger and how many labelled rows are kept, whatever happened on the way."""
    rows = sqlite3.connect(path / "state/monitor.sqlite")
    try:
        return toy.gateway.path, rows.execute("SELECT count(*) FROM labelled").fetchone()[0]
    finally:
        rows.close()


async def run_with_deaths(path: Path, toy: Toy, transactions: int = 10**9) -> int:
    """Live until done, starting again after each death; how often it died."""
    toy.calls(60, turned=False)
    toy.calls(100, turned=True)
    deaths = 0
    while True:
        monitor = toy.start(transactions)
        try:
            await until_quiet(monitor)
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
    assert await story(tmp_path, toy) == (HAPPY, 800)
    assert len(toy.trainer.jobs) == 1


async def test_a_kill_in_any_transaction_neither_repeats_nor_loses_anything(tmp_path: Path) -> None:
    number = 1
    while True:
        path = tmp_path / str(number)
        toy = Toy(path)
        deaths = await run_with_deaths(path, toy, number)
        assert await story(path, toy) == (HAPPY, 800), f"killed in transaction {number}"
        if not deaths:
            break
        number += 1
    assert number > len(HAPPY) * 2


async def test_a_gateway_that_is_away_is_asked_again_with_the_same_words(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    toy.calls(100, turned=False)
    toy.calls(100, turned=True)
    heard = []
    whole = toy.gateway.ask

    async def away(model: str, move: dict[str, object]) -> None:
        heard.append(dict(move))
        if len(heard) % 2:
            raise GatewayUnavailable("away")
        await whole(model, move)

    toy.gateway.ask = away  # type: ignore[method-assign, assignment]
    monitor = toy.start()
    for _ in range(100):
        try:
            await until_quiet(monitor)
        except GatewayUnavailable:
            continue
        break
    await monitor.close()
    assert toy.gateway.path == HAPPY
    assert heard[::2] == heard[1::2]


async def test_a_move_that_the_gateway_refuses_stays_pending_and_nothing_else_happens(tmp_path: Path) -> None:
    toy = Toy(tmp_path)

    async def refuse(model: str, move: dict[str, object]) -> None:
        raise TransitionRefused("no")

    toy.gateway.ask = refuse  # type: ignore[method-assign, assignment]
    toy.calls(100, turned=False)
    monitor = toy.start()
    for _ in range(20):
        await monitor.turn()
    pending = monitor.loops["risk"].course.pending
    await monitor.close()
    assert pending is not None
    assert pending["to"] == "HEALTHY"


async def test_a_new_life_of_the_gateway_is_read_from_its_beginning(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    toy.calls(10, turned=False)
    monitor = toy.start()
    await until_quiet(monitor)
    toy.gateway.ring, toy.gateway.boot = RememberingGateway().ring, "second"
    toy.calls(20, turned=False)
    await until_quiet(monitor)
    await monitor.close()
    assert (await story(tmp_path, toy))[1] == 150


async def test_what_cannot_be_understood_is_counted_and_passed_over(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    toy.calls(1, turned=False)
    (_, good), *_ = toy.gateway.ring.after(0, 1)[0]
    for broken in (
        good | {"call_id": "x", "request": "AAAA"},
        good | {"call_id": "y", "reply": "!"},
        {"kind": "label", "call_id": "call-1", "row": None, "label": 1},
        {"kind": "label"},
        {},
    ):
        toy.gateway.ring.append(broken)
    toy.gateway.ring.append(good | {"call_id": "other", "model": "unwatched"})
    monitor = toy.start()
    await until_quiet(monitor)
    await monitor.close()
    assert monitor.undecodable == 5
    assert (await story(tmp_path, toy))[1] == 5


async def test_a_fallback_answer_does_not_say_which_version_to_watch(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    toy.gateway.state, toy.gateway.version = State.DEGRADED, 1
    toy.calls(1, turned=False)
    toy.gateway.state = State.LEARNING
    monitor = toy.start()
    await until_quiet(monitor)
    assert monitor.loops == {}
    toy.calls(1, turned=False)
    await until_quiet(monitor)
    assert monitor.loops["risk"].course.version == 1
    await monitor.close()
