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

from controlplane.drift.hysteresis import BlockSettings
from controlplane.drift.settings import ReportSettings, WatchSettings
from controlplane.drift.states import Serving, State
from controlplane.drift.store import MonitorStore
from controlplane.monitor import Monitor, MonitorSettings, WatchedModel
from controlplane.retraining.acting_settings import ActingSettings
from controlplane.retraining.comparing import Broken, none_broken
from controlplane.retraining.course import Course, Evidence
from controlplane.retraining.loop import GatewayUnavailable, LoopPorts, Review, TransitionRefused
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
    ("CANARY", 1, 2),
    ("CANARY", 1, 2),
    ("CANARY", 1, 2),
    ("PROMOTED", 1, 2),
    ("HEALTHY", 2, None),
]
STEP_CALLS, ROWS = 60, 5

TRAINING = TrainingSettings(command=("x",), rows_after_change=200, growth=1)


def champion(inputs: NDArray[np.float64]) -> NDArray[np.int64]:
    return (inputs[:, 0] > 0).astype(np.int64)


def toy_score(directory: Path, inputs: NDArray[np.float64]) -> NDArray[np.int64]:
    """A version directory holds one word."""
    if not (directory / "word").is_file():
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
        (filled / ("nothing" if word == "lost" else "word")).write_text(word)
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
    acting: ActingSettings = field(default_factory=lambda: ActingSettings(canary_rows=100, jobs_per_day=100))
    broken: Broken = none_broken
    now_s: float = 1_000_000.0
    report_breaks: bool = False
    light: str = "turned"
    trainer: ToyTrainer = field(init=False)

    def __post_init__(self) -> None:
        self.trainer = ToyTrainer(self.path / "models")
        (self.path / "models/risk/1").mkdir(parents=True)
        (self.path / "models/risk/1/word").write_text("straight")
        (self.path / "light").mkdir()
        (self.path / "light/word").write_text(self.light)

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
                    acting=self.acting,
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
            broken=self.broken,
            wall_clock=lambda: self.now_s,
        )
        return Monitor(settings, self.gateway, store, lambda _: ports)

    def _answering(self) -> Path:
        gateway = self.gateway
        version = gateway.canary[0] if gateway.canary is not None and gateway.tries_canary else gateway.version
        falls = gateway.serves_fallback and version == gateway.version
        return self.path / ("light" if falls else f"models/risk/{version}")

    def calls(self, count: int, *, turned: bool, error: float = 0.10, spoilt: float = 0.0, principal: str = "") -> None:
        """Calls of five rows each; who serves answers as it would, and ``error`` of the truth is noise.

        ``spoilt`` of the rows arrive a thousand times too large, with the other sign.
        """
        for _ in range(count):
            chance = np.random.default_rng(self.gateway.calls)
            inputs = chance.normal(size=(5, 1))
            truth = (1 - champion(inputs) if turned else champion(inputs)) ^ (chance.random(5) < error)
            inputs[chance.random(5) < spoilt] *= -1_000.0
            served = toy_score(self._answering(), inputs)
            self.gateway.answered(inputs, served, truth, principal)


async def until_quiet(monitor: Monitor) -> None:
    while True:
        busy = await monitor.turn()
        for loop in monitor.loops.values():
            await loop.settle()
            busy |= loop._training is not None
        if not busy:
            return


async def work(toy: Toy, monitor: Monitor, *, turned: bool = True) -> None:
    """Until nothing is left to do; while a canary waits for rows, agents go on asking."""
    await until_quiet(monitor)
    while toy.gateway.state is State.CANARY:
        toy.calls(STEP_CALLS, turned=turned)
        await until_quiet(monitor)


async def live(toy: Toy, *, turned: bool = True) -> None:
    """Start, work, end."""
    monitor = toy.start()
    await work(toy, monitor, turned=turned)
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
    assert toy.gateway.ledger[-2]["evidence"]["report_sha256"] == "risk"


async def test_a_report_that_fails_changes_nothing(tmp_path: Path) -> None:
    toy = Toy(tmp_path, report_breaks=True)
    toy.calls(100, turned=False)
    toy.calls(100, turned=True)
    await live(toy)
    assert toy.gateway.path == HAPPY
    assert toy.gateway.ledger[-2]["evidence"]["report"] == "failed"


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
    await live(toy, turned=False)
    again = [move[0] for move in toy.gateway.path[len(HAPPY) :]]
    assert again == ["DEGRADED", "RETRAINING", "SHADOW", *["CANARY"] * 3, "PROMOTED", "HEALTHY"]
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
    refused = ["RETRAINING", "SHADOW", "ROLLED_BACK", "DEGRADED"]
    assert states == ["HEALTHY", "DEGRADED", *refused * 2, "DEGRADED"]
    last = toy.gateway.ledger[-1]
    assert (last["reason"], last["evidence"]["cause"]) == ("human_asked", "attempts_exhausted")
    assert {move["evidence"].get("cause") for move in toy.gateway.ledger if move["to"] == "ROLLED_BACK"} == {
        "undecided"
    }
    assert not (tmp_path / "models/risk/2").exists(), "a version refused in its shadow is never shown to a model server"


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


