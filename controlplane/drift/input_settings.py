"""What an operator may set about watching what a model is given and what it answers, without labels."""

from __future__ import annotations

from pydantic import BaseModel, Field

from controlplane.drift.panel_settings import PanelSettings


class InputSettings(BaseModel, frozen=True, extra="forbid"):
    """Inputs, predictions, confidences and signals of one model version."""

    enabled: bool = Field(default=True, description="Whether anything but labels is watched.")
    reference_rows: int = Field(
        default=5_000,
        ge=200,
        description="Counted rows from which a version's reference is learnt, without verdicts.",
    )
    rows_per_principal: int = Field(default=5, ge=1, description="Rows of one principal that count in a block.")
    block_rows: int = Field(default=50, ge=10, description="Counted rows that close a block.")
    block_offered_rows: int = Field(
        default=200, ge=10, description="Rows, counted or not, that close a block at the latest."
    )
    writes_reference: bool = Field(
        default=True,
        description="Whether the reference that the gateway's guard reads is written beside the version, where the "
        "version has none.",
    )
    panel: PanelSettings = Field(default_factory=PanelSettings, description="The detectors.")
