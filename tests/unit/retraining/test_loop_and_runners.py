"""The loop asks whoever the settings name, also one that has a command of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from controlplane.retraining.settings import TrainingSettings

from .test_loop import HAPPY, Toy, live


@pytest.mark.parametrize(
    ("settings", "trains"),
    [({"runner": "webhook"}, True), ({"runner": "airflow"}, True), ({"runner": "kubeflow"}, False), ({}, False)],
)
async def test_a_runner_with_a_command_of_its_own_needs_none_of_ours(
    tmp_path: Path, settings: dict[str, Any], trains: bool
) -> None:
    toy = Toy(tmp_path, training=TrainingSettings(rows_after_change=200, growth=1, **settings))
    toy.calls(100, turned=False)
    toy.calls(100, turned=True)
    await live(toy)
    assert bool(toy.trainer.jobs) is trains
    assert (toy.gateway.path == HAPPY) is trains


async def test_what_the_version_was_made_from_is_told_when_it_is_trained(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    toy.calls(100, turned=False)
    toy.calls(100, turned=True)
    await live(toy)
    told = next(move["evidence"] for move in toy.gateway.ledger if move["reason"] == "trained")
    (job,) = toy.trainer.jobs
    assert told["job"] == job.key
    assert len(told["manifest_sha256"]) == 64
