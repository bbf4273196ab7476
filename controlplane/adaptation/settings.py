"""How signals are read and how far actions go. Which rules there are stands in the policy bundle."""

from __future__ import annotations

from pydantic import BaseModel, Field


class AdaptationSettings(BaseModel, frozen=True, extra="forbid"):
    enabled: bool = Field(default=True, description="Whether the rules of `adaptation.yaml` are followed at all.")
    dry_run: frozenset[str] = Field(
        default=frozenset({"restart"}), description="Actions that are put on record and not carried out."
    )
    min_calls: int = Field(
        default=20, ge=1, description="Calls of a model that are judged together, at least; 5 % of fewer is nobody."
    )
    calls_kept_s: float = Field(
        default=60.0, gt=0, description="Seconds over which so many must come; older ones say nothing of now."
    )
    memory_window_s: float = Field(
        default=600.0,
        gt=0,
        description="Seconds over which a replica's growth is measured; one that runs for less, or that was "
        "restarted, is still loading.",
    )
