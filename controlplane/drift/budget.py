"""How often a model may be accused falsely, and how that allowance is shared between its detectors.

Theory. A detector with an average run length of at least A rows between false alarms gives at most 1/A false alarms a
row in the long run (a renewal argument: it starts anew after each). Rates add whatever the dependence between
detectors, so with weights w that sum to W and A_d = rows_per_false_alarm * W / w_d

    sum over d of 1/A_d  =  1 / rows_per_false_alarm .

No detector sees more observations than the model answers rows, so a bound per observation is a bound per row. Only
armed detectors share: what nobody watches costs nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from pydantic import BaseModel, Field, field_validator

# Labels prove harm and inputs only suggest it, so labels get the largest part; a signal that is rarely wrong crosses
# its threshold with a few answers more when its part is small.
WEIGHTS: Mapping[str, float] = {
    "error": 8.0,
    "inputs_50": 5.0,
    "inputs_200": 2.0,
    "window": 5.0,
    "missing": 1.0,
}
OTHER_WEIGHT = 0.5


class Budget(BaseModel, frozen=True, extra="forbid"):
    """The false alarms that one model version may cause, over all its detectors together."""

    rows_per_false_alarm: int = Field(
        default=100_000, ge=1_000, description="Mean number of rows to a false alarm of any detector is at least this."
    )
    weights: dict[str, float] = Field(
        default_factory=lambda: dict(WEIGHTS),
        description="Part of each detector in the allowance, as a weight; a detector without one has 0.5.",
    )

    @field_validator("weights")
    @classmethod
    def _positive(cls, weights: dict[str, float]) -> dict[str, float]:
        if not all(0 < weight < float("inf") for weight in weights.values()):
            raise ValueError("weights must be positive and finite")
        return weights

    def weight(self, detector: str) -> float:
        return self.weights.get(detector, OTHER_WEIGHT)

    def arl_rows(self, detector: str, armed: Collection[str]) -> float:
        """Rows that must lie on average between two false alarms of ``detector``, given who else is armed."""
        total = sum(self.weight(name) for name in {*armed, detector})
        return self.rows_per_false_alarm * total / self.weight(detector)
