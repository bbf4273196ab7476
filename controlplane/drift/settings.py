"""What an operator may set about watching a model's labelled error."""

from __future__ import annotations

from pydantic import BaseModel, Field


class WatchSettings(BaseModel, frozen=True, extra="forbid"):
    """How the labelled error of one model version is watched."""

    false_alarm_rows: int = Field(
        default=260_000,
        ge=100,
        description="Mean number of labelled rows to a false alarm is at least this (1/alpha): its part of one false "
        "alarm in 100,000 rows over all detectors of a model.",
    )
    reference_rows: int = Field(
        default=2_000, ge=50, description="Labelled rows from which the reference error is learnt before any verdict."
    )
    reference_errors: int | None = Field(
        default=None,
        ge=0,
        description="Errors among reference_rows, when the reference is known; nothing is learnt then.",
    )
    rows_per_principal_per_block: int = Field(
        default=5, ge=1, description="Rows of one principal that count in a block; more are stored, not counted."
    )
    block_rows: int = Field(default=50, ge=1, description="Counted rows that close a block.")
    block_offered_rows: int = Field(
        default=200, ge=1, description="Rows, counted or not, that close a block at the latest."
    )
    corroborating_principals: int = Field(
        default=2,
        ge=1,
        description="Principals who must show the evidence; set to 1 only where a single service account calls.",
    )
    quiet_rows: int = Field(
        default=500, ge=1, description="Counted rows without a new suspicion after which WARN clears."
    )
    window_rows: int = Field(default=20_000, ge=100, description="Counted rows remembered for the change point.")
    pending_calls: int = Field(default=20_000, ge=1, description="Predictions that may wait for their labels.")


class ReportSettings(BaseModel, frozen=True, extra="forbid"):
    """The Evidently report beside a verdict, and every night. It explains; it never decides."""

    enabled: bool = Field(default=True, description="Whether a report is made when a verdict falls.")
    nightly_hour_utc: int | None = Field(
        default=2, ge=0, le=23, description="Hour at which every watched model gets a report; null: only on alarm."
    )
    python: str = Field(
        default="", description="Interpreter of the environment that has Evidently; empty: the monitor's own."
    )
    timeout_s: float = Field(default=120.0, gt=0, description="Seconds after which the report is given up.")
    memory_bytes: int = Field(default=2**30, gt=0, description="Address space of the report's process, in bytes.")
    columns: int = Field(default=50, ge=1, le=300, description="At most so many columns, those that moved most.")
    reference_rows: int = Field(default=10_000, ge=100, description="At most so many rows of what was normal.")
    rows: int = Field(default=5_000, ge=100, description="At most so many current rows.")
