"""Fixtures of the gateway's own parts; see ``rig.py``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.controlplane.rig import ModelServer, Rig, publish


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ModelServer]:
    publish(tmp_path / "models/risk", 1)
    server = ModelServer(tmp_path / "models")
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def rig(tmp_path: Path, server: ModelServer) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path, server)
    await rig.begin()
    yield rig
    await rig.end()
