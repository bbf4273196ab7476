"""What an operator may set about retraining and promotion."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, model_validator

RunnerName = Literal["subprocess", "queue", "kubeflow", "airflow", "webhook"]
OutputKind = Literal["savedmodel", "lora"]


class QueueSettings(BaseModel, frozen=True, extra="forbid"):
    """Jobs in PostgreSQL, taken by `controlplane worker`; needs the extra `queue`."""

    dsn: str = Field(
        default="postgresql://127.0.0.1:5432/controlplane",
        description="PostgreSQL, as a URL or a libpq string without a password; schema tables are made when missing.",
    )
    password_file: Path | None = Field(default=None, description="File that holds the password; none: there is none.")
    name: str = Field(default="training", description="Name of the queue in the database.")
    tries: int = Field(default=2, ge=1, description="Times that a job is begun at most, when its workers die (count).")
    heartbeat_s: float = Field(
        default=5.0, gt=0, description="Seconds between two signs of life of a worker; after six, its job is another's."
    )
    kept_hours: int = Field(default=168, ge=1, description="Hours after which rows of ended jobs are deleted.")


class KubeflowSettings(BaseModel, frozen=True, extra="forbid"):
    """A pipeline of one step, which runs the trainer's command in a container."""

    url: str = Field(default="https://127.0.0.1:8888", description="The Kubeflow Pipelines API, without /apis.")
    token_file: Path | None = Field(default=None, description="Bearer token; read at every call; none: no token.")
    ca_file: Path | None = Field(default=None, description="PEM file of the server's authority; none: the system's.")
    insecure: bool = Field(default=False, description="Allow a connection without TLS to another machine.")
    image: str = Field(default="python:3.11", description="Image of the step; the trainer's command runs in it.")
    python: Path | None = Field(
        default=None, description="Interpreter that has kfp and compiles the pipeline; none: this one."
    )
    experiment_id: str = Field(default="", description="Experiment of the runs; empty: the server's default.")
    volume_claim: str = Field(
        default="",
        description="Volume claim with the models, mounted at models_there; needs kfp-kubernetes; empty: none.",
    )


class AirflowSettings(BaseModel, frozen=True, extra="forbid"):
    """A DAG of the operator's that reads the job's description from its conf."""

    url: str = Field(default="https://127.0.0.1:8080", description="Airflow 3's API server, without /api.")
    token_file: Path | None = Field(default=None, description="Bearer token; read at every call; none: no token.")
    ca_file: Path | None = Field(default=None, description="PEM file of the server's authority; none: the system's.")
    insecure: bool = Field(default=False, description="Allow a connection without TLS to another machine.")
    dag: str = Field(default="retrain", description="Id of the DAG to run.")


class WebhookSettings(BaseModel, frozen=True, extra="forbid"):
    """Any service that takes a job by a signed POST and says at a URL how far it is."""

    url: str = Field(default="https://127.0.0.1:8443/train", description="Where jobs are posted.")
    secret_file: Path = Field(
        default=Path("var/webhook.secret"), description="Secret of the HMAC-SHA-256 signature of every request."
    )
    ca_file: Path | None = Field(default=None, description="PEM file of the server's authority; none: the system's.")
    insecure: bool = Field(default=False, description="Allow a connection without TLS to another machine.")


