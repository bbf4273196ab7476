"""The shape of `adaptation.yaml`: which signals, over which threshold and for how long, lead to which action.

Checked here with the rest of the bundle, so that `policy lint` names a mistake with its line; what the rules do stands
in the room `adaptation`. Every rule has a way back, and the way back is healthier than the way in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Kind = Literal["gateway", "model", "replica"]
Signal = Literal[
    "cpu_ratio",
    "calls",
    "latency_p95_ms",
    "latency_p99_ms",
    "error_ratio",
    "gpu_or_kv_ratio",
    "waiting",
    "memory_growth_ratio",
    "failed_checks",
    "breaker_open",
    "drift_level",
    "chosen_in_a_row",
    "accuracy_drop_ratio",
]
Action = Literal["throttle", "lighter_tier", "isolate", "restart", "human_review", "notify"]

EVERYBODY: frozenset[Kind] = frozenset({"gateway", "model", "replica"})
SIGNALS: Mapping[Signal, frozenset[Kind]] = MappingProxyType(
    {
        "cpu_ratio": EVERYBODY,  # of this machine or of what it may use of it, 0 to 1
        "calls": frozenset({"model"}),  # that the model answered or failed in this window
        "latency_p95_ms": frozenset({"model"}),  # to the first byte of a streamed answer, to the end of any other
        "latency_p99_ms": frozenset({"model"}),
        "error_ratio": frozenset({"model"}),
        "gpu_or_kv_ratio": frozenset({"model", "replica"}),  # whichever is known and higher; a model's fullest replica
        "waiting": frozenset({"model", "replica"}),  # requests in the servers' own queues
        "memory_growth_ratio": frozenset({"replica"}),  # against the beginning of the memory window
        "failed_checks": frozenset({"replica"}),  # progress checks in a row
        "breaker_open": frozenset({"model"}),  # 1 while a breaker of the model is not closed
        "drift_level": frozenset({"model"}),  # 0 healthy, 1 warn, 2 data fault, 3 degraded and after
        "chosen_in_a_row": frozenset({"model"}),  # by selection, while its accuracy was down
        "accuracy_drop_ratio": frozenset({"model"}),  # against its own reference
    }
)
ACTIONS: Mapping[Action, frozenset[Kind]] = MappingProxyType(
    {
        "throttle": frozenset({"gateway", "model"}),
        "lighter_tier": frozenset({"model"}),
        "isolate": frozenset({"replica"}),
        "restart": frozenset({"replica"}),
        "human_review": EVERYBODY,
        "notify": EVERYBODY,
    }
)
STEPPED: frozenset[Action] = frozenset({"throttle", "lighter_tier", "restart"})
ID_PATTERN = r"^[a-z][a-z0-9_-]*(\.[a-z0-9_-]+)+$"


class _Shape(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Condition(_Shape):
    """One signal against one threshold, or several of these: `all` or `any`."""

    all: list[Condition] = Field(default_factory=list)
    any: list[Condition] = Field(default_factory=list)
    signal: Signal | None = None
    above: float | None = None
    at_least: float | None = None
    below: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _is_one_thing(self) -> Self:
        thresholds = [one for one in (self.above, self.at_least, self.below, self.at_most) if one is not None]
        if [bool(self.all), bool(self.any), self.signal is not None].count(True) != 1:
            raise ValueError("say one of `all`, `any` or `signal`")
        if len(thresholds) != (self.signal is not None):
            raise ValueError("a signal has one of `above`, `at_least`, `below`, `at_most`, and a group has none")
        return self

    def leaves(self) -> Iterator[Condition]:
        if self.signal is not None:
            yield self
        for one in (*self.all, *self.any):
            yield from one.leaves()

    @property
    def rises(self) -> bool:
        """Whether it holds for high values of its signal."""
        return self.above is not None or self.at_least is not None

    @property
    def threshold(self) -> float:
        return next(one for one in (self.above, self.at_least, self.below, self.at_most, 0.0) if one is not None)


class AdaptationRule(_Shape):
    id: str = Field(pattern=ID_PATTERN)
    description: str = ""
    for_each: Kind
    tasks: list[str] = Field(default_factory=list, description="Only models for these tasks; none named is all.")
    except_tasks: list[str] = Field(default_factory=list, description="Not models for these tasks.")
    when: Condition
    windows: int = Field(default=1, ge=1, description="Windows in a row for which `when` must hold, for each step.")
    then: Action
    steps: int = Field(default=1, ge=1, le=10, description="How far it may go.")
    back_when: Condition | None = None
    back_windows: int = Field(default=3, ge=1, description="Windows in a row for each step back.")
    back_on: str = Field(default="", pattern=r"^[a-z_]*$", description="The word with which a person ends it.")
    hold_down_s: float = Field(
        default=30.0, ge=0, description="Seconds before the next step up or back; doubles with every relapse."
    )
    hold_down_max_s: float = Field(
        default=600.0, gt=0, description="Seconds it doubles up to, and within which a step up is a relapse."
    )

    @model_validator(mode="after")
    def _can_be_done(self) -> Self:
        if self.for_each not in ACTIONS[self.then]:
            raise ValueError(f"{self.then} is nothing for a {self.for_each}")
        if self.steps > 1 and self.then not in STEPPED:
            raise ValueError(f"{self.then} has no steps")
        if (self.tasks or self.except_tasks) and self.for_each != "model":
            raise ValueError("only models have tasks")
        for condition in (self.when, self.back_when):
            for leaf in condition.leaves() if condition else ():
                if leaf.signal and self.for_each not in SIGNALS[leaf.signal]:
                    raise ValueError(f"a {self.for_each} has no {leaf.signal}")
        return self

    @model_validator(mode="after")
    def _has_a_way_back(self) -> Self:
        """Without a gap between the two thresholds noise around them would flap."""
        if self.back_when is None:
            if not self.back_on:
                raise ValueError("a rule needs `back_when`, `back_on` or both")
            return self
        for leaf in self.when.leaves():
            back = [one for one in self.back_when.leaves() if one.signal == leaf.signal and one.rises != leaf.rises]
            if not back:
                raise ValueError(f"`back_when` does not say when {leaf.signal} is well again")
            if any(
                (one.threshold >= leaf.threshold) if leaf.rises else (one.threshold <= leaf.threshold) for one in back
            ):
                raise ValueError(f"`back_when` leaves no gap to `when` for {leaf.signal}")
        return self


class AdaptationFile(_Shape):
    """The file `adaptation.yaml`."""

    window_s: float = Field(default=10.0, ge=1, le=3600, description="Seconds of one window.")
    rules: list[AdaptationRule]
