"""The Airflow adapter and a real Airflow 3: the DAG of docs/TRAINERS.md trains, fails, is not there, and is away."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane.retraining.runners.choice import trainer_for
from controlplane.retraining.settings import TrainingSettings
from controlplane.retraining.trainer import Candidate, TrainingError
from tests.real.airflow_server import AirflowServer, running_airflow
from tests.real.conftest import ROOT, free_port
from tests.unit.retraining.training_fakes import GOOD, job_in, leftovers, program

pytestmark = pytest.mark.real("airflow")

PATIENCE_S = 600.0
WAITING = """
import pathlib, sys, time
here = pathlib.Path(__file__).parent
(here / "begun").touch()
while not (here / "go").exists():
    time.sleep(0.1)
"""


def described_dag(name: str = "retrain", python: str = "python train.py") -> str:
    """The example that operators are given, with another name and another program."""
    (text,) = re.findall(
        r"## Airflow\n.*?```python\n(.*?)```", (ROOT / "docs/TRAINERS.md").read_text("utf-8"), re.DOTALL
    )
    assert isinstance(text, str)
    return text.replace("python train.py", python).replace('"retrain"', f'"{name}"')


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowServer]:
    """The trainer's program stands where each test puts it: TRAINER names its folder in a file."""
    folder = tmp_path_factory.mktemp("airflow")
    train = f'{sys.executable} "$(cat {folder}/trainer)/train.py"'
    paused = described_dag("asleep", train).replace("is_paused_upon_creation=False", "is_paused_upon_creation=True")
    dags = {"retrain.py": described_dag("retrain", train), "asleep.py": paused}
    with running_airflow(folder, dags) as server:
        server.wait_for_dags("retrain", "asleep")
        (folder / "token").write_text(server.token())
        yield server


def train(
    tmp_path: Path, airflow: AirflowServer, text: str, dag: str = "retrain", **said: object
) -> asyncio.Task[Candidate]:
    program(tmp_path, text)
    (airflow.home / "trainer").write_text(str(tmp_path))
    there = {"url": airflow.url, "token_file": airflow.home / "token", "dag": dag}
    there |= {name: said.pop(name) for name in ("url", "token_file") if name in said}
    plain = {"runner": "airflow", "poll_s": 0.5, "timeout_s": PATIENCE_S, "airflow": there}
    trainer = trainer_for(TrainingSettings.model_validate(plain | said), tmp_path / "models")
    return asyncio.create_task(trainer.train(job_in(tmp_path, f"{tmp_path}/1"), lambda _: None))


async def until_there(path: Path, training: asyncio.Task[Candidate]) -> None:
    """Another process has no event to wait for."""
    async with asyncio.timeout(PATIENCE_S):
        while not await asyncio.to_thread(path.exists):
            assert not training.done(), training
            await asyncio.sleep(0.1)


async def test_the_dag_of_the_guide_trains_a_version_that_is_published(tmp_path: Path, airflow: AirflowServer) -> None:
    candidate = await train(tmp_path, airflow, GOOD)
    assert (candidate.version, candidate.facts["runner"], candidate.facts["data_rows"]) == (2, "airflow", 5)
    assert leftovers(tmp_path / "models") == ["2"]
    assert airflow.newest_run("retrain") == "success"


async def test_a_run_that_fails_is_a_failed_training_and_stays_one(tmp_path: Path, airflow: AirflowServer) -> None:
    for _ in range(2):  # a restarted monitor asks again, and meets the same run
        with pytest.raises(TrainingError) as raised:
            await train(tmp_path, airflow, "raise SystemExit(3)")
        assert raised.value.reason == "training_failed"
    assert airflow.newest_run("retrain") == "failed"
    assert leftovers(tmp_path / "models") == []


async def test_a_dag_that_airflow_does_not_have_is_a_refusal(tmp_path: Path, airflow: AirflowServer) -> None:
    with pytest.raises(TrainingError) as raised:
        await train(tmp_path, airflow, GOOD, dag="nowhere")
    assert raised.value.reason == "training_refused"


async def test_a_wrong_token_is_nobody_there_until_its_file_is_right(tmp_path: Path, airflow: AirflowServer) -> None:
    token = tmp_path / "token"
    token.write_text("not.a.token")
    with pytest.raises(TrainingError) as raised:
        await train(tmp_path, airflow, GOOD, token_file=token, timeout_s=3.0)
    assert raised.value.reason == "trainer_unavailable"
    assert "answered 403" in str(raised.value)
    token.write_text(airflow.token())
    assert (await train(tmp_path, airflow, GOOD, token_file=token)).version == 2


async def test_nobody_at_the_address_is_nobody_there(tmp_path: Path, airflow: AirflowServer) -> None:
    with pytest.raises(TrainingError) as raised:
        await train(tmp_path, airflow, GOOD, url=f"http://127.0.0.1:{free_port()}", timeout_s=1.0)
    assert raised.value.reason == "trainer_unavailable"


async def test_a_paused_dag_takes_no_job_and_its_run_is_ended(tmp_path: Path, airflow: AirflowServer) -> None:
    with pytest.raises(TrainingError) as raised:
        await train(tmp_path, airflow, GOOD, dag="asleep", timeout_s=10.0)
    assert raised.value.reason == "trainer_unavailable"
    assert airflow.newest_run("asleep") == "failed"


async def test_a_training_that_takes_too_long_is_ended_there(tmp_path: Path, airflow: AirflowServer) -> None:
    training = train(tmp_path, airflow, WAITING, timeout_s=120.0)
    await until_there(tmp_path / "begun", training)
    with pytest.raises(TrainingError) as raised:
        await training
    assert raised.value.reason == "training_timeout"
    assert airflow.newest_run("retrain") == "failed"


async def test_a_server_that_is_killed_is_waited_for_and_the_job_goes_on(
    tmp_path: Path, airflow: AirflowServer
) -> None:
    training = train(tmp_path, airflow, WAITING + GOOD)
    await until_there(tmp_path / "begun", training)
    airflow.kill("api-server")
    airflow.start("api-server")
    await asyncio.to_thread(airflow.wait_until_healthy)
    (tmp_path / "go").touch()
    assert (await training).version == 2
    assert leftovers(tmp_path / "models") == ["2"]
