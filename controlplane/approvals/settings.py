"""What bounds the memory of questions to people. What needs an approval, and whose, stands in policy."""

from __future__ import annotations

from pydantic import BaseModel, Field


class ApprovalSettings(BaseModel, frozen=True, extra="forbid"):
    max_questions: int = Field(
        1000, ge=1, description="Questions kept at once (count); beyond it a call that needs an approval is refused."
    )
    max_questions_per_agent: int = Field(
        20, ge=1, description="Of these, questions of one agent that wait for an answer (count)."
    )
    max_bytes: int = Field(
        16_384,
        ge=256,
        le=1_048_576,
        description="Bytes of the largest call that people are asked to approve: they are shown all of it. Kept in "
        "memory only.",
    )
