"""From an alarm to the first line of the trainer's program, through each runner that is installed here.

    python -m benchmarks.alarms [--alarms 50] [--runners subprocess queue] [--load 0] [--json FILE]

The clock starts when the loop asks its trainer for a job, before rows are copied and described, and stops in the first
line of a Python program that the runner started, so with its interpreter's own start. Queue: a PostgreSQL and one
`controlplane worker` are started here. Alarms come one after another with pauses by chance, so that they meet the polls
of a worker anywhere. ``--load`` keeps so many other processes busy meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import yaml

from controlplane.retraining.runners.choice import trainer_for
from controlplane.retraining.settings import TrainingSettings
from controlplane.retraining.trainer import TrainingJob
from inference.savedmodel import export_mlp
from tests.real.postgres_server import running_postgres

ROWS, COLUMNS, SEED = 2_000, 30, 7
LONGEST_PAUSE_S = 1.0
PATIENCE_S = 300.0
TRAINER = """import time
began = time.time()
import json, pathlib, shutil, sys
shutil.copytree(pathlib.Path(__file__).with_name("made"), sys.argv[1])
print(json.dumps({"metrics": {"began": repr(began)}}))
"""
BUSY = "while True: pass"


def lay_out(folder: Path) -> dict[str, Any]:
    """A trainer, the model that it leaves and the rows that it is given; the settings of its command."""
    names = [f"c{number}" for number in range(COLUMNS)]
    layers = [(np.zeros((COLUMNS, 2)), np.zeros(2))]
    made = export_mlp(folder / "1", layers, feature_names=names, class_names=["no", "yes"])
    made.rename(folder / "made")
    (folder / "train.py").write_text(TRAINER)
    inputs = np.random.default_rng(SEED).normal(size=(ROWS, COLUMNS))
    np.savez(folder / "rows.npz", inputs=inputs, labels=np.ones(ROWS, np.int64))
    return {"command": ["{python}", str(folder / "train.py"), "{out}"], "code": [str(folder / "train.py")]}


async def delays(training: dict[str, Any], folder: Path, alarms: int) -> list[float]:
    """Seconds from each alarm to its trainer's first line."""
    trainer = trainer_for(TrainingSettings.model_validate(training), folder / "models")
    chance, found = random.Random(SEED), []
    for number in range(alarms):
        await asyncio.sleep(chance.random() * LONGEST_PAUSE_S)
        job = TrainingJob(
            key=f"alarm/{number}", model="risk", parent_version=1, new_version=2 + number, rows=folder / "rows.npz"
        )
        asked = time.time()
        candidate = await trainer.train(job, lambda _: None)
        found.append(float(candidate.facts["metric_began"]) - asked)
    return found


@contextmanager
def queue_and_worker(training: dict[str, Any], folder: Path) -> Generator[dict[str, Any]]:
    with running_postgres() as postgres, (folder / "worker.log").open("wb") as log:
        queued = training | {"runner": "queue", "queue": {"dsn": postgres.dsn}}
        model = {"name": "risk", "feature_names": ["c0"], "training": queued}
        config = folder / "monitor.yaml"
        config.write_text(yaml.safe_dump({"models_root": str(folder / "models"), "models": [model]}))
        command = [sys.executable, "-m", "controlplane.cli", "worker", "--config", str(config)]
        with subprocess.Popen(command, stdout=log, stderr=log) as worker:
            try:
                _wait_for_worker(postgres.dsn)
                yield queued
            finally:
                worker.terminate()
                worker.wait(PATIENCE_S)


def _wait_for_worker(dsn: str) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while time.monotonic() < give_up:
        try:
            with psycopg.connect(dsn, autocommit=True) as connection:
                if connection.execute("SELECT count(*) FROM procrastinate_workers").fetchone() == (1,):
                    return
        except psycopg.Error:  # its tables are not there yet
            pass
        time.sleep(0.1)
    raise SystemExit("the worker did not come up")


@contextmanager
def busy(processes: int) -> Generator[None]:
    running = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def measured(runner: str, alarms: int) -> dict[str, float]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        training = lay_out(folder)
        if runner == "queue":
            training = stack.enter_context(queue_and_worker(training, folder))
        found = sorted(asyncio.run(delays(training, folder, alarms)))
    return {
        "median_s": round(statistics.median(found), 3),
        "p95_s": round(found[int(0.95 * (len(found) - 1))], 3),
        "worst_s": round(found[-1], 3),
        "alarms": alarms,
        "load": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--alarms", type=int, default=50, help="alarms for each runner")
    asked.add_argument("--runners", nargs="+", choices=["subprocess", "queue"], default=["subprocess", "queue"])
    asked.add_argument("--load", type=int, default=0, help="other processes that are kept busy")
    asked.add_argument("--json", type=Path, help="write the figures here too")
    chosen = asked.parse_args()
    found = {}
    with busy(chosen.load):
        for runner in chosen.runners:
            found[runner] = measured(runner, chosen.alarms)
            print(f"{runner}: {found[runner]}", flush=True)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
