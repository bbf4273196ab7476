"""The real kfp: it compiles our pipeline, and its local runner does the example's training step.

Between the two stands a Kubeflow Pipelines API of our own (a cluster is not to be had here): it takes a run by REST as
the real one does, and hands it to kfp's local runner in a process of its own, in the interpreter that has kfp.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest

from controlplane.retraining.runners.choice import trainer_for
from controlplane.retraining.scoring import savedmodel_score
from controlplane.retraining.settings import TrainingSettings
from controlplane.retraining.trainer import Candidate, TrainingError, TrainingJob
from examples.risk_model import data
from tests.unit.retraining.http_fake import Answer, Asked, HttpFake, http_fake

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-kfp/bin/python"
RUNS = "/apis/v2beta1/runs"
TRAIN = (sys.executable, "-m", "examples.risk_model.train", "rows", "{rows}", "{out}")

pytestmark = pytest.mark.real("kfp")
pytest.importorskip("statsmodels", reason="the example's rows come inside the statsmodels wheel (extra: drift)")


@dataclass
class LocalKubeflow:
    fake: HttpFake
    folder: Path
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def answer(self, asked: Asked) -> Answer:
        path, run = urlsplit(asked.path), asked.path.removeprefix(f"{RUNS}/")
        if path.path == RUNS and asked.method == "GET":
            ((predicate,),) = json.loads(parse_qs(path.query)["filter"][0]).values()
            known = [each for each in self.runs.values() if each["display_name"] == predicate["string_value"]]
            return 200, {"runs": known}
        if path.path == RUNS:
            return 200, self.start(asked)
        if run.endswith(":terminate"):
            os.killpg(self.processes[run.removesuffix(":terminate")].pid, signal.SIGKILL)
            return 200, {}
        code = self.processes[run].poll()
        state = "RUNNING" if code is None else "SUCCEEDED" if code == 0 else "FAILED"
        return 200, {"run_id": run, "state": state}

    def start(self, asked: Asked) -> dict[str, Any]:
        name = f"run-{len(self.runs)}"
        body = self.folder / f"{name}.json"
        body.write_bytes(asked.body)
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [PYTHON, ROOT / "tests/real/kfp_local.py", body],
                cwd=ROOT,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=os.environ | {"PATH": f"{PYTHON.parent}:{os.environ['PATH']}"},
            )
        self.runs[name] = {"run_id": name, "display_name": asked.json["display_name"]}
        return self.runs[name]


@pytest.fixture
def kubeflow(tmp_path: Path) -> Iterator[LocalKubeflow]:
    if not PYTHON.exists():
        pytest.skip("no .venv-kfp: kfp is not installed")
    with http_fake() as fake:
        kubeflow = LocalKubeflow(fake, tmp_path)
        fake.answer = kubeflow.answer
        yield kubeflow
    for process in kubeflow.processes.values():
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


async def trained(
    tmp_path: Path, kubeflow: LocalKubeflow, command: tuple[str, ...] = TRAIN, timeout_s: float = 180.0
) -> Candidate:
    part = data.load().stream.part(0, 2_000)
    rows = tmp_path / "given.npz"
    np.savez(rows, inputs=part.inputs, labels=data.concept_change(part))
    settings = TrainingSettings.model_validate(
        {
            "runner": "kubeflow",
            "command": command,
            "code": [ROOT / "examples/risk_model/train.py", ROOT / "examples/risk_model/network.py"],
            "poll_s": 0.2,
            "timeout_s": timeout_s,
            "kubeflow": {"url": kubeflow.fake.origin, "python": PYTHON, "volume_claim": "models"},
            "models_there": tmp_path / "models",
        }
    )
    job = TrainingJob(key="episode/1", model="risk", parent_version=1, new_version=2, rows=rows)
    return await trainer_for(settings, tmp_path / "models").train(job, lambda _: None)


async def test_a_pipeline_compiled_by_kfp_trains_the_risk_model_and_a_version_is_published(
    tmp_path: Path, kubeflow: LocalKubeflow
) -> None:
    candidate = await trained(tmp_path, kubeflow)
    assert candidate.facts["runner"] == "kubeflow"
    assert (candidate.facts["data_rows"], candidate.facts["metric_training_rows"]) == (2_000, 1_800)
    later = data.load().stream.part(5_000, None)
    score = savedmodel_score("x", "probabilities")(candidate.directory, later.inputs)
    assert float(np.mean(score != data.concept_change(later))) < 0.40, "it has learnt the new concept"
    assert (await trained(tmp_path, kubeflow)) == candidate
    assert len(kubeflow.runs) == 1


async def test_a_step_that_fails_in_kfp_is_a_failed_training(tmp_path: Path, kubeflow: LocalKubeflow) -> None:
    with pytest.raises(TrainingError) as raised:
        await trained(tmp_path, kubeflow, (sys.executable, "-c", "raise SystemExit(3)"))
    assert raised.value.reason == "training_failed"
    assert not [path for path in (tmp_path / "models/risk/.candidates").iterdir() if path.name != ".lock"]


async def test_a_run_that_takes_too_long_is_terminated(tmp_path: Path, kubeflow: LocalKubeflow) -> None:
    with pytest.raises(TrainingError) as raised:
        await trained(tmp_path, kubeflow, (sys.executable, "-c", "import signal; signal.pause()"), timeout_s=20.0)
    assert raised.value.reason == "training_timeout"
    assert kubeflow.processes["run-0"].wait(30) == -signal.SIGKILL
