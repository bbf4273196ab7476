"""A replica as others see it."""

from __future__ import annotations

from dataclasses import dataclass

from inference.routing.health import State
from inference.routing.replica import Replica


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaStatus:
    """For the console and the metrics. What the replica says of itself is None where it has not said."""

    name: str
    state: State
    reason: str  # of the ejection; "" while it is ready
    since_s: float  # monotonic
    in_flight: int
    is_saturated: bool
    stalled_s: float
    waiting: int | None
    running: int | None
    kv_ratio: float | None
    rss_bytes: int | None
    load_age_s: float | None
    retry_after_s: float | None


def status_of(replica: Replica, now_s: float) -> ReplicaStatus:
    load, health = replica.load, replica.health
    return ReplicaStatus(
        name=replica.name,
        state=health.state,
        reason=health.reason,
        since_s=health.since_s,
        in_flight=replica.in_flight,
        is_saturated=replica.is_saturated(now_s),
        stalled_s=replica.progress.stalled_s(now_s),
        waiting=load.waiting if load else None,
        running=load.running if load else None,
        kv_ratio=load.kv_ratio if load else None,
        rss_bytes=load.rss_bytes if load else None,
        load_age_s=now_s - replica.load_at_s if load else None,
        retry_after_s=health.retry_after_s(now_s),
    )
