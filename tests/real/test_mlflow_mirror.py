"""A real MLflow server is shown what was promoted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controlplane.retraining.mlflow_mirror import MlflowMirror
from controlplane.retraining.settings import MlflowSettings
from controlplane.retraining.versions import Versions
from tests.real.conftest import free_port

ROOT = Path(__file__).parents[2]
MLFLOW = ROOT / ".venv-mlflow/bin/mlflow"
PATIENCE_S = 180.0

pytestmark = pytest.mark.real("mlflow")


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if not MLFLOW.exists():
        pytest.skip("no .venv-mlflow: MLflow is not installed")
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    command = [MLFLOW, "server", f"--backend-store-uri=sqlite:///{folder}/mlflow.db", "--host=127.0.0.1"]
    command += [f"--port={port}", "--workers=1", f"--default-artifact-root={folder}/artifacts"]
    environment = os.environ | {"DO_NOT_TRACK": "true", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True, env=environment)
    try:
        wait_until_healthy(f"http://127.0.0.1:{port}", server, folder / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def wait_until_healthy(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while time.monotonic() < give_up and server.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=2).close()
        except OSError:
            time.sleep(0.5)  # a foreign process has no event to wait for
        else:
            return
    pytest.fail(log.read_text())


def asked(url: str, path: str, **params: str) -> dict[str, Any]:
    query = urllib.parse.urlencode(params)
    with urllib.request.urlopen(f"{url}/api/2.0/mlflow/{path}?{query}", timeout=30) as answer:
        return json.load(answer)  # type: ignore[no-any-return]


def promoted(root: Path, model: str, version: int) -> str:
    """A version with its provenance, as the loop leaves one; returns the digest."""
    versions = Versions(root, model)
    filled = versions.workplace()
    (filled / "saved_model.pb").write_bytes(b"m")
    manifest = {"job": f"j/{version}", "data_sha256": "d" * 64, "metrics": {"checked_errors": 3, "auc": 0.5}}
    candidate = versions.accept(filled, version, manifest)
    versions.publish(version)
    return candidate.manifest_digest


async def test_a_promoted_version_is_registered_once_and_the_alias_follows(mlflow: str, tmp_path: Path) -> None:
    digest = promoted(tmp_path, "risk", 2)
    mirror = MlflowMirror(MlflowSettings(url=mlflow, name_prefix="served-"), tmp_path)
    assert await mirror.show("risk", 2)
    assert await mirror.show("risk", 2), "asked again after a restart"
    found = asked(mlflow, "model-versions/search", filter="name='served-risk'")["model_versions"]
    assert len(found) == 1
    tags = {tag["key"]: tag["value"] for tag in found[0]["tags"]}
    assert tags["controlplane.manifest_sha256"] == digest
    assert (tags["controlplane.metric_auc"], tags["controlplane.version"]) == ("0.5", "2")
    assert found[0]["source"] == "controlplane://models/risk/2"

    promoted(tmp_path, "risk", 3)
    assert await mirror.show("risk", 3)
    champion = asked(mlflow, "registered-models/alias", name="served-risk", alias="champion")["model_version"]
    assert champion["source"].endswith("/risk/3")


async def test_what_mlflow_refuses_touches_nobody(mlflow: str, tmp_path: Path) -> None:
    promoted(tmp_path, "risk", 2)
    refused = MlflowSettings(url=mlflow, alias="v1")  # MLflow keeps such names for numbers
    assert not await MlflowMirror(refused, tmp_path).show("risk", 2)
