"""How much may be saved, and how long anybody waits for it."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, Field


class ResponseCacheSettings(BaseModel, frozen=True, extra="forbid"):
    memory_bytes: int = Field(
        default=64 * 1024 * 1024, ge=0, description="Bytes of saved answers in this process, all together; 0: none."
    )
    memory_entries: int = Field(default=10_000, ge=1, description="Saved answers in this process at most (count).")
    entry_bytes: int = Field(default=256 * 1024, ge=1, description="Bytes of one answer worth saving; larger are not.")
    follow_ratio: float = Field(
        default=0.5,
        ge=0,
        lt=1,
        description="Share of its own deadline that a call waits for an equal one under way; then it goes out itself.",
    )
    shared: bool = Field(default=False, description="Whether answers are also kept in Redis, for every gateway.")
    secret: Path = Field(
        default=Path("var/response-cache.key"),
        description="File with 32 secret bytes in hexadecimal, the same for every gateway that shares a Redis; created "
        "with mode 0600 when absent. Names and contents of what is kept there are made with it.",
    )
    deadline_ms: float = Field(
        default=5.0, gt=0, le=1000, description="Milliseconds that Redis may take to be asked or told; later is a miss."
    )
    pause_s: float = Field(
        default=1.0,
        ge=0,
        description="Seconds for which a Redis that failed is not asked again, so that calls do not wait.",
    )
