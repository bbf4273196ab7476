from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from tests.unit.console.world import World, world


@pytest.fixture
async def console(tmp_path: Path) -> AsyncGenerator[World]:
    async with world(tmp_path) as made:
        yield made
