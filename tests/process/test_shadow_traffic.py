"""A challenger on trial, through real processes: its model server answers copies of calls, and it answers nobody."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from examples.demo.agents import HttpAgent
from examples.demo.cast import start_model_server
from examples.demo.stage import Stage
from examples.risk_model.data import Rows, concept_change, load
from tests.process.loop_scene import LoopStage, Scene, playing, trained_in

pytest.importorskip("statsmodels", reason="the example's rows come inside the statsmodels wheel (extra: drift)")

LIMIT_S = 600
NEVER = 10**6  # rows: the trial goes on for as long as the test looks at it


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    return trained_in(tmp_path_factory.mktemp("trained"))


class OnTrial(LoopStage):
    def _monitor_settings(self) -> dict[str, Any]:
        settings = super()._monitor_settings()
        settings["models"][0]["acting"]["shadow_rows"] = NEVER
        return settings


def trial_in(folder: Path) -> dict[str, Any]:
    """What the monitor has counted, as it keeps it."""
    store = sqlite3.connect(f"file:{folder}/monitor/monitor.sqlite?mode=ro", uri=True)
    try:
        ((body,),) = store.execute("SELECT body FROM document WHERE name = 'course/risk'")
    finally:
        store.close()
    found: dict[str, Any] = json.loads(body)["trial"] or {}
    return found


async def tried(scene: Scene, rows: Rows, copies: int) -> dict[str, Any]:
    """Ask on until so many copies have been counted."""
    deadline_s = time.monotonic() + LIMIT_S
    while (trial := trial_in(scene.stage.folder)).get("calls", 0) < copies:
        assert time.monotonic() < deadline_s, f"{trial}: {scene.story()}"
        await scene.ask_next("SHADOW", rows, concept_change)
    return trial


async def test_copies_are_answered_as_its_files_say_while_nobody_can_have_its_answer(
    trained: Stage, tmp_path: Path
) -> None:
    rows = load().stream
    async with playing(OnTrial(tmp_path, trained=trained)) as scene, aiohttp.ClientSession() as session:
        await scene.stream(rows.part(0, 500))
        await scene.until({"SHADOW"}, rows.part(500, None), concept_change)
        trial = await tried(scene, rows.part(500, None), copies=5)
        assert (trial["failed"], trial["differing"], trial["rows"]) == (0, 0, 50 * trial["calls"])
        shadow, model = scene.moves()[-1], await scene.model()
        assert (shadow["to"], shadow["percent"]) == ("SHADOW", 100)  # who serves meanwhile is the evidence's to say
        assert (model["shadow_version"], model["versions"], model["labels"]) == (2, [1, 2], {"stable": 1})
        analyst = HttpAgent(scene.stage.url, scene.stage.tokens["analyst"], session)
        status, _ = await analyst.post("/v1/models/risk/versions/2:predict", {"inputs": rows.inputs[:1].tolist()})
        assert status == 404
        assert "risk/2" not in scene.answered_by


async def test_a_model_server_that_is_away_meanwhile_refuses_no_challenger(trained: Stage, tmp_path: Path) -> None:
    rows = load().stream
    async with playing(OnTrial(tmp_path, trained=trained)) as scene:
        await scene.stream(rows.part(0, 500))
        await scene.until({"SHADOW"}, rows.part(500, None), concept_change)
        await tried(scene, rows.part(500, None), copies=1)
        scene.parts.running["model-server"].stop()
        for _ in range(10):
            await scene.ask_next("SHADOW", rows.part(500, None), concept_change)
        await scene.read()
        before = trial_in(tmp_path)["calls"]
        start_model_server(scene.parts, scene.stage)
        trial = await tried(scene, rows.part(500, None), copies=before + 3)
        assert trial["failed"] == 0
        assert await scene.state() == "SHADOW"


async def test_a_challenger_that_lost_is_unloaded_and_hidden(trained: Stage, tmp_path: Path) -> None:
    """INJECTED: the old truth comes back while it is in its canary."""
    rows = load().stream
    async with playing(LoopStage(tmp_path, trained=trained)) as scene:
        await scene.stream(rows.part(0, 500))
        await scene.until({"CANARY"}, rows.part(500, None), concept_change)
        passed = next(move for move in scene.moves() if move["reason"] == "shadow_passed")["evidence"]
        assert (passed["shadow_traffic"], passed["copied_failed"], passed["copied_differing"]) == ("on", 0, 0)
        assert passed["copied_rows"] >= 100
        await scene.until({"ROLLED_BACK"}, rows.part(500, None))
        deadline_s = time.monotonic() + LIMIT_S
        while (tmp_path / "models/risk/2").exists():
            assert time.monotonic() < deadline_s
            await asyncio.sleep(0.1)
        model = await scene.model()
        assert (model["versions"], model["labels"], model["canary_percent"]) == ([1], {"stable": 1}, 0)
        assert (tmp_path / "models/risk/.candidates/2/saved_model.pb").is_file(), "it is kept"
