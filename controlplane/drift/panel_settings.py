"""What an operator may set about the detectors of one model version."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from controlplane.drift.budget import Budget


class PanelSettings(BaseModel, frozen=True, extra="forbid"):
    """How inputs, predictions and signals of one model version are watched."""

    trigger: Literal["sequential", "evidently"] = Field(
        default="sequential",
        description="What watches the inputs: e-detectors with a false alarm bound, or a calibrated score per window.",
    )
    budget: Budget = Field(default_factory=Budget, description="False alarms allowed, and how detectors share them.")
    reference_risk: float = Field(
        default=0.01,
        gt=0,
        lt=0.5,
        description="Probability, over the draw of the reference rows, that the false alarm bound of a scale fails.",
    )
    drift_score_threshold: float = Field(
        default=0.3, gt=0, lt=1, description="Score at which trigger evidently warns; 0.3 is one false window in 1,000."
    )
    window_rows: int = Field(default=1_000, ge=100, description="Rows of a window of trigger evidently.")
    window_resamples: int = Field(
        default=2_000, ge=2_000, description="Windows drawn from the reference to calibrate the drift score."
    )
