"""What a challenger's server makes of copies decides besides what its files say; on a toy, and on counts alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from controlplane.drift.rows import CopiedCall
from controlplane.drift.states import State
from controlplane.retraining.acting_settings import ActingSettings
from controlplane.retraining.trial import CALLS, ROWS, SLOW_PPM, Trial, resumed_trial

from .toy import HAPPY, STEP_CALLS, Toy, live, until_quiet, work

BOUNDS = ActingSettings(shadow_rows=20)


def copy(number: int = 1, rows: int = 5, failed: str = "", latency_us: int = 1_000) -> CopiedCall:
    said: dict[str, Any] = {"call_id": f"c{number}", "model": "risk", "version": 2, "number": number}
    answered = 0 if failed else rows
    said |= {"inputs": np.zeros((answered, 1)), "predicted": np.zeros(answered, np.int64)}
    return CopiedCall(**said, failed=failed, latency_us=latency_us)


def seen(*, good: int = 0, failed: int = 0, slow: int = 0, differing: int = 0) -> Trial:
    """Copies of five rows each; in a differing one all rows differ."""
    trial, zeros = Trial(since=7), np.zeros(5, np.int64)
    for number in range(good):
        trial.count(copy(number), zeros, BOUNDS.shadow_slow_s)
    for number in range(failed):
        trial.count(copy(number, failed="timeout"), zeros, BOUNDS.shadow_slow_s)
    for number in range(slow):
        trial.count(copy(number, latency_us=900_000), zeros, BOUNDS.shadow_slow_s)
    for number in range(differing):
        trial.count(copy(number), zeros + 1, BOUNDS.shadow_slow_s)
    return trial


def test_a_trial_is_passed_by_enough_rows_that_say_what_the_files_say() -> None:
    assert not seen(good=3).is_passed(BOUNDS)
    assert seen(good=4).is_passed(BOUNDS)


@pytest.mark.parametrize(
    ("wrong", "cause"), [("failed", "copies_failed"), ("slow", "copies_slow"), ("differing", "copies_differ")]
)
def test_what_is_wrong_too_often_ends_a_trial_and_once_costs_patience(wrong: str, cause: str) -> None:
    once: dict[str, int] = {wrong: 1}
    early = seen(good=3, **once)
    assert (early.is_passed(BOUNDS), early.fault(BOUNDS, 0)) == (False, "")
    assert seen(good=199, **once).is_passed(BOUNDS)
    often: dict[str, int] = {wrong: 41 if wrong == "slow" else 11}
    assert seen(good=4, **often).fault(BOUNDS, 0) == cause


def test_it_is_decided_after_so_many_copies_at_the_latest() -> None:
    most_failed, most_slow = BOUNDS.shadow_bad_ppm * CALLS // 10**6, SLOW_PPM * CALLS // 10**6
    most_differing = BOUNDS.shadow_bad_ppm * ROWS // 10**6 // 5
    for counts in ({"failed": most_failed}, {"slow": most_slow}, {"differing": most_differing}):
        trial = seen(good=1_000 - sum(counts.values()), **counts)
        assert (trial.is_passed(BOUNDS), trial.fault(BOUNDS, 0)) == (True, "")


def test_a_trial_that_no_copy_reaches_ends_when_many_rows_have_come() -> None:
    assert seen(good=3).fault(BOUNDS, ROWS - 1) == ""
    assert seen(good=3).fault(BOUNDS, ROWS) == "no_copies"
    assert seen(good=4).fault(BOUNDS, ROWS) == ""


def test_a_trial_goes_on_where_it_was_kept() -> None:
    trial = seen(good=2, failed=1)
    assert resumed_trial(trial.snapshot()) == trial


async def in_shadow(toy: Toy) -> None:
    toy.calls(100, turned=False)
    toy.calls(100, turned=True)


async def test_a_challenger_answers_nobody_before_its_server_has_answered_copies(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    await in_shadow(toy)
    monitor = toy.start()
    await until_quiet(monitor)
    asked = toy.gateway.ledger[-1]
    assert (asked["to"], asked["percent"], toy.gateway.tried) == ("SHADOW", 10, 2)
    toy.calls(39, turned=True)
    await until_quiet(monitor)
    assert toy.gateway.state is State.SHADOW, "195 rows of 200"
    toy.calls(1, turned=True)
    await until_quiet(monitor)
    await monitor.close()
    passed = toy.gateway.ledger[-1]["evidence"]
    assert (toy.gateway.state, passed["shadow_traffic"]) == (State.CANARY, "on")
    assert (passed["copied_calls"], passed["copied_rows"], passed["copied_differing"]) == (40, 200, 0)


async def test_the_answers_to_copies_count_where_there_are_any(tmp_path: Path) -> None:
    """By its files it is no better than the champion, by what its server answered it is."""
    toy = Toy(tmp_path, acting=ActingSettings(canary_rows=100, jobs_per_day=100, shadow_bad_ppm=999_999))
    toy.trainer.words = ["straight"]
    toy.gateway.beside = lambda _, inputs: ((inputs[:, 0] > 0) ^ (inputs[:, 0] > -1)).astype(np.int64)
    await in_shadow(toy)
    monitor = toy.start()
    await until_quiet(monitor)
    assert toy.gateway.state is State.SHADOW
    toy.calls(STEP_CALLS, turned=True)
    await until_quiet(monitor)
    await monitor.close()
    passed = next(move for move in toy.gateway.ledger if move["reason"] == "shadow_passed")["evidence"]
    assert passed["shadow_rows"] > 0
    assert passed["challenger_errors"] < passed["champion_errors"]


@pytest.mark.parametrize(
    ("made_of_copies", "cause"),
    [(lambda _, inputs: np.zeros(len(inputs), np.int64), "copies_differ"), (lambda _, __: "timeout", "copies_failed")],
)
async def test_a_challenger_whose_server_fails_or_says_something_else_is_refused(
    tmp_path: Path, made_of_copies: Any, cause: str
) -> None:
    toy = Toy(tmp_path)
    toy.gateway.beside = made_of_copies
    await in_shadow(toy)
    monitor = toy.start()
    await until_quiet(monitor)
    while toy.gateway.state is State.SHADOW:
        toy.calls(10, turned=True)
        await until_quiet(monitor)
    await monitor.close()
    lost = next(move for move in toy.gateway.ledger if move["reason"] == "lost")
    assert (lost["from"], lost["evidence"]["cause"]) == ("SHADOW", cause)
    assert not (tmp_path / "models/risk/2").exists(), "no model server finds it any more"


async def test_what_was_predicted_before_the_trial_and_read_in_it_could_not_be_copied(tmp_path: Path) -> None:
    toy = Toy(tmp_path, now_s=5.0)
    await in_shadow(toy)
    monitor = toy.start()
    await until_quiet(monitor)
    toy.gateway.tried = None  # no copy comes
    for predicted_ms, causes in ((1_000, []), (5_001, ["no_copies"])):
        toy.gateway.calls = predicted_ms
        toy.calls(ROWS // 5, turned=True)
        await until_quiet(monitor)
        assert [move["evidence"]["cause"] for move in toy.gateway.ledger if move["reason"] == "lost"] == causes
    await monitor.close()


async def test_a_challenger_that_the_server_will_not_load_is_refused(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    toy.gateway.will_not_load = "load_failed"
    await in_shadow(toy)
    await live(toy)
    lost = next(move for move in toy.gateway.ledger if move["reason"] == "lost")
    assert lost["evidence"]["cause"] == "load_failed"


async def test_an_answer_to_a_copy_that_says_nothing_is_a_failure(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    await in_shadow(toy)
    monitor = toy.start()
    await until_quiet(monitor)
    said = {"kind": "copy", "at_ms": 1, "model": "risk", "version": 2, "latency_us": 1, "failed": ""}
    for number, (version, reply) in enumerate(((2, ""), (2, "AAAA"), (1, "AAAA"))):
        toy.gateway.ring.append(said | {"call_id": f"x{number}", "version": version, "request": "AAAA", "reply": reply})
    toy.gateway.ring.append(said | {"call_id": "x", "model": "unwatched"})
    await until_quiet(monitor)
    trial = monitor.loops["risk"].course.trial
    await monitor.close()
    assert trial is not None
    assert (trial["calls"], trial["failed"], monitor.undecodable) == (2, 2, 0), "of version 1 nobody wants any"


async def test_a_server_that_is_away_is_asked_again_to_load_it(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    toy.gateway.will_not_load = "unavailable"
    await in_shadow(toy)
    monitor = toy.start()
    with pytest.raises(Exception, match="502"):
        await until_quiet(monitor)
    toy.gateway.will_not_load, toy.gateway.tried = "", 2
    await work(toy, monitor)
    await monitor.close()
    assert toy.gateway.path == HAPPY


async def test_without_shadow_traffic_files_alone_are_compared_and_the_record_says_so(tmp_path: Path) -> None:
    toy = Toy(tmp_path, acting=ActingSettings(canary_rows=100, shadow_percent=0))
    await in_shadow(toy)
    await live(toy)
    assert toy.gateway.path == HAPPY
    shadow, passed = toy.gateway.ledger[3:5]
    assert "percent" not in shadow
    assert passed["evidence"]["shadow_traffic"] == "off"
