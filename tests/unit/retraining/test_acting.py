"""What follows a verdict, on a toy: who answers, who is asked, how a canary grows, what never leads to a retrain."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from controlplane.drift.hysteresis import BlockSettings
from controlplane.drift.states import State
from controlplane.monitor import Monitor
from controlplane.retraining.acting_settings import ActingSettings
from controlplane.retraining.ports import Review
from controlplane.retraining.settings import TrainingSettings

from .toy import (
    Toy,
    live,
    until_quiet,
)


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
    course = monitor.loops["risk"].course
    await monitor.close()
    assert toy.gateway.ledger[1]["evidence"]["rows_since_change"] > 0
    assert course.fallback_gate is None, "nothing came after the verdict yet"


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
    """The truth turns back when the canary has begun: what the shadow showed is no evidence for it."""
    toy = Toy(tmp_path, acting=ActingSettings(canary_rows=100, canary_percents=(50,)))
    toy.calls(100, turned=False)
    toy.calls(100, turned=True)
    monitor = toy.start()
    await until_quiet(monitor)
    toy.calls(41, turned=True)  # just enough copies
    await until_quiet(monitor)
    assert toy.gateway.state is State.CANARY
    toy.calls(300, turned=False)  # now the champion is right again, and the challenger is not
    await until_quiet(monitor)
    await monitor.close()
    lost = next(move for move in toy.gateway.ledger if move["reason"] == "lost")
    assert (lost["from"], lost["evidence"]["cause"]) == ("CANARY", "worse")
    models = tmp_path / "models/risk"
    assert not (models / "2").exists()
    assert (models / ".candidates/2").is_dir(), "the record of it is kept"
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
