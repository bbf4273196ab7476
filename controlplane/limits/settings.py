"""How much memory counting may take."""

from __future__ import annotations

from pydantic import BaseModel, Field


class LimitSettings(BaseModel, frozen=True, extra="forbid"):
    max_counters: int = Field(
        100_000, ge=1, description="Most pairs of rule and caller counted at once; newcomers beyond it are refused."
    )
