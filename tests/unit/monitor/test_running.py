"""The monitor's own loop: it outlasts a gateway that is away, and does not fill a log with it."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from controlplane.monitor import monitor as module
from controlplane.retraining.ports import GatewayUnavailable
from tests.unit.retraining.toy import Toy

TURNS = ["refused", "refused", "token expired", "token expired", "", "", "refused"]


async def test_a_gateway_that_is_away_is_said_once_for_each_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monitor, stop, turns = Toy(tmp_path).start(), asyncio.Event(), list(TURNS)

    async def turn(_: object) -> bool:
        if reason := turns.pop(0):
            raise GatewayUnavailable(reason)
        return False

    async def waited(stop: asyncio.Event, _: float) -> None:
        if not turns:
            stop.set()

    monkeypatch.setattr(module.Monitor, "turn", turn)
    monkeypatch.setattr(module, "_wait", waited)
    await monitor.run(stop)
    await monitor.close()
    away = ["gateway unavailable: refused", "gateway unavailable: token expired"]
    said = [record.getMessage() for record in caplog.records if record.name == "controlplane.monitor"]
    assert said == [*away, "gateway is back", away[0]]
