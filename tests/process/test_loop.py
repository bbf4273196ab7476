"""The closed loop on real rows: real gateway, real SavedModels behind TF Serving's protocol, monitor and trainer as
processes of their own. What happened is read from the ledger.

The story's settings ask for 800 labels after a change and 100 rows a step, where the defaults ask for 2,000 and 200:
the survey has 9,190 rows to tell it with.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from examples.demo.stage import Stage
from examples.risk_model.data import FEATURES, Rows, benign_shift, concept_change, load
from tests.process.loop_scene import LIMIT_S, LoopStage, playing, trained_in

pytest.importorskip("statsmodels", reason="the example's rows come inside the statsmodels wheel (extra: drift)")

WHOLE = ["HEALTHY", "DEGRADED", "DEGRADED", "RETRAINING", "SHADOW", *["CANARY"] * 3, "PROMOTED", "HEALTHY"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    return trained_in(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="module")
def rows() -> Rows:
    return load().stream


async def test_a_change_of_concept_ends_in_a_promoted_version_and_the_ledger_tells_it_in_order(
    trained: Stage, rows: Rows, tmp_path: Path
) -> None:
    async with playing(LoopStage(tmp_path, trained=trained)) as scene:
        await scene.stream(rows.part(0, 1_500))
        await scene.until({"HEALTHY"}, rows.part(0, 1_500))
        assert scene.story() == ["HEALTHY"]
        await scene.until({"PROMOTED"}, rows.part(1_500, None), concept_change)
        await scene.until({"HEALTHY"}, rows.part(1_500, None), concept_change)
        moves, model = scene.moves(), await scene.model()
        assert [move["to"] for move in moves] == WHOLE
        assert [move.get("percent") for move in moves if move["to"] == "CANARY"] == [1, 10, 50]
        assert {move["serving"] for move in moves[2:8]} == {"fallback"}
        assert scene.rungs["lighter"] > 0
        assert scene.answered_by["risk/2"] > 0, "the first hundredth of agents were answered by the canary"
        assert (model["labels"]["stable"], model["canary_percent"], model["state_version"]) == (2, 0, 2)
        tried = next(move for move in moves if move["reason"] == "shadow_passed")["evidence"]
        assert (tried["shadow_traffic"], tried["copied_failed"], tried["copied_differing"]) == ("on", 0, 0)
        assert tried["copied_rows"] >= 100, "its server has answered copies of calls as its files do"
        won = moves[-2]["evidence"]
        assert won["challenger_errors"] < won["champion_errors"]
        assert won["canary_rows"] > 0
        assert scene.faults_at_the_end() == []


async def test_other_people_with_the_same_truth_and_one_wild_value_retrain_nothing(
    trained: Stage, rows: Rows, tmp_path: Path
) -> None:
    async with playing(LoopStage(tmp_path, trained=trained)) as scene:
        await scene.stream(rows.part(0, 500))
        wild = Rows(rows.inputs[500:501].copy(), rows.visits[500:501])
        wild.inputs[0, 0] = 1e9
        await scene.ask(scene.analyst, wild)
        await scene.stream(benign_shift(rows))
        assert set(scene.story()) <= {"HEALTHY", "WARN"}
        assert await scene.state() in {"HEALTHY", "WARN"}
        assert set(scene.answered_by) == {"risk/1"}


async def test_a_broken_feed_sends_broken_rows_to_the_fallback_and_retrains_nothing(
    trained: Stage, rows: Rows, tmp_path: Path
) -> None:
    async with playing(LoopStage(tmp_path, trained=trained)) as scene:
        await scene.stream(rows.part(0, 500))
        await scene.until({"DATA_FAULT"}, fed_wrongly(rows.part(500, 2_000)))
        before = dict(scene.rungs)
        await scene.stream(fed_wrongly(rows.part(2_000, 3_000)))
        assert scene.rungs["lighter"] > before.get("lighter", 0)
        assert set(scene.answered_by) == {"risk/1", "risk-baseline/1"}
        served = scene.answered_by["risk/1"]
        await scene.ask(scene.analyst, rows.part(3_000, 3_050))
        assert scene.answered_by["risk/1"] == served + 1, "sound rows keep their model"
        await scene.until({"HEALTHY"}, rows.part(3_050, None))
        story = scene.story()
        assert set(story) == {"HEALTHY", "DATA_FAULT"} | ({"WARN"} & set(story))
        assert scene.moves()[-1]["reason"] == "rows_sound"


def fed_wrongly(rows: Rows) -> Rows:
    """INJECTED: the number of chronic conditions arrives twelve times too large in three rows of ten."""
    inputs = rows.inputs.copy()
    hit = np.random.default_rng(7).random(len(inputs)) < 0.3
    inputs[hit, FEATURES.index("disea")] *= 12
    return Rows(inputs, rows.visits)


async def test_a_challenger_that_learnt_nonsense_is_refused_twice_and_then_a_human_is_asked(
    trained: Stage, rows: Rows, tmp_path: Path
) -> None:
    stage = LoopStage(tmp_path, trained=trained, trainer="tests.process.wrong_trainer")
    async with playing(stage) as scene:
        await scene.stream(rows.part(0, 500))
        deadline_s = time.monotonic() + 2 * LIMIT_S
        while not scene.moves() or scene.moves()[-1]["evidence"].get("cause") != "attempts_exhausted":
            assert time.monotonic() < deadline_s, scene.story()
            for _ in range(5):
                await scene.ask_next(await scene.state(), rows.part(500, None), concept_change)
        refused = ["RETRAINING", "SHADOW", "ROLLED_BACK", "DEGRADED"]
        assert [state for state in scene.story() if state != "DEGRADED"] == ["HEALTHY", *refused[:3], *refused[:3]]
        assert set(scene.answered_by) == {"risk/1", "risk-baseline/1"}
        said = {"answer": "healthy", "reason": "the definition of high was moved on purpose"}
        status, _ = await scene.operator.post("/api/reviews/risk", said)
        assert status == 200
        await scene.until({"HEALTHY"}, rows.part(500, 1_000))
        assert scene.moves()[-1]["reason"] == "reviewed"


async def test_a_challenger_that_turns_bad_among_agents_is_rolled_back(
    trained: Stage, rows: Rows, tmp_path: Path
) -> None:
    """INJECTED: the old truth comes back as soon as the canary has begun, and the challenger has never seen it."""
    async with playing(LoopStage(tmp_path, trained=trained)) as scene:
        await scene.stream(rows.part(0, 500))
        await scene.until({"CANARY"}, rows.part(500, None), concept_change)
        await scene.until({"DEGRADED"}, rows.part(500, None))
        lost = next(move for move in scene.moves() if move["reason"] == "lost")
        assert (lost["from"], lost["evidence"]["cause"]) == ("CANARY", "worse")
        model = await scene.model()
        assert (model["labels"], model["canary_percent"], model["versions"]) == ({"stable": 1}, 0, [1])
