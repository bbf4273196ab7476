"""The loop on the survey's real rows, trained by a worker behind a real PostgreSQL."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
import yaml

pytest.importorskip("procrastinate", reason="the package procrastinate is not installed (extra: queue)")

from controlplane.monitor import monitor_of
from controlplane.retraining.settings import QueueSettings
from examples.risk_model import data
from tests.real.postgres_server import running_postgres
from tests.unit.retraining.test_real_rows import Survey, first, parts, survey  # noqa: F401 - fixtures

pytestmark = pytest.mark.real("postgres")


async def test_a_change_of_concept_is_learnt_by_a_worker_elsewhere(
    survey: Survey,  # noqa: F811 - the fixture
    parts: data.Parts,  # noqa: F811 - the fixture
    tmp_path: Path,
) -> None:
    await survey.monitor.close()
    with running_postgres() as postgres:
        queue = QueueSettings(dsn=postgres.dsn, heartbeat_s=1.0)
        (model,) = survey.monitor.settings.models
        training = model.training.model_copy(update={"runner": "queue", "queue": queue, "poll_s": 0.1})
        models = (model.model_copy(update={"training": training}),)
        settings = survey.monitor.settings.model_copy(update={"state_dir": tmp_path / "queued", "models": models})
        survey.monitor = monitor_of(settings, survey.gateway)
        config = tmp_path / "monitor.yaml"
        config.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
        command = [sys.executable, "-m", "controlplane.cli", "worker", "--config", str(config)]
        worker = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
        try:
            await survey.ask_about(parts.stream.inputs[:1_000], parts.stream.labels[:1_000])
            changed = parts.stream.part(1_000, 4_500)
            await survey.ask_about(changed.inputs, data.concept_change(changed))
            await survey.monitor.close()
        finally:
            worker.terminate()
            await worker.wait()
        rows = postgres.ask("SELECT status::text FROM procrastinate_jobs")
    trained = [move["evidence"] for move in survey.gateway.ledger if move["reason"] == "trained"]
    assert [move["to"] for move in survey.gateway.ledger][-1] == "HEALTHY"
    assert [evidence["runner"] for evidence in trained] == ["queue"]
    assert rows == [("succeeded",)]
    assert survey.gateway.version == 2
