"""What bounds the memory of agents' behaviour. What their behaviour may be stands in the policy's `behaviour.yaml`."""

from __future__ import annotations

from pydantic import BaseModel, Field


class BehaviourSettings(BaseModel, frozen=True, extra="forbid"):
    max_agents: int = Field(
        10_000, ge=1, description="Agents remembered (count); those who say least go first, none with a rule half met."
    )
    max_scopes: int = Field(
        64, ge=1, description="Runs and sessions remembered of one agent (count); older ones count for all of its runs."
    )
    max_references: int = Field(
        500, ge=1, description="Agents whose earlier questions are remembered for likeness (count), 136 KiB each."
    )
    rebuild_records: int = Field(
        200_000, ge=0, description="Newest ledger records read at start to know again what agents did (count)."
    )
    check_s: float = Field(
        5.0, gt=0, description="Seconds between looks for rules whose past must be read from the ledger."
    )
    save_s: float = Field(300.0, gt=0, description="Seconds between savings of the rates that were learnt.")
