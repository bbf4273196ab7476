"""What must change nothing, through real processes: a monitor that is away, and an agent that wants a retraining."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import signal
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from audit import LedgerReader
from controlplane.identity.development import DevelopmentIssuer, Grant
from examples.demo.agents import GrpcAgent
from examples.demo.stage import ROOT, TOKEN_TTL_S, Stage
from examples.risk_model.data import Rows, load
from tests.process.loop_scene import BATCH_ROWS, LoopStage, playing, trained_in

pytest.importorskip("statsmodels", reason="the example's rows come inside the statsmodels wheel (extra: drift)")

LIMIT_S = 600
GAP = re.compile(r"^controlplane_observations_gap_seconds(?:\{.*\})? (\S+)$", re.MULTILINE)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    return trained_in(tmp_path_factory.mktemp("trained"))


async def so(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.1)


def unread_s(stage: Stage) -> float:
    """What the alert ``ControlplaneMonitorAway`` looks at."""
    with urllib.request.urlopen(f"http://127.0.0.1:{stage.metrics}/metrics", timeout=30) as reply:
        found = GAP.search(reply.read().decode())
    assert found is not None
    return float(found[1])


class Watchful(LoopStage):
    def _monitor_settings(self) -> dict[str, Any]:
        return super()._monitor_settings() | {"away_s": 1.0}


async def test_without_its_monitor_calls_go_on_the_gateway_tells_it_and_the_gap_is_recorded(
    trained: Stage, tmp_path: Path
) -> None:
    rows = load().stream
    async with playing(Watchful(tmp_path, trained=trained)) as scene:
        await scene.stream(rows.part(0, 500))
        scene.parts.running["monitor"].stop(signal.SIGKILL)
        ledger = LedgerReader(scene.stage.ledger)
        gaps = len(ledger.read(kinds=["watch.gap"]))
        before, asked, deadline_s = unread_s(scene.stage), 0, time.monotonic() + LIMIT_S
        while unread_s(scene.stage) < before + 3:
            assert time.monotonic() < deadline_s
            start = 500 + asked % 8_000
            await scene.ask(scene.analyst, rows.part(start, start + BATCH_ROWS))
            asked += BATCH_ROWS
        assert set(scene.answered_by) == {"risk/1"}
        scene.parts.restart("monitor", lambda: True)
        await so(lambda: len(ledger.read(kinds=["watch.gap"])) > gaps)
        gap = ledger.read(kinds=["watch.gap"])[-1].body["gap"]
        assert gap["reason"] in ("monitor_away", "overwritten"), "as many calls as there was time for"
        assert gap["to_ms"] - gap["from_ms"] >= 1_000
        await so(lambda: unread_s(scene.stage) < 3)
        await scene.read()
        assert set(scene.story()) <= {"HEALTHY", "WARN"}, "what was asked meanwhile was read afterwards"


class Guarded(LoopStage):
    """As the defaults have it: nobody speaks for everybody. Three agents more, of whom the last one is the attacker."""

    def _issue_tokens(self) -> None:
        super()._issue_tokens()
        self.tokens |= {name: self._token(f"agent:{name}") for name in AGENTS}

    def _token(self, subject: str) -> str:
        grant = Grant(subject=subject, tenant="acme", kind="agent")
        return DevelopmentIssuer(self.folder / "identity").issue(grant, ttl_s=TOKEN_TTL_S)

    def _gateway_settings(self) -> dict[str, Any]:
        shutil.copytree(ROOT / "policies", self.folder / "policies")
        path = self.folder / "policies/tenants/acme/principals.yaml"
        known = yaml.safe_load(path.read_text("utf-8"))
        analyst = next(each for each in known["principals"] if each["id"] == "agent:analyst")
        known["principals"] += [analyst | {"id": f"agent:{name}"} for name in AGENTS]
        path.write_text(json.dumps(known), "utf-8")  # YAML without anchors
        return super()._gateway_settings() | {"policy": {"path": str(self.folder / "policies")}}

    def _monitor_settings(self) -> dict[str, Any]:
        settings = super()._monitor_settings()
        model = settings["models"][0]
        model["watch"] = dict(self.reference)
        del model["blocks"]
        return settings


AGENTS = ("first", "second", "attacker")
ROWS_A_CALL, CALLS = 12, 280


def wild(rows: Rows) -> Rows:
    """INJECTED: every value is out of all bounds."""
    return Rows(np.full_like(rows.inputs, 1e9), rows.visits)


def lied_about(rows: Rows) -> NDArray[np.int64]:
    """INJECTED: the opposite of what came true."""
    return 1 - rows.labels


@pytest.mark.parametrize("poison", ["labels", "values"])
async def test_an_agent_with_a_seventh_of_the_rows_gets_no_retraining(
    trained: Stage, tmp_path: Path, poison: str
) -> None:
    rows = load().stream
    async with playing(Guarded(tmp_path, trained=trained)) as scene:
        address = f"127.0.0.1:{scene.stage.grpc}"
        others = [GrpcAgent(address, scene.stage.tokens[name]) for name in AGENTS]
        honest, attacker = [scene.analyst, *others[:-1]], others[-1]
        for number in range(CALLS):
            batch = rows.part(number * ROWS_A_CALL, (number + 1) * ROWS_A_CALL)
            if number % 7:
                await scene.ask(honest[number % 3], batch)
            elif poison == "labels":
                await scene.ask(attacker, batch, lied_about)
            else:
                await scene.ask(attacker, wild(batch))
        await scene.read()
        for agent in others:
            await agent.close()
        assert scene.story()[0] == "HEALTHY"
        assert not {"DEGRADED", "RETRAINING"} & set(scene.story()), "a fault of its own rows at most"
        assert not (tmp_path / "models/risk/.candidates").exists()
