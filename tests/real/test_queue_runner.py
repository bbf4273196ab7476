"""The queue on a real PostgreSQL, with real workers that are killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("procrastinate", reason="the package procrastinate is not installed (extra: queue)")

from controlplane.retraining.runners.choice import trainer_for
from controlplane.retraining.runners.queue_database import MISSED_BEATS
from controlplane.retraining.runners.queue_jobs import place_of
from controlplane.retraining.settings import TrainingSettings
from controlplane.retraining.trainer import (
    Candidate,
    TrainerBusy,
    TrainingError,
)
from tests.real.conftest import free_port
from tests.real.postgres_server import PostgresServer, running_postgres
from tests.unit.retraining.training_fakes import GOOD, job_in, leftovers, program

pytestmark = pytest.mark.real("postgres")

PATIENCE_S = 300.0
PATIENT_S, HASTY_S = 5.0, 1.0  # heartbeats: where no worker dies, none is to be taken for dead on a busy machine
STUCK = """
import json, os, pathlib, signal, sys, time
here = pathlib.Path(__file__).parent
with (here / "pids").open("a") as pids:
    pids.write(f"{os.getpid()}\\n")
print(json.dumps({"epoch": 1}), flush=True)
while not (here / "go").exists():
    time.sleep(0.02)
"""


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with running_postgres() as server:
        yield server


@dataclass
class Plant:
    """Monitors and workers of one model around one queue."""

    path: Path
    postgres: PostgresServer
    text: str = GOOD
    more: dict[str, Any] = field(default_factory=dict)
    heartbeat_s: float = PATIENT_S
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def training(self) -> dict[str, Any]:
        code = program(self.path, self.text)
        queue = {"dsn": self.postgres.dsn, "heartbeat_s": self.heartbeat_s, "tries": 2}
        command = ["{python}", str(code), "{rows}", "{out}"]
        plain = {"runner": "queue", "command": command, "code": [str(code)], "queue": queue, "poll_s": 0.1}
        return plain | {"timeout_s": 300.0} | self.more

    def monitor(self, key: str = "episode/1") -> asyncio.Task[Candidate]:
        """As a monitor process of its own would ask."""
        trainer = trainer_for(TrainingSettings.model_validate(self.training), self.path / "models")
        return asyncio.create_task(trainer.train(job_in(self.path, key), lambda _: None))

    def config(self) -> Path:
        model = {"name": "risk", "feature_names": ["a", "b"], "training": self.training}
        file = self.path / "monitor.yaml"
        settings = {"models_root": str(self.path / "models"), "models": [model]}
        file.write_text(yaml.safe_dump(settings))
        return file

    def worker(self, *options: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "controlplane.cli", "worker", "--config", str(self.config()), *options]
        with (self.path / "worker.log").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        self.workers.append(process)
        return process

    def rows(self) -> list[tuple[object, ...]]:
        return self.postgres.ask("SELECT status::text, attempts FROM procrastinate_jobs ORDER BY id")

    def pids(self) -> list[int]:
        path = self.path / "pids"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    async def until_begun(self, times: int) -> None:
        await until(lambda: len(self.pids()) >= times, self)

    async def until_made(self) -> None:
        await until(lambda: self.postgres.ask("SELECT to_regclass('procrastinate_jobs')") != [(None,)], self)

    async def until_up(self) -> None:
        await self.until_made()
        await until(lambda: self.postgres.ask("SELECT count(*) FROM procrastinate_workers") == [(1,)], self)

    def go(self) -> None:
        (self.path / "go").touch()


async def until(holds: Any, plant: Plant) -> None:
    """Other processes have no event to wait for."""
    async with asyncio.timeout(PATIENCE_S):
        while not await asyncio.to_thread(holds):
            assert all(worker.poll() in (None, 0, -9) for worker in plant.workers), (
                plant.path / "worker.log"
            ).read_text()
            await asyncio.sleep(0.05)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def plant(tmp_path: Path, postgres: PostgresServer) -> Iterator[Plant]:
    postgres.empty()
    plant = Plant(tmp_path, postgres)
    yield plant
    for worker in plant.workers:
        worker.kill()
        worker.wait()


async def test_ten_alarms_at_once_are_one_job(plant: Plant) -> None:
    alarms = [plant.monitor(f"monitor-{number}/1") for number in range(10)]
    refused, waiting = await asyncio.wait(alarms, timeout=PATIENCE_S, return_when=asyncio.FIRST_EXCEPTION)
    while len(waiting) > 1:
        more, waiting = await asyncio.wait(waiting, timeout=PATIENCE_S, return_when=asyncio.FIRST_EXCEPTION)
        refused |= more
    assert all(isinstance(each.exception(), TrainerBusy) for each in refused)
    assert plant.rows() == [("todo", 0)]
    plant.worker()
    (candidate,) = await asyncio.gather(*waiting)
    assert (len(refused), plant.rows()) == (9, [("succeeded", 1)])
    provenance = json.loads((candidate.directory / "provenance.json").read_text())
    assert (provenance["runner"], provenance["metrics"]) == ("queue", {"rows": 5})
    assert leftovers(plant.path / "models") == ["2"]


async def test_an_alarm_while_a_job_runs_is_refused_too(plant: Plant) -> None:
    """procrastinate's own locks would let it wait behind the one that runs."""
    plant.text = STUCK + GOOD
    waiting = plant.monitor("monitor-1/1")
    plant.worker()
    await plant.until_begun(1)
    plant.more = {"timeout_s": 120.0}
    with pytest.raises(TrainerBusy):
        await plant.monitor("monitor-2/1")
    assert plant.rows() == [("doing", 0)]
    plant.go()
    assert (await waiting).version == 2
    assert len(plant.rows()) == 1


