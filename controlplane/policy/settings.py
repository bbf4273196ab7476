"""Settings of the policy room."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class PolicySettings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path = Field(
        default=Path("policies"), description="Folder of the policy bundle (model.conf, roles, tenants, …)."
    )
    reload_interval_s: float = Field(
        default=2.0, gt=0, description="Seconds between two looks at the bundle's files for a change."
    )
    max_stale_s: float | None = Field(
        default=None,
        gt=0,
        description="Deny everything when the served bundle was last confirmed against its files longer ago than this "
        "many seconds. Null keeps the last good bundle for as long as it takes.",
    )
    engine: Literal["snapshot", "casbin"] = Field(
        default="snapshot",
        description="What decides: the compiled snapshot, compared with casbin whenever files are loaded, or casbin "
        "itself. A model.conf that the snapshot does not compile is decided by casbin.",
    )
