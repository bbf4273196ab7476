"""The loop on a toy; tests/faults kills it at every step."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from controlplane.drift.states import Serving
from controlplane.retraining.ports import GatewayUnavailable, TransitionRefused
from controlplane.retraining.settings import TrainingSettings

from .gateway_with_memory import RememberingGateway
from .toy import (
    HAPPY,
    Toy,
    live,
    story,
    until_quiet,
    work,
)


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


async def test_a_candidate_that_is_gone_when_it_is_to_be_shown_is_a_humans_matter_and_ends_no_monitor(
    tmp_path: Path,
) -> None:
    toy = Toy(tmp_path)
    toy.calls(100, turned=False)
    toy.calls(100, turned=True)
    whole = toy.gateway.ask

    async def away(model: str, move: dict[str, object]) -> None:
        if move["to"] == "SHADOW":
            raise GatewayUnavailable("away")
        await whole(model, move)

    toy.gateway.ask = away  # type: ignore[method-assign, assignment]
    monitor = toy.start()
    with pytest.raises(GatewayUnavailable):
        await until_quiet(monitor)
    shutil.rmtree(tmp_path / "models/risk/2")
    toy.gateway.ask = whole  # type: ignore[method-assign]
    await monitor.turn()
    toy.calls(10, turned=True)
    assert await monitor.turn(), "what comes is still read"
    await monitor.close()
    assert toy.gateway.path == HAPPY[:3]


async def test_rows_that_cannot_be_written_are_a_failed_training(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    (tmp_path / "state").mkdir()
    (tmp_path / "state/rows").write_text("a file where a folder should be")
    toy.calls(100, turned=False)
    toy.calls(100, turned=True)
    await live(toy)
    assert toy.gateway.ledger[3]["evidence"]["cause"] == "training_failed"
    assert toy.gateway.ledger[-1]["evidence"]["cause"] == "attempts_exhausted"


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
