from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from controlplane.retraining.runners.choice import trainer_for
from controlplane.retraining.settings import TrainingSettings
from controlplane.retraining.trainer import (
    OutputInvalid,
    Trainer,
    TrainerBusy,
    TrainingError,
    TrainingFailed,
    TrainingJob,
    TrainingTimeout,
)

from .training_fakes import GOOD, job_in, leftovers, program

STUCK = """
import os, pathlib, signal, subprocess, sys
started = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
pathlib.Path(sys.argv[3]).write_text(f"{os.getpid()} {started.pid}")
signal.pause()
"""
GREEDY = "x = bytearray(2 * 2**30)"
LOUD = "print('x' * 200_000, flush=True)\n" + GOOD
NESTED = "print('[' * 50_000, flush=True)\n" + GOOD
LEFT_BEHIND = """
import pathlib, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
pathlib.Path(__file__).with_name("pids").write_text(str(child.pid))
"""
HALF = "import pathlib, sys; pathlib.Path(sys.argv[2]).mkdir(); raise OSError"


@pytest.fixture
def job(tmp_path: Path) -> TrainingJob:
    return job_in(tmp_path)


def trainer(tmp_path: Path, text: str, **limits: Any) -> Trainer:
    code = program(tmp_path, text)
    command = ["{python}", str(code), "{rows}", "{out}"] + ([str(tmp_path / "pids")] if text is STUCK else [])
    return trainer_for(TrainingSettings(command=tuple(command), code=(code,), **limits), tmp_path / "models")


async def until_written(path: Path) -> str:
    while not (said := await asyncio.to_thread(content, path)):  # noqa: ASYNC110 - see below
        await asyncio.sleep(0.01)  # a foreign process has no event to wait for
    return said


def content(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def has_ended(pid: int) -> bool:
    """Ended processes that nobody asked for their status are still in the table, as zombies."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


async def test_a_trained_version_says_from_what_and_by_what_it_was_made(tmp_path: Path, job: TrainingJob) -> None:
    heard: list[Any] = []
    candidate = await trainer(tmp_path, GOOD).train(job, heard.append)
    manifest = json.loads((candidate.directory / "provenance.json").read_text())
    assert (manifest["metrics"], manifest["runner"]) == ({"rows": 5}, "subprocess")
    assert heard[0] == {"epoch": 1}
    assert heard[1]["metrics"]["rows"] == 5
    assert leftovers(tmp_path / "models") == ["2"]
    assert not (tmp_path / "models/risk/2").exists(), "training alone shows nothing to a model server"


async def test_the_same_job_is_trained_once(tmp_path: Path, job: TrainingJob) -> None:
    first = await trainer(tmp_path, GOOD).train(job, lambda _: None)
    again = await trainer(tmp_path, "raise SystemExit(1)").train(job, lambda _: None)
    assert again == first


@pytest.mark.parametrize(
    ("text", "error", "reason"),
    [
        ("raise SystemExit(3)", TrainingFailed, "training_failed"),
        ("import os; os.kill(os.getpid(), 11)", TrainingFailed, "training_killed"),
        (HALF, TrainingFailed, "training_failed"),
        (GREEDY, TrainingFailed, "training_out_of_memory"),
        ("pass", OutputInvalid, "output_invalid"),
    ],
)
async def test_every_end_has_its_word_and_leaves_nothing(
    tmp_path: Path, job: TrainingJob, text: str, error: type[TrainingError], reason: str
) -> None:
    with pytest.raises(error) as raised:
        await trainer(tmp_path, text, memory_bytes=2**30).train(job, lambda _: None)
    assert raised.value.reason == reason
    assert leftovers(tmp_path / "models") == []


async def test_a_trainer_that_takes_too_long_is_killed_with_what_it_started(tmp_path: Path, job: TrainingJob) -> None:
    with pytest.raises(TrainingTimeout) as raised:
        await trainer(tmp_path, STUCK, timeout_s=2.0).train(job, lambda _: None)
    assert raised.value.reason == "training_timeout"
    assert all(has_ended(int(pid)) for pid in (tmp_path / "pids").read_text().split())
    assert leftovers(tmp_path / "models") == []


async def test_a_cancelled_training_leaves_no_process(tmp_path: Path, job: TrainingJob) -> None:
    training = asyncio.create_task(trainer(tmp_path, STUCK).train(job, lambda _: None))
    pids = await until_written(tmp_path / "pids")
    training.cancel()
    with pytest.raises(asyncio.CancelledError):
        await training
    assert all(has_ended(int(pid)) for pid in pids.split())


async def test_a_cancelled_training_can_be_taken_up_again(tmp_path: Path, job: TrainingJob) -> None:
    training = asyncio.create_task(trainer(tmp_path, STUCK).train(job, lambda _: None))
    await until_written(tmp_path / "pids")
    training.cancel()
    with pytest.raises(asyncio.CancelledError):
        await training
    candidate = await trainer(tmp_path, GOOD).train(job, lambda _: None)
    assert candidate.version == 2
    assert leftovers(tmp_path / "models") == ["2"]


@pytest.mark.parametrize("text", [LOUD, NESTED])
async def test_a_line_that_nobody_can_read_is_chatter(tmp_path: Path, job: TrainingJob, text: str) -> None:
    heard: list[Any] = []
    await trainer(tmp_path, text).train(job, heard.append)
    assert heard[-1]["metrics"]["rows"] == 5


async def test_a_training_is_over_when_its_program_is_whatever_it_left_running(
    tmp_path: Path, job: TrainingJob
) -> None:
    candidate = await trainer(tmp_path, LEFT_BEHIND + GOOD, timeout_s=20.0).train(job, lambda _: None)
    assert candidate.facts["metric_rows"] == 5
    assert has_ended(int((tmp_path / "pids").read_text()))


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
    missing = trainer_for(TrainingSettings(command=("/no/such/program",)), tmp_path / "models")
    with pytest.raises(TrainingFailed):
        await missing.train(job, lambda _: None)


async def test_what_is_said_last_is_kept_beside_the_job_for_whoever_looks(tmp_path: Path, job: TrainingJob) -> None:
    text = "import json, signal; print(json.dumps({'epoch': 7}), flush=True); signal.pause()"
    said = asyncio.Event()
    training = asyncio.create_task(trainer(tmp_path, text).train(job, lambda _: said.set()))
    await said.wait()
    (status,) = (tmp_path / "models").glob("risk/.candidates/.new-*/status.json")
    assert json.loads(status.read_text()) == {"epoch": 7}
    training.cancel()
    with pytest.raises(asyncio.CancelledError):
        await training


async def test_a_model_left_whole_by_a_killed_process_is_not_made_again(tmp_path: Path, job: TrainingJob) -> None:
    stuck = asyncio.create_task(trainer(tmp_path, STUCK).train(job, lambda _: None))
    await until_written(tmp_path / "pids")
    (place,) = (tmp_path / "models").glob("risk/.candidates/.new-*")
    stuck.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stuck
    (tmp_path / "made").rename(place / "2")
    (place / "metrics.json").write_text('{"rows": 5}')
    candidate = await trainer(tmp_path, "raise SystemExit(1)").train(job, lambda _: None)
    assert candidate.facts["metric_rows"] == 5
