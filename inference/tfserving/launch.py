"""What ``tensorflow_model_server`` is started with: its three files in protobuf's text format, and its command line.

The files only say how it begins. From the first reload on the gateway says what is served, so the server is told not to
look at the model file again.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from google.protobuf import text_format
from pydantic import BaseModel, Field

from inference.tfserving.control import server_config
from inference.tfserving.served import Served

MODELS_FILE, BATCHING_FILE, MONITORING_FILE = "models.config", "batching.config", "monitoring.config"
METRICS_PATH = "/monitoring/prometheus/metrics"


class LaunchSettings(BaseModel, frozen=True, extra="forbid"):
    """How a TensorFlow Serving server is started."""

    port: int = Field(default=8500, ge=1, le=65535, description="Port of gRPC.")
    rest_port: int = Field(
        default=8501, ge=1, le=65535, description="Port of metrics (and of REST, which nobody needs)."
    )
    batch_size: int = Field(default=32, ge=1, description="Largest batch that calls are put together to (rows).")
    batch_timeout_ms: int = Field(default=100, ge=0, description="Longest wait for a batch to fill, milliseconds.")
    batch_threads: int | None = Field(default=None, ge=1, description="Batches run at once; none: one for each CPU.")
    queued_batches: int | None = Field(default=None, ge=1, description="Batches that may wait; none: the server's own.")


def model_config_text(models: Mapping[str, Served]) -> str:
    """A ``ModelServerConfig``. A model without versions begins with the newest that the server finds."""
    config = server_config(models)
    for name, served in sorted(models.items()):
        if not served.versions:
            entry = config.model_config_list.config.add(name=name, base_path=served.base_path)
            entry.model_platform = "tensorflow"
            entry.model_version_policy.latest.num_versions = 1
    return str(text_format.MessageToString(config))


def batching_text(settings: LaunchSettings) -> str:
    """``BatchingParameters``."""
    chosen = {
        "max_batch_size": settings.batch_size,
        "batch_timeout_micros": settings.batch_timeout_ms * 1000,
        "num_batch_threads": settings.batch_threads,
        "max_enqueued_batches": settings.queued_batches,
    }
    return "".join(f"{name} {{ value: {value} }}\n" for name, value in chosen.items() if value is not None)


def monitoring_text() -> str:
    """A ``MonitoringConfig``."""
    return f'prometheus_config {{\n  enable: true\n  path: "{METRICS_PATH}"\n}}\n'


def command_line(settings: LaunchSettings, folder: Path) -> str:
    """What to run where ``folder`` holds the three files."""
    arguments = [
        "tensorflow_model_server",
        f"--port={settings.port}",
        f"--rest_api_port={settings.rest_port}",
        f"--model_config_file={folder / MODELS_FILE}",
        "--model_config_file_poll_wait_seconds=0",
        "--allow_version_labels_for_unavailable_models=true",
        "--enable_batching=true",
        f"--batching_parameters_file={folder / BATCHING_FILE}",
        f"--monitoring_config_file={folder / MONITORING_FILE}",
        "--enable_model_warmup=true",
    ]
    return shlex.join(arguments)


def write_files(folder: Path, models: Mapping[str, Served], settings: LaunchSettings) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MODELS_FILE).write_text(model_config_text(models), "utf-8")
    (folder / BATCHING_FILE).write_text(batching_text(settings), "utf-8")
    (folder / MONITORING_FILE).write_text(monitoring_text(), "utf-8")
