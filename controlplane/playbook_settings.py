"""What may be done about a fault without asking anybody: settings and not policy, since they name programs to run."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, Field, model_validator

Trigger = Literal["breaker_open", "canary_open", "replica_away"]
Deed = Literal["restart", "scale", "switch", "roll_back"]


class Playbook(BaseModel, frozen=True, extra="forbid"):
    """One answer to one fault of one model."""

    id: str = Field(pattern=r"^[a-z][a-z0-9_.-]{0,63}$", description="Its name in the ledger.")
    model: str = Field(min_length=1, description="The model that is at fault.")
    when: Trigger = Field(description="The fault: its breaker, its canary's breaker, or one of its replicas away.")
    for_s: float = Field(default=60.0, ge=0, description="Seconds for which the fault must last without a break.")
    do: Deed = Field(
        description="restart and scale run the command; switch holds the version, so that the fallback answers;"
        " roll_back ends a canary or, without one, puts the stable label back."
    )
    command: tuple[str, ...] = Field(
        default=(), description="Program and arguments; the words {model} and {subject} stand for what is at fault."
    )
    dry_run: bool = Field(default=True, description="Record what would be done, and do nothing.")
    per_day: int = Field(default=3, ge=1, description="Times in 24 hours at most, dry runs and failures too (count).")
    pause_s: float = Field(default=900.0, ge=0, description="Seconds between two times for one subject at least.")
    timeout_s: float = Field(default=120.0, gt=0, description="Seconds after which the command is killed.")

    @model_validator(mode="after")
    def _has_its_command(self) -> Self:
        if (self.do in ("restart", "scale")) != bool(self.command):
            raise ValueError("restart and scale need a command; nothing else has one")
        return self


class PlaybookSettings(BaseModel, frozen=True, extra="forbid"):
    """Self-healing."""

    check_s: float = Field(default=5.0, gt=0, description="Seconds between two looks at what is at fault.")
    playbooks: tuple[Playbook, ...] = Field(default=(), description="What is done about which fault; none by default.")

    @model_validator(mode="after")
    def _are_different(self) -> Self:
        if len({each.id for each in self.playbooks}) != len(self.playbooks):
            raise ValueError("playbooks need ids of their own")
        return self
