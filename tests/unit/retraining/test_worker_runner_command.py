"""`controlplane worker`: what it refuses before it looks for a database."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from controlplane.monitor import monitor_command
from controlplane.retraining.runners.choice import RunnerNotInstalled, trainer_for
from controlplane.retraining.settings import TrainingSettings
from controlplane.worker import worker_command


def model(name: str, **training: Any) -> dict[str, Any]:
    return {"name": name, "feature_names": ["a"], "training": training}


@pytest.mark.parametrize(
    ("models", "said"),
    [
        ([], "no model has training.runner: queue"),
        ([model("a")], "no model has training.runner: queue"),
        ([model("a", runner="queue"), model("b", runner="queue", queue={"name": "other"})], "different training.queue"),
        ([model("a", runner="queue", queue={"dsn": "postgresql://me:secret@db/x"})], "password_file"),
        ([model("a", runner="queue", queue={"dsn": "host=db password=secret"})], "password_file"),
    ],
)
def test_what_a_worker_cannot_work_with_ends_with_1_and_the_reason(tmp_path: Path, models: Any, said: str) -> None:
    config = tmp_path / "monitor.yaml"
    config.write_text(yaml.safe_dump({"models": models}))
    told = CliRunner().invoke(worker_command, ["--config", str(config)])
    assert (told.exit_code, said in told.output, "secret" in told.output) == (1, True, False)


def test_a_runner_whose_package_is_missing_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError("no", name="procrastinate")

    monkeypatch.setattr("controlplane.retraining.runners.choice.importlib.import_module", missing)
    with pytest.raises(RunnerNotInstalled, match="procrastinate"):
        trainer_for(TrainingSettings(runner="queue", command=("x",)), tmp_path)


def test_a_monitor_whose_runner_is_not_installed_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError("no", name="procrastinate")

    monkeypatch.setattr("controlplane.retraining.runners.choice.importlib.import_module", missing)
    config = tmp_path / "monitor.yaml"
    config.write_text(yaml.safe_dump({"models": [model("a", runner="queue", command=["x"])]}))
    told = CliRunner().invoke(monitor_command, ["--config", str(config)])
    assert (told.exit_code, "procrastinate" in told.output) == (1, True)
