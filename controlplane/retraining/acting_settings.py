"""What an operator may set about acting on a verdict: who answers meanwhile, limits of training, the canary."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Self

from pydantic import BaseModel, Field, model_validator


class ActingSettings(BaseModel, frozen=True, extra="forbid"):
    """From a verdict on: the fallback, the limits of retraining, and the canary."""

    fallback: Path | None = Field(
        default=None,
        description="Version directory (a SavedModel) of the model that answers in its place. None: nobody can tell"
        " whether it is better, so a degraded version goes on answering, flagged, until a human or a challenger.",
    )
    false_fallback_ppm: int = Field(
        default=10_000,
        gt=0,
        lt=1_000_000,
        description="Chance, in millionths, that calls are given to a fallback that is no better.",
    )
    fallback_rows: int = Field(
        default=1_000,
        ge=50,
        description="Labelled rows without proof that the fallback is better; then a human is asked.",
    )
    jobs_per_day: int = Field(default=3, ge=1, description="Training jobs of one model in 24 hours at most (count).")
    shadow_percent: int = Field(
        default=10,
        ge=0,
        le=100,
        description="Share of the calls that are copied to a challenger in its shadow (percent). 0: none, and it is"
        " compared by its files alone.",
    )
    shadow_rows: int = Field(
        default=200, ge=1, description="Rows of copies that its server must have answered before it may answer anybody."
    )
    shadow_bad_ppm: int = Field(
        default=10_000,
        ge=0,
        lt=1_000_000,
        description="Share, in millionths, of copies that may fail, and of their rows that may differ from its files.",
    )
    shadow_slow_s: float = Field(
        default=0.8, gt=0, description="Seconds from which an answer to a copy is slow; one in five may be."
    )
    canary_percents: tuple[int, ...] = Field(
        default=(1, 10, 50),
        description="Shares of the agents that a challenger gets, one after the other (percent). None: no canary.",
    )
    canary_rows: int = Field(default=200, ge=1, description="Labelled rows that a step of the canary takes at least.")
    canary_margin_ppm: int = Field(
        default=20_000,
        gt=0,
        lt=500_000,
        description="Error rate, in millionths, by which a challenger must be shown not to be worse at each step.",
    )

    @model_validator(mode="after")
    def _grows(self) -> Self:
        steps = (0, *self.canary_percents, 101)
        if any(later <= sooner for sooner, later in pairwise(steps)):
            raise ValueError("canary_percents must grow, from 1 to 100 at most")
        return self
