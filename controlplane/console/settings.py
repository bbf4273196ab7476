"""How long people stay signed in, and how much they see at once."""

from __future__ import annotations

from pydantic import BaseModel, Field


class ConsoleSettings(BaseModel, frozen=True, extra="forbid"):
    session_s: float = Field(28_800.0, gt=0, description="Longest sign-in, seconds; a token that ends sooner ends it.")
    max_sessions: int = Field(
        1_000, ge=1, description="Most people signed in at once; the longest signed in goes first."
    )
    secure_cookie: bool = Field(
        True,
        description="Whether the session cookie travels over https only; false for plain http on one's own machine.",
    )
    refresh_ms: int = Field(2_000, ge=250, description="Time between two refreshes of an open page, milliseconds.")
    calls_shown: int = Field(40, ge=1, le=200, description="Calls on the overview page.")
