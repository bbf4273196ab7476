"""The Airflow adapter against a fake that keeps to Airflow 3.3's published API: a contract, not Airflow itself.

Airflow itself is met in tests/real, where it takes a minute to start. What is held here was read from its official
client (apache-airflow-client 3.3.2): the body of a POST to dagRuns must have ``logical_date``, 409 for an id that is
taken, four states, PATCH.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from controlplane.retraining.trainer import Candidate, TrainingError

from .http_fake import Answer, Asked, HttpFake, http_fake
from .training_fakes import job_in, leftovers, polling_trainer, write_model

RUNS = "/api/v2/dags/risk%20retrain/dagRuns"


@dataclass
class FakeAirflow:
    fake: HttpFake
    made: Path
    states: list[str] = field(default_factory=lambda: ["queued", "running", "success"])
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    taken: int = 0

    def answer(self, asked: Asked) -> Answer:
        if asked.headers.get("authorization") != "Bearer t0ken":
            return 401, {"detail": "Unauthorized"}
        if not asked.path.startswith(RUNS):
            return 404, {"detail": "Not Found"}
        return getattr(self, asked.method.lower())(asked)  # type: ignore[no-any-return]

    def post(self, asked: Asked) -> Answer:
        wish = asked.json
        if set(wish) != {"dag_run_id", "logical_date", "conf"} or wish["logical_date"] is not None:
            return 422, {"detail": "Unprocessable"}
        if wish["dag_run_id"] in self.runs:
            self.taken += 1
            return 409, {"detail": "DAGRun already exists"}
        self.runs[wish["dag_run_id"]] = wish["conf"] | {"state": "queued"}
        shutil.copytree(self.made, wish["conf"]["out"])
        return 200, {"dag_run_id": wish["dag_run_id"], "state": "queued"}

    def get(self, asked: Asked) -> Answer:
        name = asked.path.removeprefix(f"{RUNS}/")
        if name not in self.runs:
            return 404, {"detail": "not found"}
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        return 200, {"dag_run_id": name, "state": state}

    def patch(self, asked: Asked) -> Answer:
        self.runs[asked.path.removeprefix(f"{RUNS}/")]["state"] = asked.json["state"]
        return 200, {}


@pytest.fixture
def airflow(tmp_path: Path) -> Iterator[FakeAirflow]:
    with http_fake() as fake:
        airflow = FakeAirflow(fake, write_model(tmp_path / "1"))
        fake.answer = airflow.answer
        yield airflow


async def trained(tmp_path: Path, airflow: FakeAirflow) -> Candidate:
    token = tmp_path / "token"
    token.write_text("t0ken\n")
    there = {"url": airflow.fake.origin, "token_file": token, "dag": "risk retrain"}
    trainer = polling_trainer(tmp_path / "models", runner="airflow", airflow=there)
    return await trainer.train(job_in(tmp_path), lambda _: None)


async def test_a_dag_run_is_followed_to_a_published_version(tmp_path: Path, airflow: FakeAirflow) -> None:
    candidate = await trained(tmp_path, airflow)
    assert candidate.facts["runner"] == "airflow"
    ((name, conf),) = airflow.runs.items()
    assert (conf["name"], conf["model"], conf["new_version"]) == (name, "risk", 2)


async def test_a_second_asking_finds_the_run_that_is_there(tmp_path: Path, airflow: FakeAirflow) -> None:
    airflow.states = ["failed"]
    for _ in range(2):
        with pytest.raises(TrainingError) as raised:
            await trained(tmp_path, airflow)
        assert raised.value.reason == "training_failed"
    assert (len(airflow.runs), airflow.taken) == (1, 1)


async def test_a_run_that_takes_too_long_is_marked_as_failed(tmp_path: Path, airflow: FakeAirflow) -> None:
    airflow.states = ["running"]
    with pytest.raises(TrainingError) as raised:
        await trained(tmp_path, airflow)
    assert raised.value.reason == "training_timeout"
    assert [run["state"] for run in airflow.runs.values()] == ["failed"]
    assert leftovers(tmp_path / "models") == []


async def test_a_run_that_was_deleted_is_lost(tmp_path: Path, airflow: FakeAirflow) -> None:
    def forgetful(asked: Asked) -> Answer:
        airflow.runs.clear() if asked.method == "GET" else None
        return airflow.answer(asked)

    airflow.fake.answer = forgetful
    with pytest.raises(TrainingError) as raised:
        await trained(tmp_path, airflow)
    assert raised.value.reason == "job_lost"


async def test_a_dag_that_is_not_there_is_a_refusal(tmp_path: Path, airflow: FakeAirflow) -> None:
    airflow.fake.answer = lambda _: (404, {"detail": "The DAG was not found"})
    with pytest.raises(TrainingError) as raised:
        await trained(tmp_path, airflow)
    assert raised.value.reason == "training_refused"


@pytest.mark.parametrize(
    "answer", [(401, {}), (403, {"detail": "Invalid JWT token"}), (503, {}), (200, {"state": "thinking"})]
)
async def test_answers_that_may_change_are_waited_for(tmp_path: Path, airflow: FakeAirflow, answer: Answer) -> None:
    airflow.fake.answer = lambda _: answer
    with pytest.raises(TrainingError) as raised:
        await trained(tmp_path, airflow)
    assert raised.value.reason == "trainer_unavailable"
