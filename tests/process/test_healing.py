"""Playbooks in a whole gateway whose model server is away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio

from controlplane.settings import Settings
from controlplane.wiring import ControlPlane
from tests.matrix.upstreams import Upstream
from tests.matrix.world import World

PATIENCE_S = 60


async def records_of(tmp_path: Path, playbook: dict[str, Any], last: str) -> list[dict[str, Any]]:
    """What the ledger says until it has a record of kind ``last``."""
    whole = {"id": "wake", "model": "risk", "when": "replica_away", "do": "restart", "for_s": 0} | playbook
    async with Upstream() as upstream:
        world = World(tmp_path, upstream, backend_is_up=False)
        world.build()
        settings = Settings.model_validate(world.document() | {"healing": {"check_s": 0.02, "playbooks": [whole]}})
        async with ControlPlane(settings) as plane:
            with anyio.fail_after(PATIENCE_S):
                while not plane.ledger.read(kinds=[last]):  # noqa: ASYNC110  the ledger has no event to give
                    await anyio.sleep(0.02)
            return [one.body["playbook"] for one in plane.ledger.read(kinds=["playbook.run", "playbook.done"])]


async def test_a_server_that_is_away_is_restarted_by_the_operator_s_program(tmp_path: Path) -> None:
    woken = tmp_path / "woken"
    run, done = await records_of(tmp_path, {"command": ["touch", str(woken)], "dry_run": False}, "playbook.done")
    assert woken.exists()
    assert (run["subject"].split("/")[0], run["dry_run"], done["outcome"]) == ("tfs", 0, "done")


async def test_by_default_it_is_only_put_on_record(tmp_path: Path) -> None:
    woken = tmp_path / "woken"
    (run,) = await records_of(tmp_path, {"command": ["touch", str(woken)]}, "playbook.run")
    assert run["dry_run"] == 1
    assert not woken.exists()
