"""Where the detectors stand, told to the gateway now and then for people to look at. Decides nothing; fails open."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from controlplane.drift.panel import DetectorStatus
from controlplane.drift.watch import Watch
from controlplane.retraining.ports import GatewayUnavailable, TransitionRefused
from controlplane.telemetry.metrics import Metrics

SHOW_S = 15.0
LARGEST = 1e300
log = logging.getLogger("controlplane.monitor")


class Desk(Protocol):
    """``client.HttpClient``."""

    async def show_evidence(self, model: str, said: Mapping[str, Any]) -> None:
        """Raises ``GatewayUnavailable`` or ``TransitionRefused``."""
        ...


@dataclass(frozen=True, slots=True)
class Standing:
    """The detectors of one model version."""

    model: str
    version: int
    detectors: Sequence[DetectorStatus]


LABELLED_ERROR = "labelled_error"


def labelled(watch: Watch) -> DetectorStatus | None:
    """The detector of labelled error, None while its reference is being learnt."""
    standing = watch.standing
    if standing is None:
        return None
    evidence, threshold, band = standing
    return DetectorStatus(
        detector=LABELLED_ERROR,
        evidence=evidence,
        threshold=threshold,
        arl_rows=threshold,
        tolerated=band,
        crossings=int(watch.has_fallen),
    )


def share_of_way(status: DetectorStatus) -> float:
    """Evidence multiplies, so its way to the threshold is logarithmic; a score's is its own. 1 at a verdict."""
    if status.threshold <= 1:
        return max(0.0, status.evidence) / status.threshold
    return math.log1p(max(0.0, _finite(status.evidence))) / math.log1p(status.threshold)


def body_of(standing: Standing, at_ms: int) -> dict[str, Any]:
    detectors = [{name: _finite(value) for name, value in asdict(each).items()} for each in standing.detectors]
    return {"version": standing.version, "at_ms": at_ms, "detectors": detectors}


def _finite(value: Any) -> Any:
    """JSON knows no infinities, and evidence has no end."""
    if not isinstance(value, float):
        return value
    return 0.0 if math.isnan(value) else max(-LARGEST, min(LARGEST, value))


@dataclass(slots=True)
class Showing:
    standings: Callable[[], Iterable[Standing]]
    desk: Desk
    now: Callable[[], float]
    metrics: Metrics = field(default_factory=lambda: Metrics("monitor"))
    is_complaining: bool = False

    async def show(self) -> None:
        for standing in list(self.standings()):
            for each in standing.detectors:
                self.metrics.observe_drift_evidence(
                    model=standing.model, detector=each.detector, ratio=share_of_way(each)
                )
            if standing.detectors:
                await self.desk.show_evidence(standing.model, body_of(standing, round(self.now() * 1000)))

    async def keep(self, stop: asyncio.Event) -> None:
        """Until ``stop``. A gateway that does not take it is told again next time, and complained about once."""
        while not stop.is_set():
            try:
                await self.show()
                self.is_complaining = False
            except (GatewayUnavailable, TransitionRefused) as error:
                if not self.is_complaining:
                    log.warning("what the detectors say stays unseen: %s", error)
                self.is_complaining = True
            try:
                async with asyncio.timeout(SHOW_S):
                    await stop.wait()
            except TimeoutError:
                continue
