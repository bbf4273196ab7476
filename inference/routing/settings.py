"""How calls are spread over replicas, when a replica is left alone, and what may be asked twice."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, Field, model_validator


class EjectionSettings(BaseModel, frozen=True, extra="forbid"):
    failures: int = Field(default=3, ge=1, description="Failed calls in a row that eject a replica (count).")
    eject_s: float = Field(
        default=1.0, gt=0, description="Seconds a replica is ejected; doubles each time its probe fails."
    )
    eject_max_s: float = Field(default=15.0, gt=0, description="Seconds it is ejected at most, before jitter.")
    jitter_ratio: float = Field(
        default=0.2, ge=0, lt=1, description="How far the time varies, so that gateways do not probe together."
    )
    forgive_s: float = Field(
        default=60.0, gt=0, description="Seconds of good behaviour after which earlier ejections are forgotten."
    )
    lease_s: float = Field(
        default=30.0, gt=0, description="Seconds after which a probe that never reported gives its place back."
    )


class WatchSettings(BaseModel, frozen=True, extra="forbid"):
    metrics: bool = Field(
        default=True, description="Whether to read the servers' metrics; false for servers that are no vLLM."
    )
    probe: Literal["chat", "completions", "embeddings", "none"] = Field(
        default="chat", description="The operation that asks a server for one token; none where tokens cost money."
    )
    every_s: float = Field(default=0.5, gt=0, description="Seconds between two looks at a replica.")
    scrape_timeout_s: float = Field(default=1.0, gt=0, description="Seconds one reading of its metrics may take.")
    stale_s: float = Field(default=5.0, gt=0, description="Seconds after which a reading counts as saturated.")
    stall_s: float = Field(
        default=2.0,
        gt=0,
        description="Seconds without progress on anything it owes us after which a replica is asked for one token.",
    )
    probe_timeout_s: float = Field(default=2.0, gt=0, description="Seconds that one token may take.")
    idle_s: float = Field(default=10.0, gt=0, description="Seconds without a call after which a replica is probed.")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.stale_s < self.every_s + self.scrape_timeout_s:
            raise ValueError("stale_s must be at least every_s + scrape_timeout_s, or every reading would be stale")
        return self


class AffinitySettings(BaseModel, frozen=True, extra="forbid"):
    block_bytes: int = Field(
        default=256, ge=16, description="Bytes of the first blocks of a prompt; every eight the size doubles."
    )
    blocks: int = Field(
        default=48, ge=0, le=96, description="Leading blocks that count, 126 KiB with the defaults; 0: no affinity."
    )
    remembered_blocks: int = Field(
        default=16_384, ge=1, description="Blocks remembered for each replica; about what fits its KV cache."
    )
    worth_calls: float = Field(
        default=8.0,
        ge=0,
        description="How many more calls under way a replica may have and still be preferred for a prompt that it has "
        "seen whole; in proportion for a part of it.",
    )


class RetrySettings(BaseModel, frozen=True, extra="forbid"):
    attempts: int = Field(default=3, ge=1, description="Replicas that one call may be sent to, the first included.")
    first_byte_s: float = Field(
        default=10.0,
        gt=0,
        description="Seconds a replica has for the first byte of a stream, or for a prediction, before another is "
        "asked instead. Nothing is cut short that nobody else can take.",
    )
    ratio: float = Field(default=0.2, ge=0, le=1, description="Retries in relation to calls that the pool may make.")
    per_s: float = Field(default=3.0, ge=0, description="Retries a second that it may make however few calls come.")
    burst: float = Field(default=20.0, ge=1, description="Retries it may have saved up.")
    busy_s: float = Field(
        default=0.5, ge=0, description="Seconds for which a replica that said it is busy counts as saturated."
    )
    retry_after_max_s: float = Field(
        default=30.0, ge=0, description="Seconds for which a replica's Retry-After is honoured at most."
    )


class HedgeSettings(BaseModel, frozen=True, extra="forbid"):
    ratio: float = Field(
        default=0.0, ge=0, le=0.5, description="Share of predictions that may be sent to a second replica; 0: none."
    )
    quantile: float = Field(
        default=0.95, gt=0, lt=1, description="Quantile of recent latency after which the second is asked."
    )
    min_calls: int = Field(default=32, ge=8, description="Predictions of a model seen before any is hedged.")
    at_least_s: float = Field(default=0.005, ge=0, description="Seconds to wait in any case before a hedge.")


class RoutingSettings(BaseModel, frozen=True, extra="forbid"):
    """For one pool of replicas that serve the same models."""

    waiting_threshold: int = Field(default=5, ge=1, description="Requests queued at a replica that saturate it.")
    kv_threshold: float = Field(default=0.8, gt=0, le=1, description="Share of its KV cache in use that does.")
    scan_limit: int = Field(
        default=32, ge=2, description="Replicas up to which all are compared; of more, two drawn by lot."
    )
    ejection: EjectionSettings = EjectionSettings()
    watch: WatchSettings = WatchSettings()
    affinity: AffinitySettings = AffinitySettings()
    retry: RetrySettings = RetrySettings()
    hedge: HedgeSettings = HedgeSettings()