async def test_ten_monitors_with_the_same_alarm_share_its_job(plant: Plant) -> None:
    alarms = [plant.monitor() for _ in range(10)]
    plant.worker()
    candidates = await asyncio.gather(*alarms)
    assert len({each.manifest_digest for each in candidates}) == 1
    assert plant.rows() == [("succeeded", 1)]
    assert leftovers(plant.path / "models") == ["2"]


async def test_the_job_of_a_killed_worker_is_picked_up_and_trained_once(plant: Plant) -> None:
    plant.heartbeat_s = HASTY_S
    plant.text = STUCK + GOOD
    waiting = plant.monitor()
    first = plant.worker()
    await plant.until_begun(1)
    first.kill()
    first.wait()
    await until(lambda: not is_running(plant.pids()[0]), plant)
    plant.worker()
    await plant.until_begun(2)
    plant.go()
    candidate = await waiting
    assert (candidate.version, len(plant.pids())) == (2, 2)
    await until(lambda: plant.rows() == [("succeeded", 2)], plant)
    assert leftovers(plant.path / "models") == ["2"]


async def test_a_job_whose_workers_all_die_is_reported_lost(plant: Plant) -> None:
    plant.heartbeat_s = HASTY_S
    plant.text = STUCK + GOOD
    waiting = plant.monitor()
    for begun in (1, 2):
        worker = plant.worker()
        await plant.until_begun(begun)
        worker.kill()
        worker.wait()
    with pytest.raises(TrainingError) as raised:
        await waiting
    assert raised.value.reason == "job_lost"
    assert plant.rows() == [("failed", 2)]
    assert len(plant.pids()) == 2, "bounded"


async def test_an_alarm_is_not_refused_for_a_job_whose_worker_is_dead(plant: Plant) -> None:
    """Nobody else looks: the monitor that asked for that job is gone, and so are the workers."""
    plant.heartbeat_s = HASTY_S
    plant.text = STUCK + GOOD
    waiting = plant.monitor("monitor-1/1")
    worker = plant.worker()
    await plant.until_begun(1)
    waiting.cancel()
    worker.kill()
    worker.wait()
    beaten = f"last_heartbeat < now() - interval '{(MISSED_BEATS + 1) * HASTY_S} seconds'"
    silent = f"SELECT count(*) FROM procrastinate_workers WHERE {beaten}"
    await until(lambda: plant.postgres.ask(silent) == [(1,)], plant)
    plant.more = {"queue": plant.training["queue"] | {"tries": 1}}
    again = plant.monitor("monitor-2/1")
    await until(lambda: plant.rows() == [("failed", 1), ("todo", 0)], plant)
    plant.go()
    plant.worker()
    assert (await again).version == 2


