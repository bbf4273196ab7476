"""How many calls at once, how long the line may grow, and whom a throttle lets pass."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, Field, model_validator


class AdmissionSettings(BaseModel, frozen=True, extra="forbid"):
    """For one model server. Let the limit adapt where calls cost about the same (predictions); a server that batches
    generated text is slower and better used when it is full, and latency alone cannot tell the two apart."""

    limit_calls: int = Field(
        default=256, ge=1, description="Calls at once before others wait; where an adaptive limit begins."
    )
    adaptive: bool = Field(default=False, description="Whether the limit follows the latency.")
    min_limit_calls: int = Field(
        default=8, ge=1, description="Calls at once that an adaptive limit always lets through."
    )
    max_limit_calls: int = Field(default=1024, ge=1, description="Calls at once that it never goes beyond.")
    tolerance_ratio: float = Field(
        default=2.0, gt=1, description="Median latency over the uncongested one at which an adaptive limit shrinks."
    )
    window_s: float = Field(default=1.0, gt=0, description="Seconds of calls that are judged together, at least.")
    window_calls: int = Field(default=20, ge=5, description="Calls that are judged together, at least.")
    queue_calls: int = Field(default=256, ge=0, description="Calls that may wait; 0 sheds at once.")
    queue_wait_s: float = Field(default=10.0, gt=0, description="Seconds a call waits at most, if it lives that long.")
    urgent_priority: int = Field(
        default=2, ge=-1, le=9, description="Calls of this priority and more urgent ones pass a throttle; -1: none."
    )
    throttle_ratio: float = Field(
        default=0.5, gt=0, lt=1, description="Share of the calls at once that one step of a throttle leaves to others."
    )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.adaptive and not self.min_limit_calls <= self.limit_calls <= self.max_limit_calls:
            raise ValueError("limit_calls must be between min_limit_calls and max_limit_calls")
        return self
