"""Kubeflow Pipelines over its REST API (/apis/v2beta1): a pipeline of one step, compiled by kfp, is run for each job.

kfp is not imported here: it is large, and an interpreter of its own may have it (``kubeflow.python``). A run has the
job's name, and before one is made, one of that name is looked for.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from controlplane.retraining.runners import kubeflow_pipeline
from controlplane.retraining.runners.description import Description, place_there
from controlplane.retraining.runners.polled import JobState, JobStatus
from controlplane.retraining.runners.rest import Rest
from controlplane.retraining.settings import TrainingSettings
from controlplane.retraining.trainer import TrainerUnavailable, TrainingFailed

RUNS = "/apis/v2beta1/runs"
COMPILE_S = 120.0
STATES = {
    "RUNTIME_STATE_UNSPECIFIED": JobState.WAITING,  # what a server says before its controller has seen the run
    "PENDING": JobState.WAITING,
    "RUNNING": JobState.RUNNING,
    "PAUSED": JobState.RUNNING,
    "CANCELING": JobState.RUNNING,
    "SUCCEEDED": JobState.SUCCEEDED,
    "SKIPPED": JobState.SUCCEEDED,
    "FAILED": JobState.FAILED,
    "CANCELED": JobState.FAILED,
}


def jobs(settings: TrainingSettings, _root: Path) -> KubeflowJobs:
    return KubeflowJobs(settings)


@dataclass(frozen=True, slots=True)
class KubeflowJobs:
    """``Jobs`` of one Kubeflow. A job's id is its run's."""

    settings: TrainingSettings

    @property
    def _rest(self) -> Rest:
        there = self.settings.kubeflow
        return Rest(there.url.rstrip("/"), there.token_file, there.ca_file)

    async def submit(self, description: Description) -> str:
        found = await self._find(description.name)
        if found is not None:
            return found
        run: dict[str, Any] = {
            "display_name": description.name,
            "description": f"retraining of {description.model} to version {description.new_version}",
            "pipeline_spec": await self._compiled(),
            "runtime_config": {"parameters": self._parameters(description)},
        }
        if self.settings.kubeflow.experiment_id:
            run["experiment_id"] = self.settings.kubeflow.experiment_id
        _, said = await self._rest.ask_json("POST", RUNS, run)
        if not isinstance(said.get("run_id"), str):
            raise TrainingFailed("the answer names no run_id", "training_refused")
        return str(said["run_id"])

    async def _find(self, name: str) -> str | None:
        """A run of that name that an earlier asking has left."""
        predicate = {"key": "name", "operation": "EQUALS", "string_value": name}
        params = {"filter": json.dumps({"predicates": [predicate]}), "page_size": "1"}
        if self.settings.kubeflow.experiment_id:
            params["experiment_id"] = self.settings.kubeflow.experiment_id
        _, said = await self._rest.ask("GET", RUNS, params=params)
        return next((str(run["run_id"]) for run in said.get("runs") or () if run.get("display_name") == name), None)

    def _parameters(self, description: Description) -> dict[str, Any]:
        said = description.as_json(place_there(description, self.settings.models_there))
        return {name: said[name] for name in ("rows", "out", "metrics")} | {"command": list(self.settings.command)}

    async def _compiled(self) -> dict[str, Any]:
        """The pipeline as the API takes it. Raises ``TrainingFailed``: ``training_refused`` by the compiler."""
        there = self.settings.kubeflow
        words = {
            "image": there.image,
            "memory_bytes": self.settings.memory_bytes,
            "claim": there.volume_claim,
            "mount": str(self.settings.models_there or ""),
        }
        process = await asyncio.create_subprocess_exec(
            str(there.python or sys.executable),
            kubeflow_pipeline.__file__,
            json.dumps(words),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(COMPILE_S):
                compiled, complaint = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode != 0:
            raise TrainingFailed(f"kfp: {complaint.decode(errors='replace')[-2_000:]}", "training_refused")
        pipeline, *platforms = yaml.safe_load_all(compiled)
        return {"pipeline_spec": pipeline, "platform_spec": platforms[0]} if platforms else dict(pipeline)

    async def status(self, job: str) -> JobStatus:
        status, said = await self._rest.ask("GET", f"{RUNS}/{quote(job, safe='')}", expected=(HTTPStatus.NOT_FOUND,))
        if status == HTTPStatus.NOT_FOUND:
            return JobStatus(JobState.LOST, detail=f"Kubeflow knows no run {job}")
        state = STATES.get(str(said.get("state", "RUNTIME_STATE_UNSPECIFIED")))
        if state is None:
            raise TrainerUnavailable(f"run {job} is in a state that is none: {said.get('state')!r}")
        error = (said.get("error") or {}).get("message", "")
        return JobStatus(state, detail=f"run {job} is {said.get('state')} {error}".rstrip())

    async def end(self, job: str) -> None:
        path = f"{RUNS}/{quote(job, safe='')}:terminate"
        await self._rest.ask_json("POST", path, {}, expected=(HTTPStatus.NOT_FOUND, HTTPStatus.BAD_REQUEST))
