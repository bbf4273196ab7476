"""A toy to run the loop on: one feature, and the truth turns around."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from controlplane.drift.settings import ReportSettings, WatchSettings
from controlplane.drift.states import State
from controlplane.drift.store import MonitorStore
from controlplane.monitor import Monitor, MonitorSettings, WatchedModel
from controlplane.retraining.acting_settings import ActingSettings
from controlplane.retraining.comparing import Broken, none_broken
from controlplane.retraining.course import Course, Evidence
from controlplane.retraining.ports import LoopPorts
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
        self.gateway.beside = lambda version, inputs: toy_score(self.path / f"models/risk/{version}", inputs)
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
    """Until nothing is left to do; while a challenger waits for copies or rows, agents go on asking."""
    await until_quiet(monitor)
    while toy.gateway.state in (State.SHADOW, State.CANARY):
        toy.calls(STEP_CALLS, turned=turned)
        await until_quiet(monitor)


async def live(toy: Toy, *, turned: bool = True) -> None:
    """Start, work, end."""
    monitor = toy.start()
    await work(toy, monitor, turned=turned)
    await monitor.close()


async def story(path: Path, toy: Toy) -> tuple[list[tuple[str, int, int | None]], int]:
    """What is in the ledger and how many labelled rows are kept, whatever happened on the way."""
    rows = sqlite3.connect(path / "state/monitor.sqlite")
    try:
        return toy.gateway.path, rows.execute("SELECT count(*) FROM labelled").fetchone()[0]
    finally:
        rows.close()
