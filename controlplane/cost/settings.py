"""How costs are reckoned where nobody counted, and how much of them is remembered."""

from __future__ import annotations

from pydantic import BaseModel, Field


class CostSettings(BaseModel, frozen=True, extra="forbid"):
    bytes_per_token: float = Field(
        default=4.0,
        ge=1,
        description="Bytes of text taken for one token where a backend counted none; marked estimated.",
    )
    bound_bytes_per_token: float = Field(
        default=2.0,
        ge=1,
        description="Bytes of a request taken for one token when money is held back before the call; at 1 it is never "
        "too little.",
    )
    assumed_output_tokens: int = Field(
        default=4096, ge=1, description="Tokens that a call may answer with when neither it nor a rule says how many."
    )
    assumed_seconds: float = Field(
        default=1.0, ge=0, description="Seconds held back for a call to a model whose price is by the second."
    )
    warn_ratio: float = Field(
        default=0.8, gt=0, le=1, description="Share of a budget from which its use is warned of, once a window."
    )
    max_accounts: int = Field(
        default=100_000, ge=1, description="Budgets counted at once (count); calls of newcomers beyond it are refused."
    )
    shared: bool = Field(default=False, description="Whether budgets are kept in Redis, for every gateway together.")
    deadline_ms: float = Field(
        default=250.0, gt=0, le=5000, description="Milliseconds that Redis may take to answer; later refuses the call."
    )
    settle_s: float = Field(
        default=0.2, gt=0, description="Seconds between two times that settled costs are told to Redis, all together."
    )
    max_rows: int = Field(
        default=100_000, ge=100, description="Sums by day, tenant, model and agent kept for the reports (count)."
    )
    max_runs: int = Field(
        default=10_000, ge=1, description="Runs (trace ids) whose sums are kept, newest first (count)."
    )
    scan_limit: int = Field(
        default=20_000, ge=100, description="Ledger records read for one report at most; the rest is read meanwhile."
    )
