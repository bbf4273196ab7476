"""What an operator may set about retraining and promotion."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, Field


class TrainingSettings(BaseModel, frozen=True, extra="forbid"):
    """How a new version is trained, and within which limits."""

    command: tuple[str, ...] = Field(
        default=(),
        description="Trainer command; the words {python}, {rows} and {out} stand for this interpreter, the .npz of"
        " labelled rows and the version directory to make. Empty: nothing is retrained, the fallback stays.",
    )
    code: tuple[Path, ...] = Field(
        default=(), description="Files that are the trainer's code; their digest is recorded."
    )
    timeout_s: float = Field(default=600.0, gt=0, description="Seconds after which a training run is killed.")
    memory_bytes: int = Field(
        default=4 * 2**30, gt=0, description="Address space of a training run, in bytes (RLIMIT_AS)."
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