async def test_a_restarted_monitor_reads_back_what_became_of_its_job(plant: Plant) -> None:
    plant.text = STUCK + GOOD
    waiting = plant.monitor()
    plant.worker()
    await plant.until_begun(1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert is_running(plant.pids()[0]), "the job is the worker's and goes on"
    plant.go()
    await until(lambda: plant.rows() == [("succeeded", 1)], plant)
    assert (await plant.monitor()).facts["metric_rows"] == 5
    assert len(plant.rows()) == 1


async def test_a_failure_keeps_its_word_over_a_restart(plant: Plant) -> None:
    plant.text = STUCK + "x = bytearray(2 * 2**30)"
    plant.more = {"memory_bytes": 2**30}
    plant.go()
    waiting = plant.monitor()
    await plant.until_made()
    await until(lambda: len(plant.rows()) == 1, plant)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert plant.worker("--until-empty").wait(PATIENCE_S) == 0
    with pytest.raises(TrainingError) as raised:
        await plant.monitor()
    assert raised.value.reason == "training_out_of_memory"
    assert plant.rows() == [("failed", 1)], "a program that fails is not tried again: it would fail again"


async def test_a_job_that_nobody_takes_is_taken_back(plant: Plant) -> None:
    plant.more = {"timeout_s": 1.0}
    with pytest.raises(TrainingError) as raised:
        await plant.monitor()
    assert raised.value.reason == "trainer_unavailable"
    assert plant.rows() == [("cancelled", 0)]
    assert leftovers(plant.path / "models") == []


async def test_a_job_that_takes_too_long_is_ended_at_its_worker(plant: Plant) -> None:
    plant.text = STUCK
    worker = plant.worker()
    await plant.until_up()
    plant.more = {"timeout_s": 15.0}
    with pytest.raises(TrainingError) as raised:
        await plant.monitor()
    assert raised.value.reason == "training_timeout"
    (pid,) = plant.pids()
    await until(lambda: not is_running(pid), plant)
    await until(lambda: plant.rows() == [("aborted", 1)], plant)
    assert worker.poll() is None, "it waits for the next job"


async def test_no_database_is_no_trainer(plant: Plant) -> None:
    queue = {"dsn": f"postgresql://postgres@127.0.0.1:{free_port()}/postgres"}
    plant.more = {"timeout_s": 0.5, "queue": queue}
    with pytest.raises(TrainingError) as raised:
        await plant.monitor()
    assert raised.value.reason == "trainer_unavailable"
    worker = plant.worker()
    assert worker.wait(PATIENCE_S) == 1
    said = (plant.path / "worker.log").read_text()
    assert ("Traceback" in said, "queue: " in said) == (False, True)


async def test_lost_connections_lose_no_job(plant: Plant) -> None:
    """The monitor asks again; a worker goes on, or ends and leaves its job to the next."""
    plant.heartbeat_s = HASTY_S
    plant.text = STUCK + GOOD
    waiting = plant.monitor()
    worker = plant.worker()
    await plant.until_begun(1)
    plant.postgres.ask("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    plant.go()
    assert (await waiting).version == 2
    plant.workers.remove(worker)
    worker.kill()
    worker.wait()
    assert plant.worker("--until-empty").wait(PATIENCE_S) == 0
    assert len(plant.rows()) == 1
    assert leftovers(plant.path / "models") == ["2"]


async def test_a_worker_told_to_stop_lets_its_job_end(plant: Plant) -> None:
    plant.text = STUCK + GOOD
    waiting = plant.monitor()
    worker = plant.worker()
    await plant.until_begun(1)
    worker.send_signal(signal.SIGTERM)
    plant.go()
    assert (await waiting).version == 2
    assert worker.wait(PATIENCE_S) == 0


async def test_rows_of_jobs_that_ended_long_ago_are_deleted(plant: Plant) -> None:
    waiting = plant.monitor()
    worker = plant.worker()
    await waiting
    worker.kill()
    worker.wait()
    plant.worker("--until-empty").wait(PATIENCE_S)
    assert len(plant.rows()) == 1, "young ones stay"
    plant.postgres.ask("UPDATE procrastinate_events SET at = at - interval '8 days'")
    assert plant.worker("--until-empty").wait(PATIENCE_S) == 0
    assert plant.rows() == []


@pytest.mark.parametrize("name", ["..", "../..", "/etc", "a/b", ""])
def test_a_row_cannot_name_a_directory_elsewhere(tmp_path: Path, name: str) -> None:
    assert place_of(tmp_path, {"model": "risk", "place": ".new-1"}) == tmp_path / "risk/.candidates/.new-1"
    for row in ({"model": name, "place": ".new-1"}, {"model": "risk", "place": name}):
        with pytest.raises(ValueError):
            place_of(tmp_path, row)


async def test_rows_that_changed_after_they_were_described_are_not_trained_on(plant: Plant) -> None:
    waiting = plant.monitor()
    await plant.until_made()
    await until(lambda: len(plant.rows()) == 1, plant)
    (rows,) = (plant.path / "models").glob("risk/.candidates/.new-*/rows.npz")
    with rows.open("ab") as opened:
        opened.write(os.urandom(8))
    plant.worker()
    with pytest.raises(TrainingError, match="not what was described"):
        await waiting
