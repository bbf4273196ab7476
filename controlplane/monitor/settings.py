"""What the monitor process reads at its start."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, Field, HttpUrl, TypeAdapter, field_validator

from controlplane.drift.hysteresis import BlockSettings
from controlplane.drift.input_settings import InputSettings
from controlplane.drift.settings import ReportSettings, WatchSettings
from controlplane.retraining.acting_settings import ActingSettings
from controlplane.retraining.settings import PromotionSettings, TrainingSettings
from controlplane.telemetry.settings import TelemetrySettings


class WatchedModel(BaseModel, frozen=True, extra="forbid"):
    """One model under watch."""

    name: str = Field(description="The model's name at the gateway and under models_root.")
    input: str = Field(default="x", description="Input tensor of shape (rows, features).")
    output: str = Field(default="probabilities", description="Output tensor: probabilities or integer classes.")
    feature_names: tuple[str, ...] = Field(description="Names of the features, in the order of the input's columns.")
    watch: WatchSettings = Field(default_factory=WatchSettings, description="How its labelled error is watched.")
    inputs: InputSettings = Field(default_factory=InputSettings, description="How all else of it is watched.")
    training: TrainingSettings = Field(default_factory=TrainingSettings, description="How it is retrained.")
    promotion: PromotionSettings = Field(
        default_factory=PromotionSettings, description="What a new version has to show."
    )
    acting: ActingSettings = Field(default_factory=ActingSettings, description="What is done about a verdict.")
    blocks: BlockSettings = Field(
        default_factory=BlockSettings, description="When rows are at fault, and for how long."
    )


class MonitorSettings(BaseModel, frozen=True, extra="forbid"):
    """Everything the monitor process reads at its start."""

    gateway_url: str = Field(default="http://127.0.0.1:8080", description="Where the gateway's API is.")
    token_file: Path = Field(default=Path("var/monitor.token"), description="The monitor's token; read at every call.")
    state_dir: Path = Field(default=Path("var/monitor"), description="The monitor's memory, rows and reports.")
    models_root: Path = Field(default=Path("var/models"), description="<model>/<version>/, as model servers read it.")
    poll_s: float = Field(default=1.0, gt=0, description="Seconds between two readings when there is nothing new.")
    timeout_s: float = Field(default=10.0, gt=0, description="Seconds to wait for the gateway.")
    batch: int = Field(default=1_000, ge=1, description="Observations read at once.")
    away_s: float = Field(
        default=60.0, gt=0, description="Seconds without a reading after which the gap goes into the ledger."
    )
    language_models: tuple[str, ...] = Field(
        default=(), description="Language models whose signals are watched: what moves is recorded, nothing is done."
    )
    language: InputSettings = Field(
        default_factory=lambda: InputSettings(reference_rows=2_000), description="How they are watched."
    )
    kept_rows: int = Field(default=100_000, ge=1_000, description="Labelled rows remembered, over all models.")
    report: ReportSettings = Field(default_factory=ReportSettings, description="The report beside a verdict.")
    telemetry: TelemetrySettings = Field(
        default=TelemetrySettings(metrics_port=9465), description="Where the monitor's own metrics are."
    )
    models: tuple[WatchedModel, ...] = Field(default=(), description="Models under watch.")

    @field_validator("gateway_url")
    @classmethod
    def _an_address(cls, url: str) -> str:
        TypeAdapter(HttpUrl).validate_python(url)
        return url

    @field_validator("models")
    @classmethod
    def _each_once(cls, models: tuple[WatchedModel, ...]) -> tuple[WatchedModel, ...]:
        names = [model.name for model in models]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} stands here twice")
        return models
