"""The Kubeflow adapter against a fake of its API, with a compiler that stands in for kfp; tests/real has kfp itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from controlplane.retraining.trainer import Candidate, TrainingError

from .http_fake import Answer, Asked, HttpFake, http_fake
from .training_fakes import job_in, leftovers, polling_trainer, write_model

RUNS = "/apis/v2beta1/runs"
COMPILER = """#!/bin/sh
echo "pipelineInfo: {name: retrain}"
case "$2" in *'"claim": "models"'*) echo ---; echo "platforms: {kubernetes: {}}";; esac
"""


@dataclass
class FakeKubeflow:
    fake: HttpFake
    made: Path
    states: list[str] = field(default_factory=lambda: ["PENDING", "RUNNING", "SUCCEEDED"])
    runs: list[dict[str, Any]] = field(default_factory=list)
    terminated: list[str] = field(default_factory=list)

    def answer(self, asked: Asked) -> Answer:
        path, run = urlsplit(asked.path), asked.path.removeprefix(f"{RUNS}/")
        if path.path == RUNS and asked.method == "GET":
            ((predicate,),) = json.loads(parse_qs(path.query)["filter"][0]).values()
            assert (predicate["key"], predicate["operation"]) == ("name", "EQUALS")
            return 200, {"runs": [run for run in self.runs if run["display_name"] == predicate["string_value"]]}
        if path.path == RUNS:
            self.runs.append(asked.json | {"run_id": f"id-{len(self.runs)}"})
            shutil.copytree(self.made, asked.json["runtime_config"]["parameters"]["out"], dirs_exist_ok=True)
            return 200, self.runs[-1]
        if run.endswith(":terminate"):
            self.terminated.append(run.removesuffix(":terminate"))
            return 200, {}
        if run not in {each["run_id"] for each in self.runs}:
            return 404, {"error": "not found"}
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        return 200, {"run_id": run, "state": state, "error": {"message": "because"}}


@pytest.fixture
def kubeflow(tmp_path: Path) -> Iterator[FakeKubeflow]:
    with http_fake() as fake:
        kubeflow = FakeKubeflow(fake, write_model(tmp_path / "1"))
        fake.answer = kubeflow.answer
        yield kubeflow


async def trained(tmp_path: Path, kubeflow: FakeKubeflow, compiler: str = COMPILER, *, claim: str = "") -> Candidate:
    python = tmp_path / "python"
    python.write_text(compiler)
    python.chmod(0o755)
    there = {"url": kubeflow.fake.origin, "python": python, "experiment_id": "e", "volume_claim": claim}
    trainer = polling_trainer(tmp_path / "models", runner="kubeflow", command=["x"], kubeflow=there)
    return await trainer.train(job_in(tmp_path), lambda _: None)


async def test_a_run_is_followed_to_a_published_version(tmp_path: Path, kubeflow: FakeKubeflow) -> None:
    candidate = await trained(tmp_path, kubeflow)
    assert candidate.facts["runner"] == "kubeflow"
    (run,) = kubeflow.runs
    assert run["pipeline_spec"] == {"pipelineInfo": {"name": "retrain"}}
    assert run["experiment_id"] == "e"
    parameters = run["runtime_config"]["parameters"]
    assert set(parameters) == {"command", "rows", "out", "metrics"}


async def test_a_volume_is_asked_of_the_platform(tmp_path: Path, kubeflow: FakeKubeflow) -> None:
    await trained(tmp_path, kubeflow, claim="models")
    assert set(kubeflow.runs[0]["pipeline_spec"]) == {"pipeline_spec", "platform_spec"}


@pytest.mark.parametrize("state", ["FAILED", "CANCELED"])
async def test_a_second_asking_finds_the_run_that_is_there(tmp_path: Path, kubeflow: FakeKubeflow, state: str) -> None:
    kubeflow.states = [state]
    for _ in range(2):
        with pytest.raises(TrainingError, match="because") as raised:
            await trained(tmp_path, kubeflow)
        assert raised.value.reason == "training_failed"
    assert len(kubeflow.runs) == 1


@pytest.mark.parametrize(
    ("state", "reason"),
    [("RUNNING", "training_timeout"), ("PENDING", "trainer_unavailable"), ("DREAMING", "trainer_unavailable")],
)
async def test_a_run_that_does_not_end_is_terminated(
    tmp_path: Path, kubeflow: FakeKubeflow, state: str, reason: str
) -> None:
    kubeflow.states = [state]
    with pytest.raises(TrainingError) as raised:
        await trained(tmp_path, kubeflow)
    assert raised.value.reason == reason
    assert kubeflow.terminated == ["id-0"]
    assert leftovers(tmp_path / "models") == []


async def test_a_run_that_was_deleted_is_lost(tmp_path: Path, kubeflow: FakeKubeflow) -> None:
    def forgetful(asked: Asked) -> Answer:
        if asked.path.startswith(f"{RUNS}/"):
            kubeflow.runs.clear()
        return kubeflow.answer(asked)

    kubeflow.fake.answer = forgetful
    with pytest.raises(TrainingError) as raised:
        await trained(tmp_path, kubeflow)
    assert raised.value.reason == "job_lost"


async def test_a_pipeline_that_cannot_be_compiled_is_a_refusal(tmp_path: Path, kubeflow: FakeKubeflow) -> None:
    with pytest.raises(TrainingError, match="no kfp here") as raised:
        await trained(tmp_path, kubeflow, "#!/bin/sh\necho no kfp here >&2; exit 1\n")
    assert (raised.value.reason, kubeflow.runs) == ("training_refused", [])
