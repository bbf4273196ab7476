"""What the monitor tells of its detectors: plain JSON, of every model, told again when nobody took it."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from controlplane.drift.panel import DetectorStatus
from controlplane.monitor.process import standings
from controlplane.monitor.showing import LABELLED_ERROR, Showing, Standing, body_of, share_of_way
from controlplane.retraining.ports import GatewayUnavailable
from tests.unit.retraining.test_loop import Toy


def status(evidence: float, threshold: float = 1e5) -> DetectorStatus:
    return DetectorStatus(
        detector="inputs_50", evidence=evidence, threshold=threshold, arl_rows=5e6, tolerated=0.01, crossings=2
    )


@dataclass
class Desk:
    is_away: bool = False
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    told: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)

    async def show_evidence(self, model: str, said: Mapping[str, Any]) -> None:
        self.asked.set()
        if self.is_away:
            raise GatewayUnavailable("away")
        self.told.append((model, said))


def test_evidence_without_end_is_still_json() -> None:
    said = body_of(Standing("risk", 3, [status(math.inf), status(math.nan)]), 7)
    json.dumps(said, allow_nan=False)
    assert [each["evidence"] for each in said["detectors"]] == [1e300, 0.0]
    assert (said["version"], said["at_ms"], said["detectors"][0]["crossings"]) == (3, 7, 2)


async def test_models_without_detectors_are_not_told_of() -> None:
    desk = Desk()
    await Showing(lambda: [Standing("new", 1, []), Standing("risk", 1, [status(1)])], desk, lambda: 9.0).show()
    assert [model for model, _ in desk.told] == ["risk"]
    assert [share_of_way(status(*each)) for each in ((1e5, 1e5), (0.0, 1e5), (0.15, 0.3))] == [1.0, 0.0, 0.5]
    assert desk.told[0][1]["at_ms"] == 9_000


async def test_a_gateway_that_is_away_ends_nothing() -> None:
    desk, stop = Desk(is_away=True), asyncio.Event()
    showing = Showing(lambda: [Standing("risk", 1, [status(1)])], desk, lambda: 9.0)
    task = asyncio.create_task(showing.keep(stop))
    await desk.asked.wait()
    stop.set()
    await task
    assert (desk.told, showing.is_complaining) == ([], True)


async def test_the_detector_of_labels_is_among_them(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    toy.calls(20, turned=False)
    monitor = toy.start()
    while await monitor.turn():
        pass
    (standing,) = [each for each in standings(monitor) if each.model == "risk"]
    await monitor.close()
    error = next(each for each in standing.detectors if each.detector == LABELLED_ERROR)
    assert error.threshold > error.evidence >= 0
    assert 0.1 < error.tolerated < 0.2
