"""When a breaker opens and how it heals; what the fallback ladder may remember."""

from __future__ import annotations

from pydantic import BaseModel, Field


class BreakerSettings(BaseModel, frozen=True, extra="forbid"):
    """Defaults suit predictions. For chat the time measured is that to the first token: set ``slow_call_s`` to 5."""

    error_rate: float = Field(default=0.5, gt=0, le=1, description="Share of failed calls at which the breaker opens.")
    slow_rate: float = Field(
        default=0.5, gt=0, le=1, description="Share of calls, failed or slow, at which the breaker opens."
    )
    slow_call_s: float = Field(
        default=0.8, gt=0, description="Seconds from which a call is slow; for a streamed one, to its first byte."
    )
    slow_generation_s: float = Field(
        default=30.0,
        gt=0,
        description="Seconds from which a generated answer that is not streamed is slow: its first token is not seen, "
        "and its length is the caller's choice.",
    )
    window_s: float = Field(default=10.0, gt=0, description="Seconds the rates look back.")
    stretch_calls: int = Field(
        default=50,
        ge=1,
        description="The window reaches back further until it holds so many calls. At 2 calls a second and 30 % true "
        "errors, 20 calls opened falsely 18 times an hour, 50 twice and 100 never; a dead backend was given up after "
        "7, 13 and 25 s.",
    )
    window_max_s: float = Field(default=60.0, gt=0, description="Seconds the stretched window looks back at most.")
    min_calls: int = Field(default=20, ge=1, description="Calls the window must hold before a rate means anything.")
    connect_failures: int = Field(
        default=5, ge=1, description="Calls in a row without a connection that open the breaker at once."
    )
    open_s: float = Field(default=5.0, gt=0, description="Seconds a breaker stays open; doubles each time it reopens.")
    open_max_s: float = Field(default=60.0, gt=0, description="Seconds it stays open at most, before jitter.")
    jitter_ratio: float = Field(
        default=0.2, ge=0, lt=1, description="How far the open time varies, so that gateways do not probe together."
    )
    probes: int = Field(default=5, ge=1, description="Probes of one half-open round.")
    probes_at_once: int = Field(default=1, ge=1, description="Probes under way at the same time.")
    probe_success_ratio: float = Field(
        default=0.8, gt=0, le=1, description="Share of a round's probes that must succeed for the breaker to close."
    )
    probe_lease_s: float = Field(
        default=30.0, gt=0, description="Seconds after which a probe that never reported gives its place back."
    )


class FallbackSettings(BaseModel, frozen=True, extra="forbid"):
    cache_bytes: int = Field(default=64 * 1024 * 1024, ge=0, description="Bytes of remembered answers, all together.")
    cache_entry_bytes: int = Field(default=256 * 1024, ge=0, description="Bytes of one answer worth remembering.")
    cache_ttl_s: float = Field(default=300.0, gt=0, description="Seconds after which an answer is too old to give.")
    reserve_ratio: float = Field(
        default=0.25,
        ge=0,
        lt=1,
        description="Share of the deadline kept for the next rung while a call that is not streamed tries this one.",
    )


class SharingSettings(BaseModel, frozen=True, extra="forbid"):
    """What several gateways before the same backends tell each other. Each still decides for itself."""

    shared: bool = Field(
        default=False, description="Whether holds are shared through Redis, and gateways probe in turn."
    )
    gateway: str = Field(
        default="", description="This gateway's name in what it tells the others; empty: its host and process."
    )
    deadline_ms: float = Field(
        default=50.0,
        gt=0,
        le=5000,
        description="Milliseconds that Redis may take to answer; later the gateway decides alone.",
    )
    pause_s: float = Field(default=1.0, gt=0, description="Seconds that Redis is left alone after it was no use.")
    sync_s: float = Field(
        default=2.0, gt=0, description="Seconds between two readings of all holds, besides those that are announced."
    )
