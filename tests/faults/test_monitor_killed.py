"""kill -9 of the monitor in the middle of the loop: started again, it goes on where it was, and repeats no move.

Everything is a process of its own, as the demo starts it: two model servers, the gateway, the monitor and its trainer.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import aiohttp
import pytest

from audit import LedgerReader
from audit.verify import verify
from examples.demo.agents import GrpcAgent, HttpAgent
from examples.demo.cast import start_all
from examples.demo.parts import Parts
from examples.demo.stage import Stage
from examples.demo.terminal import Terminal
from examples.risk_model.data import Rows, concept_change, load

BATCH_ROWS = 50
LIMIT_S = 240
KILLED_IN = ["HEALTHY", "DEGRADED", "RETRAINING", "SHADOW"]
KILLED_AT = [7, 19, 40]  # and after so many batches, wherever the loop is then


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    stage = Stage(tmp_path_factory.mktemp("demo"))
    stage.set_up(Terminal())
    return stage


@pytest.fixture
def parts(stage: Stage) -> Iterator[Parts]:
    with Parts(stage.folder) as parts:
        start_all(parts, stage, Terminal())
        yield parts


@dataclass
class Loop:
    """Agents that ask and label, and somebody who kills the monitor."""

    stage: Stage
    parts: Parts
    analyst: GrpcAgent
    operator: HttpAgent
    killed: list[str] = field(default_factory=list)
    batches: int = 0

    async def until_promoted(self, rows: Rows) -> bool:
        labels, deadline_s = concept_change(rows), time.monotonic() + LIMIT_S
        states, batches = list(KILLED_IN), list(KILLED_AT)
        while time.monotonic() < deadline_s:
            start = self.batches * BATCH_ROWS % (len(labels) - BATCH_ROWS)
            answer = await self.analyst.predict(rows.inputs[start : start + BATCH_ROWS])
            assert answer.status == 0, answer.text
            if answer.served_by == "risk/2":
                return True
            await self.operator.label(answer.call_id, labels[start : start + BATCH_ROWS].tolist())
            self.batches += 1
            state = await self.state()
            if state in states:
                states.remove(state)
                self.kill(state)
            elif self.batches in batches:
                self.kill(f"batch {self.batches}")
        return False

    async def state(self) -> str:
        _, said = await self.operator.get("/api/models")
        return next(str(each["state"]) for each in said["models"] if each["name"] == "risk")

    def kill(self, when: str) -> None:
        monitor = self.parts.running["monitor"]
        assert monitor.process.poll() is None, f"the monitor ended by itself before {when}; see {monitor.log}"
        monitor.stop(signal.SIGKILL)
        assert monitor.process.returncode == -signal.SIGKILL
        self.killed.append(when)
        self.parts.restart("monitor", lambda: True)

    def moves(self) -> list[dict[str, Any]]:
        records = LedgerReader(self.stage.ledger).read(limit=10_000, kinds=["drift.transition"])
        return [record.body["drift"] for record in records]


async def test_a_killed_monitor_still_ends_in_a_promotion_and_repeats_no_move(stage: Stage, parts: Parts) -> None:
    async with aiohttp.ClientSession() as session:
        analyst = GrpcAgent(f"127.0.0.1:{stage.grpc}", stage.tokens["analyst"])
        loop = Loop(stage, parts, analyst, HttpAgent(stage.url, stage.tokens["operator"], session))
        promoted = await loop.until_promoted(load().stream.part(1600, None))
        await analyst.close()
    moves = loop.moves()
    assert promoted, f"{[move['to'] for move in moves]} after kills in {loop.killed}"
    assert set(KILLED_IN) <= set(loop.killed)
    keys = [move["key"] for move in moves]
    assert len(keys) == len(set(keys)), "a transition was recorded twice"
    assert [later["from"] for _, later in pairwise(moves)] == [sooner["to"] for sooner, _ in pairwise(moves)]
    assert [move["to"] for move in moves].count("PROMOTED") == 1
    assert faults_at_the_end(parts, stage) == []


def faults_at_the_end(parts: Parts, stage: Stage) -> list[Any]:
    """What an auditor finds after monitor and gateway were told to stop, and did in order."""
    for name in ("monitor", "gateway"):
        parts.running[name].stop()
    assert parts.running["gateway"].process.returncode == 0
    key = (stage.folder / "audit/signing.key.pub").read_text("utf-8").strip()
    return list(verify(stage.ledger, key).faults)
