"""Airflow 3 over its REST API (/api/v2): a DAG of the operator's is run with the job's description as its conf.

The run's id is the job's name, so that a second asking for the same job meets Airflow's own refusal (409) and not a
second run. The DAG fills ``conf["out"]``, and may leave ``conf["metrics"]``. Ending a job marks its run as failed, upon
which Airflow ends the run's tasks.
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from urllib.parse import quote

from controlplane.retraining.runners.description import Description, place_there
from controlplane.retraining.runners.polled import JobState, JobStatus
from controlplane.retraining.runners.rest import Rest
from controlplane.retraining.settings import AirflowSettings, TrainingSettings
from controlplane.retraining.trainer import TrainerUnavailable

STATES = {
    "queued": JobState.WAITING,
    "running": JobState.RUNNING,
    "success": JobState.SUCCEEDED,
    "failed": JobState.FAILED,
}


def jobs(settings: TrainingSettings, _root: Path) -> AirflowJobs:
    return AirflowJobs(settings.airflow, settings.models_there)


@dataclass(frozen=True, slots=True)
class AirflowJobs:
    """``Jobs`` of one DAG. A job's id is its run's."""

    settings: AirflowSettings
    models_there: Path | None = None

    @property
    def _rest(self) -> Rest:
        return Rest(self.settings.url.rstrip("/"), self.settings.token_file, self.settings.ca_file)

    @property
    def _runs(self) -> str:
        return f"/api/v2/dags/{quote(self.settings.dag, safe='')}/dagRuns"

    async def submit(self, description: Description) -> str:
        wish = {
            "dag_run_id": description.name,
            "logical_date": None,
            "conf": description.as_json(place_there(description, self.models_there)),
        }
        await self._rest.ask_json("POST", self._runs, wish, expected=(HTTPStatus.CONFLICT,))
        return description.name

    async def status(self, job: str) -> JobStatus:
        status, said = await self._rest.ask("GET", f"{self._runs}/{job}", expected=(HTTPStatus.NOT_FOUND,))
        if status == HTTPStatus.NOT_FOUND:
            return JobStatus(JobState.LOST, detail=f"Airflow knows no run {job}")
        state = STATES.get(str(said.get("state")))
        if state is None:
            raise TrainerUnavailable(f"run {job} is in a state that is none: {said.get('state')!r}")
        return JobStatus(state, detail=f"run {job} of {self.settings.dag} is {said['state']}")

    async def end(self, job: str) -> None:
        await self._rest.ask_json("PATCH", f"{self._runs}/{job}", {"state": "failed"}, expected=(HTTPStatus.NOT_FOUND,))