async def test_without_a_trainer_a_human_is_asked_once(tmp_path: Path) -> None:
    toy = Toy(tmp_path, training=TrainingSettings())
    toy.calls(100, turned=False)
    toy.calls(300, turned=True)
    await live(toy)
    assert [move["reason"] for move in toy.gateway.ledger] == ["reference_learnt", "risk_left_band", "human_asked"]
    assert toy.gateway.ledger[-1]["evidence"]["cause"] == "no_trainer"


async def test_a_version_that_cannot_be_scored_is_refused_instead_of_guessed(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    toy.trainer.words = ["lost"]
    toy.calls(100, turned=False)
    toy.calls(100, turned=True)
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
            await work(toy, monitor)
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
    toy.gateway.serving = Serving.FALLBACK
    toy.calls(1, turned=False)
    toy.gateway.serving = Serving.PRIMARY
    monitor = toy.start()
    await until_quiet(monitor)
    assert monitor.loops == {}
    toy.calls(1, turned=False)
    await until_quiet(monitor)
    assert monitor.loops["risk"].course.version == 1
    await monitor.close()


def reasons(toy: Toy) -> list[str]:
    return [move["reason"] for move in toy.gateway.ledger]


async def degraded(toy: Toy, calls: int) -> Monitor:
    """A version that labels have proved wrong, and nobody who could train."""
    toy.calls(100, turned=False)
    monitor = toy.start()
    while toy.gateway.state is not State.DEGRADED:
        toy.calls(1, turned=True)
        await until_quiet(monitor)
    toy.calls(calls, turned=True)
    await until_quiet(monitor)
    return monitor


def judged(path: Path, light: str) -> Toy:
    acting = ActingSettings(fallback=path / "light", fallback_rows=400)
    return Toy(path, training=TrainingSettings(), acting=acting, light=light)


async def test_a_degraded_version_answers_until_the_fallback_is_shown_to_be_better(tmp_path: Path) -> None:
    toy = judged(tmp_path, "turned")
    monitor = await degraded(toy, 60)
    await monitor.close()
    assert reasons(toy) == ["reference_learnt", "risk_left_band", "human_asked", "fallback_better"]
    shown = toy.gateway.ledger[-1]["evidence"]
    assert shown["fallback_errors"] < shown["version_errors"]
    assert toy.gateway.serves_fallback


async def test_a_fallback_that_is_as_wrong_gets_nobody_and_a_human_is_asked(tmp_path: Path) -> None:
    toy = judged(tmp_path, "straight")
    monitor = await degraded(toy, 120)
    await monitor.close()
    assert not toy.gateway.serves_fallback
    asked = [move["evidence"]["cause"] for move in toy.gateway.ledger if move["reason"] == "human_asked"]
    assert asked == ["no_trainer", "fallback_not_better"]


async def test_rows_that_led_to_the_verdict_do_not_speak_for_the_fallback(tmp_path: Path) -> None:
    toy = judged(tmp_path, "turned")
    monitor = await degraded(toy, 0)
    await monitor.close()
    assert "fallback_better" not in reasons(toy)


@pytest.mark.parametrize(
    ("answer", "state", "falls"), [("healthy", State.HEALTHY, False), ("fallback", State.DEGRADED, True)]
)
async def test_a_human_s_word_is_followed_once(tmp_path: Path, answer: str, state: State, falls: bool) -> None:
    toy = judged(tmp_path, "straight")
    monitor = await degraded(toy, 0)
    toy.gateway.said = Review("17", answer)
    await until_quiet(monitor)
    await monitor.close()
    assert toy.gateway.ledger[-1]["evidence"]["review"] == "17"
    moves = len(toy.gateway.ledger)
    await live(toy)
    assert (toy.gateway.state, toy.gateway.serves_fallback, len(toy.gateway.ledger)) == (state, falls, moves)


async def test_a_human_may_grant_another_round_of_trainings(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    toy.trainer.words = ["straight", "straight", "turned"]
    toy.calls(100, turned=False)
    toy.calls(600, turned=True)
    await live(toy)
    assert reasons(toy)[-1] == "human_asked"
    toy.gateway.said = Review("40", "retrain")
    toy.calls(100, turned=True)
    await live(toy)
    assert toy.gateway.path[-2:] == [("PROMOTED", 1, 4), ("HEALTHY", 4, None)]
    assert len({job.key for job in toy.trainer.jobs}) == len(toy.trainer.jobs) == 3


async def test_no_more_trainings_a_day_than_allowed(tmp_path: Path) -> None:
    toy = Toy(tmp_path, acting=ActingSettings(jobs_per_day=1, canary_rows=100))
    toy.trainer.words = ["straight", "turned"]
    toy.calls(100, turned=False)
    toy.calls(600, turned=True)
    await live(toy)
    assert (len(toy.trainer.jobs), toy.gateway.state) == (1, State.DEGRADED)
    toy.now_s += 25 * 3600
    await live(toy)
    assert (len(toy.trainer.jobs), toy.gateway.state) == (2, State.HEALTHY)


async def test_a_canary_grows_step_by_step_and_each_step_has_seen_its_own_rows(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    toy.calls(100, turned=False)
    toy.calls(100, turned=True)
    await live(toy)
    steps = [move for move in toy.gateway.ledger if move["to"] == "CANARY"]
    assert [move["percent"] for move in steps] == [1, 10, 50]
    assert [move["reason"] for move in steps] == ["shadow_passed", "step_passed", "step_passed"]
    won = toy.gateway.ledger[-2]["evidence"]
    assert won["canary_percent"] == 50
    assert won["canary_rows"] > 0, "the challenger answered some of them itself"
    assert won["paired_rows"] >= 100


async def test_a_challenger_that_serves_worse_than_it_scored_is_rolled_back(tmp_path: Path) -> None:
    """The files are right, and what the server makes of them is not: only a canary can show that."""
    toy = Toy(tmp_path, acting=ActingSettings(canary_rows=100, canary_percents=(50,)))
    toy.calls(100, turned=False)
    toy.calls(100, turned=True)
    monitor = toy.start()
    await until_quiet(monitor)
    assert toy.gateway.state is State.CANARY
    toy.calls(300, turned=False)  # now the champion is right again, and the challenger is not
    await until_quiet(monitor)
    await monitor.close()
    lost = next(move for move in toy.gateway.ledger if move["reason"] == "lost")
    assert (lost["from"], lost["evidence"]["cause"]) == ("CANARY", "worse")
    assert toy.gateway.canary is None
    assert toy.gateway.version == 1


async def test_without_canary_steps_a_won_shadow_promotes_and_says_so(tmp_path: Path) -> None:
    toy = Toy(tmp_path, acting=ActingSettings(canary_percents=()))
    toy.calls(100, turned=False)
    toy.calls(100, turned=True)
    await live(toy)
    assert [move[0] for move in toy.gateway.path][-3:] == ["SHADOW", "PROMOTED", "HEALTHY"]
    assert toy.gateway.ledger[-2]["evidence"]["canary"] == "skipped"


def beyond_three(version: int, inputs: NDArray[np.float64]) -> NDArray[np.bool_]:
    del version
    return np.abs(inputs[:, 0]) > 3.5


async def test_broken_rows_are_a_fault_of_data_and_never_a_reason_to_retrain(tmp_path: Path) -> None:
    toy = Toy(tmp_path, broken=beyond_three)
    toy.calls(100, turned=False)
    toy.calls(200, turned=False, spoilt=0.3)
    toy.calls(200, turned=False)
    await live(toy)
    assert [move[0] for move in toy.gateway.path] == ["HEALTHY", "DATA_FAULT", "HEALTHY"]
    assert toy.gateway.ledger[1]["evidence"]["broken_rows"] >= 3
    assert toy.trainer.jobs == []


async def test_a_feed_that_breaks_altogether_sends_everybody_to_the_fallback_until_it_is_sound(tmp_path: Path) -> None:
    toy = Toy(tmp_path, broken=beyond_three)
    toy.calls(100, turned=False)
    toy.calls(100, turned=False, spoilt=0.9)
    monitor = toy.start()
    await until_quiet(monitor)
    assert toy.gateway.serves_fallback
    toy.calls(200, turned=False)
    await until_quiet(monitor)
    await monitor.close()
    assert (toy.gateway.state, toy.gateway.serves_fallback) == (State.HEALTHY, False)


async def test_one_wild_value_moves_nothing(tmp_path: Path) -> None:
    toy = Toy(tmp_path, broken=beyond_three)
    toy.calls(100, turned=False)
    wild, right = np.array([[1e9]]), np.ones(1, np.int64)
    toy.gateway.answered(wild, right, right)
    toy.calls(100, turned=False)
    await live(toy)
    assert [move[0] for move in toy.gateway.path] == ["HEALTHY"]


async def test_one_principal_with_wrong_labels_gets_no_retrain(tmp_path: Path) -> None:
    """One row in seven is poisoned, all by one agent: a warning at most, and it clears."""
    toy = Toy(tmp_path)
    toy.calls(100, turned=False)
    for _ in range(600):
        toy.calls(6, turned=False)
        toy.calls(1, turned=True, principal="attacker")
    await live(toy)
    assert {move[0] for move in toy.gateway.path} <= {"HEALTHY", "WARN"}
    assert toy.trainer.jobs == []


async def test_a_suspicion_of_a_detector_warns_and_is_forgotten_when_it_is_quiet(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    toy.calls(50, turned=False)
    monitor = toy.start()
    await until_quiet(monitor)
    loop = monitor.loops["risk"]
    loop.suspect({"detector": "inputs_50", "stream": "a"})
    await until_quiet(monitor)
    assert toy.gateway.state is State.WARN
    assert toy.gateway.ledger[-1]["evidence"]["stream"] == "a"
    toy.calls(11 * BlockSettings().rows // 5, turned=False)
    await until_quiet(monitor)
    await monitor.close()
    assert toy.gateway.ledger[-1]["to"] == "HEALTHY"
    assert toy.trainer.jobs == []