class TrainingSettings(BaseModel, frozen=True, extra="forbid"):
    """How a new version is trained, and within which limits."""

    runner: RunnerName = Field(
        default="subprocess", description="Who trains; the sections of the same names say where."
    )
    output: OutputKind = Field(
        default="savedmodel", description="What the trainer leaves: a SavedModel, or a LoRA adapter for vLLM."
    )
    command: tuple[str, ...] = Field(
        default=(),
        description="Trainer command; the words {python}, {rows} and {out} stand for this interpreter, the .npz of"
        " labelled rows and the version directory to make. Empty: nothing is retrained, the fallback stays"
        " (airflow and webhook have their own and need none).",
    )
    code: tuple[Path, ...] = Field(
        default=(), description="Files that are the trainer's code; their digest is recorded."
    )
    timeout_s: float = Field(
        default=600.0, gt=0, description="Seconds after which a training run is ended, with its wait for a worker."
    )
    poll_s: float = Field(default=2.0, gt=0, description="Seconds between two questions to a runner elsewhere.")
    memory_bytes: int = Field(
        default=4 * 2**30, gt=0, description="Address space of a training run, in bytes (RLIMIT_AS)."
    )
    disk_free_bytes: int = Field(
        default=256 * 2**20, ge=0, description="Free space that must be left under models_root to begin, in bytes."
    )
    models_there: Path | None = Field(
        default=None, description="Where kubeflow, airflow or webhook have models_root mounted; none: the same path."
    )
    rows_after_change: int = Field(
        default=2_000, ge=50, description="Labelled rows needed after the change point before the first attempt."
    )
    growth: int = Field(
        default=2, ge=1, description="Each further attempt waits for so many times the rows of the last one."
    )
    attempts: int = Field(default=2, ge=1, description="Refused challengers after which a human must look.")
    held_out_percent: int = Field(
        default=30, ge=5, le=80, description="Share of the rows, the newest, that the trainer never sees."
    )
    queue: QueueSettings = Field(default=QueueSettings(), description="The runner queue.")
    kubeflow: KubeflowSettings = Field(default=KubeflowSettings(), description="The runner kubeflow.")
    airflow: AirflowSettings = Field(default=AirflowSettings(), description="The runner airflow.")
    webhook: WebhookSettings = Field(default=WebhookSettings(), description="The runner webhook.")

    @property
    def is_on(self) -> bool:
        """Whether there is anybody who could train."""
        return bool(self.command) or self.runner in ("airflow", "webhook")

    @property
    def is_scored(self) -> bool:
        """Whether the loop can tell by itself what a candidate answers: an adapter's answers are no classes."""
        return self.output != "lora"

    @model_validator(mode="after")
    def _is_safe(self) -> Self:
        for name, chosen in (("kubeflow", self.kubeflow), ("airflow", self.airflow), ("webhook", self.webhook)):
            if self.runner == name:
                require_safe_url(chosen.url, insecure=chosen.insecure)
        dsn = self.queue.dsn
        if "password=" in dsn or ("://" in dsn and urlsplit(dsn).password is not None):
            raise ValueError("no password in queue.dsn: name its file by queue.password_file")
        return self


class MlflowSettings(BaseModel, frozen=True, extra="forbid"):
    """An MLflow registry that is shown what was promoted. Nothing waits for it or is read from it."""

    url: str = Field(description="MLflow's server, without /api.")
    token_file: Path | None = Field(default=None, description="Bearer token; read at every call; none: no token.")
    ca_file: Path | None = Field(default=None, description="PEM file of the server's authority; none: the system's.")
    insecure: bool = Field(default=False, description="Allow a connection without TLS to another machine.")
    name_prefix: str = Field(default="", pattern=r"^[^'/:]*$", description="Stands before a model's name there.")
    alias: str = Field(default="champion", description="Alias that points at the promoted version.")
    source: str = Field(
        default="controlplane://models",
        pattern=r"^[a-z][a-z0-9+.-]*://[^'#?]+$",
        description="Where people find <model>/<version>, as a URI; MLflow takes no local paths.",
    )

    @model_validator(mode="after")
    def _is_safe(self) -> Self:
        require_safe_url(self.url, insecure=self.insecure)
        if self.source.startswith("file:"):
            raise ValueError("mlflow.source must not be a local path: MLflow refuses them")
        return self


class PromotionSettings(BaseModel, frozen=True, extra="forbid"):
    """The gate between a challenger and the agents."""

    false_promotion_ppm: int = Field(
        default=10_000,
        gt=0,
        lt=1_000_000,
        description="Chance, in millionths, that a challenger no better is promoted.",
    )
    undecided_rows: int = Field(
        default=5_000, ge=50, description="Paired rows without a decision after which the challenger is refused."
    )
    mlflow: MlflowSettings | None = Field(
        default=None, description="A registry that is shown what was promoted; none: there is none."
    )


def require_safe_url(url: str, *, insecure: bool) -> None:
    """Raises ``ValueError``: not HTTP, a secret in it, or without TLS to another machine."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is not an http or https URL")
    if parts.username is not None or parts.password is not None:
        raise ValueError("no secrets in a URL: name them by file")
    if parts.scheme == "http" and not insecure and not _is_loopback(parts.hostname):
        raise ValueError(f"{url!r} must be https for another machine, or insecure must be set")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
