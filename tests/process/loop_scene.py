"""The demo's processes as the stage of loop tests, and agents who ask and learn the truth until something is so."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from numpy.typing import NDArray

from audit import LedgerReader
from audit.verify import verify
from controlplane.drift.reference import reference_of, write_reference
from examples.demo.agents import Answer, GrpcAgent, HttpAgent
from examples.demo.cast import start_all
from examples.demo.parts import Parts
from examples.demo.stage import Stage
from examples.demo.terminal import Terminal
from examples.risk_model.data import FEATURES, Rows, load

BATCH_ROWS, LIMIT_S = 50, 600
LAST_LINES = 30  # of each part's log
PACE, PACE_TRIES = 204, 50  # observations that the monitor may be behind: four batches and their labels
Truth = Callable[[Rows], NDArray[np.int64]]


def as_ever(rows: Rows) -> NDArray[np.int64]:
    return rows.labels


@dataclass
class LoopStage(Stage):
    """The demo's, with rows guarded and no reports. ``trained`` is a stage whose models are taken over."""

    trained: Stage | None = None
    trainer: str = "examples.risk_model.train"

    def _train(self, terminal: Terminal) -> None:
        if self.trained is None:
            super()._train(terminal)
            return
        for name in ("models", "light"):
            shutil.copytree(self.trained.folder / name, self.folder / name)
        self.reference = self.trained.reference

    def _gateway_settings(self) -> dict[str, Any]:
        beside = self.folder / "models/risk/references/1.json"
        write_reference(beside, reference_of(FEATURES, load().training.inputs, tensor="x"))
        return super()._gateway_settings() | {"guard": {"models": ["risk"]}}

    def _monitor_settings(self) -> dict[str, Any]:
        settings = super()._monitor_settings()
        settings["models"][0]["training"]["command"][2] = self.trainer
        return settings | {"report": {"enabled": False}}


@dataclass
class Scene:
    stage: Stage
    parts: Parts
    analyst: GrpcAgent
    north: GrpcAgent  # one of the hundredth of agents who try a canary first
    operator: HttpAgent
    rungs: dict[str, int] = field(default_factory=dict)
    answered_by: dict[str, int] = field(default_factory=dict)
    asked: int = 0

    async def ask(self, agent: GrpcAgent, rows: Rows, truth: Truth = as_ever) -> Answer:
        answer = await agent.predict(rows.inputs)
        assert answer.status == 0, answer
        for counts, name in ((self.rungs, answer.rung), (self.answered_by, answer.served_by)):
            counts[name] = counts.get(name, 0) + 1
        await self.operator.label(answer.call_id, truth(rows).tolist())
        return answer

    async def stream(self, rows: Rows, truth: Truth = as_ever) -> None:
        """All of ``rows``, once; returns when the monitor has read them and made its moves."""
        for start in range(0, len(rows.visits), BATCH_ROWS):
            await self.ask(self.analyst, rows.part(start, start + BATCH_ROWS), truth)
        await self.read()

    async def until(self, states: set[str], rows: Rows, truth: Truth = as_ever) -> None:
        """Round and round through ``rows`` until one of ``states`` is there, or was since, however short it lasted.

        While a canary is tried, one of its agents asks, too.
        """
        deadline_s, before = time.monotonic() + LIMIT_S, len(self.story())
        while (now := await self.state()) not in states and states.isdisjoint(self.story()[before:]):
            assert time.monotonic() < deadline_s, f"{now}, and none of {states}: {self.story()}"
            await self.ask_next(now, rows, truth)

    async def ask_next(self, now: str, rows: Rows, truth: Truth) -> None:
        start = self.asked * BATCH_ROWS % (len(rows.visits) - BATCH_ROWS)
        self.asked += 1
        batch = rows.part(start, start + BATCH_ROWS)
        await self.ask(self.analyst, batch, truth)
        if now == "CANARY":
            await self.ask(self.north, batch, truth)
        await self.keep_pace()

    async def keep_pace(self) -> None:
        """Let the monitor follow: one that reads a whole story at once skips chapters. It may also be dead just now."""
        for _ in range(PACE_TRIES):
            said = await self.look("/api/observations/status")
            if said["newest"] - said["read"] <= PACE:
                return
            await asyncio.sleep(0.02)

    async def read(self) -> None:
        """Wait until the monitor has taken everything in, and twice its pause for what it may do then."""
        deadline_s = time.monotonic() + LIMIT_S
        while time.monotonic() < deadline_s:
            said = await self.look("/api/observations/status")
            if said["read"] >= said["newest"]:
                break
            await asyncio.sleep(0.1)
        await asyncio.sleep(0.5)

    async def look(self, path: str) -> Any:
        status, said = await self.operator.get(path)
        assert status == HTTPStatus.OK, f"{path} answered {status}: {said}"
        return said

    async def model(self) -> dict[str, Any]:
        said = await self.look("/api/models")
        return next(dict(each) for each in said["models"] if each["name"] == "risk")

    async def state(self) -> str:
        return str((await self.model())["state"])

    def moves(self) -> list[dict[str, Any]]:
        records = LedgerReader(self.stage.ledger).read(limit=1_000, kinds=["drift.transition"])
        return [record.body["drift"] for record in records]

    def story(self) -> list[str]:
        return [move["to"] for move in self.moves()]

    def faults_at_the_end(self) -> list[Any]:
        """What an auditor finds after monitor and gateway were told to stop, and did in order."""
        for name in ("monitor", "gateway"):
            self.parts.running[name].stop()
        assert self.parts.running["gateway"].process.returncode == 0
        key = (self.stage.folder / "audit/signing.key.pub").read_text("utf-8").strip()
        return list(verify(self.stage.ledger, key).faults)


@contextmanager
def told_on_failure(stage: Stage) -> Iterator[None]:
    """Says what the parts said last: their logs are gone when somebody looks."""
    try:
        yield
    except BaseException as error:
        for log in sorted((stage.folder / "logs").glob("*.log")):
            error.add_note(
                "\n".join([f"--- {log.name}", *log.read_text("utf-8", "replace").splitlines()[-LAST_LINES:]])
            )
        raise


@asynccontextmanager
async def playing(stage: Stage) -> AsyncIterator[Scene]:
    """Everything runs, each part as a process of its own."""
    stage.set_up(Terminal())
    with told_on_failure(stage), Parts(stage.folder) as parts:
        start_all(parts, stage, Terminal())
        async with aiohttp.ClientSession() as session:
            analyst, north = (GrpcAgent(f"127.0.0.1:{stage.grpc}", stage.tokens[who]) for who in ("analyst", "north"))
            try:
                yield Scene(stage, parts, analyst, north, HttpAgent(stage.url, stage.tokens["operator"], session))
            finally:
                await analyst.close()
                await north.close()


def trained_in(folder: Path) -> Stage:
    stage = LoopStage(folder)
    stage.set_up(Terminal())
    return stage
