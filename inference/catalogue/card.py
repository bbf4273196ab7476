"""A model's card: what its owner states of it, and what was measured, on what and when.

Everything is optional: a card says what is known and leaves out the rest. What is left out is taken for unknown, never
for the best case.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from inference.launch import Launch

Modality = Literal["text", "image", "audio", "video", "tabular", "embedding"]
Tier = Literal["builtin", "small", "large"]
"""``builtin`` runs inside the product's own server, ``small`` on a part of a machine, ``large`` fills a GPU or more."""

RATIOS = ("accuracy", "exact_match", "f1", "pass_rate", "auc")
"""Metrics between 0 and 1 of which more is better: those that a choice between models may rest on."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Measured(_Part):
    """One measured quality. ``task`` is empty for the task of the model itself."""

    task: str = Field(default="", description="Task that was measured; empty: the model's own.")
    dataset: str = Field(min_length=1, description="On which data, so that somebody else could repeat it.")
    metric: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="`accuracy`, `f1`, …; see RATIOS.")
    value: float = Field(allow_inf_nan=False, description="What came out, in the metric's own unit.")
    n: int | None = Field(default=None, ge=1, description="Number of examples; none: not known.")
    measured_on: str = Field(default="", pattern=r"^(\d{4}-\d{2}-\d{2})?$", description="Date, YYYY-MM-DD.")

    @property
    def is_ratio(self) -> bool:
        return self.metric in RATIOS and 0 <= self.value <= 1


class Latency(_Part):
    p50_ms: float = Field(gt=0, allow_inf_nan=False, description="Median time of an answer, milliseconds.")
    measured_on: str = Field(min_length=1, description="Machine, server and size of the request.")


class Hardware(_Part):
    gpu_memory_gib: float | None = Field(default=None, gt=0, description="GPU memory it needs, GiB; none: not known.")
    runs_on_cpu: bool | None = Field(default=None, description="Whether it is of use without a GPU; none: not known.")


class ModelCard(_Part):
    languages: list[str] = Field(default_factory=list, description="BCP 47 tags, e.g. `nb`; empty: not known.")
    modalities: list[Modality] = Field(default_factory=list, description="What goes in.")
    context_tokens: int | None = Field(default=None, ge=1, description="Longest input and output together, tokens.")
    max_output_tokens: int | None = Field(default=None, ge=1, description="Longest answer, tokens.")
    parameters: int | None = Field(default=None, ge=1, description="Number of parameters.")
    licence: str = Field(default="", description="SPDX identifier, or the name of the terms; empty: not known.")
    tier: Tier | None = Field(default=None, description="How much machine it takes; none: not known.")
    hardware: Hardware = Hardware()
    quality: list[Measured] = Field(default_factory=list, description="What was measured, the best known first.")
    latency: Latency | None = Field(default=None, description="How fast it answered when it was measured.")
    tags: list[str] = Field(default_factory=list, description="Free words for people who search.")
    launch: Launch | None = Field(default=None, description="How a vLLM server for it is started.")

    def quality_for(self, task: str, own_task: str) -> Measured | None:
        """The first measurement of ``task`` that a choice may rest on; ``own_task`` is that of the model."""
        return next((one for one in self.quality if one.is_ratio and (one.task or own_task) == task), None)

    @property
    def adapters(self) -> list[str]:
        """LoRA adapters that may be asked for with it: those of its launch."""
        lora = self.launch.lora if self.launch else None
        return sorted(lora.adapters) if lora else []

    @property
    def attributes(self) -> dict[str, Any]:
        """What policy may read of it. Absent is what the card does not say, and a condition on it then denies."""
        said = {"licence": self.licence, "languages": tuple(self.languages), "tier": self.tier}
        return {name: value for name, value in said.items() if value}
