"""How a model is chosen for a task, and how fast what was learnt is forgotten."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, Field, model_validator

from inference.selection.scoring import SCORERS

DAY_S = 86_400.0


class SelectionSettings(BaseModel, frozen=True, extra="forbid"):
    scorer: str = Field("weighted", description=f"How candidates are compared: one of {', '.join(sorted(SCORERS))}.")
    accuracy_weight: float = Field(0.7, ge=0, description="Weight of accuracy in the score (ratio of all weights).")
    latency_weight: float = Field(0.3, ge=0, description="Weight of inverse latency in the score (likewise).")
    price_weight: float = Field(0.0, ge=0, description="Weight of inverse price in the score (likewise).")
    explore_share: float = Field(
        0.1,  # simulated: 0 loses much more, 0.2 and above hardly less; few of these periods end with another model
        ge=0,
        le=0.5,
        description="Largest share of agents' periods in which a model other than the best is tried.",
    )
    sticky_s: float = Field(300.0, gt=0, description="Length of such a period, seconds: one agent, one model tried.")
    memory_answers: int = Field(
        200, ge=10, description="Judged answers after which an older one counts for a third (count)."
    )
    half_life_s: float = Field(
        DAY_S, gt=0, description="Seconds after which knowledge that is not renewed is half as sure."
    )
    prior_weight: float = Field(
        20.0, ge=0, description="Largest number of judged answers that a card's measurement is worth (count)."
    )
    shared_between_tenants: bool = Field(
        False, description="Whether one tenant's feedback moves other tenants' choices; no: each has its own."
    )
    max_learnt: int = Field(10_000, ge=100, description="Pairs of tenant and model remembered; the idle leave first.")
    output_tokens: int = Field(
        256, ge=1, description="Output tokens that a price is reckoned with when a call sets no limit (tokens)."
    )
    review_drop_ratio: float = Field(
        0.10, gt=0, lt=1, description="Loss of accuracy, as a share of what it was, from which a person must look."
    )
    review_choices: int = Field(3, ge=1, description="Choices in a row of a model that has lost so much (count).")
    review_answers: int = Field(30, ge=5, description="Judged answers that accuracy is looked at over (count).")

    feedback_window_s: float = Field(
        3 * DAY_S, gt=0, description="Age of a call up to which feedback on it is taken, seconds."
    )
    max_feedback: int = Field(
        200_000, ge=100, description="Most feedback remembered so that it counts once; beyond it old calls are refused."
    )
    snapshot_s: float = Field(30.0, gt=0, description="Seconds between two writings of what was learnt to its file.")

    @property
    def counts_prices(self) -> bool:
        """Whether the score looks at prices."""
        return bool(self.price_weight) or self.scorer != "weighted"

    @model_validator(mode="after")
    def _can_compare(self) -> Self:
        if self.scorer not in SCORERS:
            raise ValueError(f"scorer {self.scorer!r} is none of {', '.join(sorted(SCORERS))}")
        if self.accuracy_weight + self.latency_weight + self.price_weight <= 0:
            raise ValueError("one of the weights must be above 0")
        return self
