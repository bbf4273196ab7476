from __future__ import annotations

import asyncio
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from controlplane.retraining.settings import TrainingSettings
from controlplane.retraining.subprocess_trainer import SubprocessTrainer
from controlplane.retraining.trainer import TrainerBusy, TrainingFailed, TrainingJob, TrainingTimeout

GOOD = """
import json, pathlib, sys, numpy
rows, out = sys.argv[1:]
labels = numpy.load(rows)["labels"]
print("chatter"); print(json.dumps({"epoch": 1}))
pathlib.Path(out).mkdir(); (pathlib.Path(out) / "saved_model.pb").write_bytes(b"m" * len(labels))
print(json.dumps({"metrics": {"rows": len(labels)}}))
"""
STUCK = """
import os, pathlib, signal, sys
pathlib.Path(sys.argv[1]).with_name("pid").write_text(str(os.getpid()))
signal.pause()
"""
GREEDY = "x = bytearray(2 * 2**30)"
LOUD = "print('x' * 200_000, flush=True)\n" + GOOD


@pytest.fixture
def job(tmp_path: Path) -> TrainingJob:
    rows = tmp_path / "rows.npz"
    np.savez(rows, inputs=np.zeros((5, 2)), labels=np.ones(5, np.int64))
    return TrainingJob(key="episode/1", model="risk", parent_version=1, new_version=2, rows=rows)


def trainer(tmp_path: Path, program: str, **limits: Any) -> SubprocessTrainer:
    code = tmp_path / "train.py"
    code.write_text(program)
    settings = TrainingSettings(command=("{python}", str(code), "{rows}", "{out}"), code=(code,), **limits)
    return SubprocessTrainer(settings, tmp_path / "models")


def leftovers(tmp_path: Path) -> list[str]:
    return [entry.name for entry in (tmp_path / "models/risk/.candidates").iterdir()]


async def test_a_trained_version_says_from_what_and_by_what_it_was_made(tmp_path: Path, job: TrainingJob) -> None:
    heard: list[Any] = []
    candidate = await trainer(tmp_path, GOOD).train(job, heard.append)
    manifest = json.loads((candidate.directory / "manifest.json").read_text())
    assert manifest["data_sha256"] == hashlib.sha256(job.rows.read_bytes()).hexdigest()
    assert len(manifest["code_sha256"]) == 64
    assert (manifest["metrics"], manifest["parent_version"], manifest["version"]) == ({"rows": 5}, 1, 2)
    assert heard == [{"epoch": 1}, {"metrics": {"rows": 5}}]
    assert leftovers(tmp_path) == ["2"]
    assert not (tmp_path / "models/risk/2").exists(), "training alone shows nothing to a model server"


async def test_the_same_job_is_trained_once(tmp_path: Path, job: TrainingJob) -> None:
    first = await trainer(tmp_path, GOOD).train(job, lambda _: None)
    again = await trainer(tmp_path, "raise SystemExit(1)").train(job, lambda _: None)
    assert again == first


@pytest.mark.parametrize(
    "program", ["raise SystemExit(3)", "pass", "import pathlib, sys; pathlib.Path(sys.argv[2]).mkdir(); raise OSError"]
)
async def test_a_trainer_that_fails_leaves_nothing(tmp_path: Path, job: TrainingJob, program: str) -> None:
    with pytest.raises(TrainingFailed):
        await trainer(tmp_path, program).train(job, lambda _: None)
    assert leftovers(tmp_path) == []


async def test_a_trainer_that_takes_too_long_is_killed(tmp_path: Path, job: TrainingJob) -> None:
    with pytest.raises(TrainingTimeout):
        await trainer(tmp_path, STUCK, timeout_s=1.0).train(job, lambda _: None)
    pid = int((tmp_path / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert leftovers(tmp_path) == []


async def test_a_trainer_that_wants_too_much_memory_fails(tmp_path: Path, job: TrainingJob) -> None:
    with pytest.raises(TrainingFailed, match="MemoryError"):
        await trainer(tmp_path, GREEDY, memory_bytes=2**30).train(job, lambda _: None)


async def test_a_line_longer_than_any_buffer_is_chatter(tmp_path: Path, job: TrainingJob) -> None:
    heard: list[Any] = []
    await trainer(tmp_path, LOUD).train(job, heard.append)
    assert heard[-1] == {"metrics": {"rows": 5}}


async def test_one_training_of_a_model_at_a_time(tmp_path: Path, job: TrainingJob) -> None:
    busy = trainer(tmp_path, STUCK)
    first = asyncio.create_task(busy.train(job, lambda _: None))
    await asyncio.sleep(0)
    with pytest.raises(TrainerBusy):
        await busy.train(job, lambda _: None)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_a_command_that_is_not_there_is_a_failure_and_not_a_crash(tmp_path: Path, job: TrainingJob) -> None:
    missing = SubprocessTrainer(TrainingSettings(command=("/no/such/program",)), tmp_path / "models")
    with pytest.raises(TrainingFailed):
        await missing.train(job, lambda _: None)
