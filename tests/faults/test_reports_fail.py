"""A report's process that fails, however it fails, leaves the loop's story as it is without one."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from controlplane.drift.history import History
from controlplane.drift.settings import ReportSettings
from controlplane.monitor import Monitor, WatchedModel
from controlplane.monitor.reports import Reports, Rows, is_due
from controlplane.retraining.course import Course, Evidence
from controlplane.retraining.ports import GatewayUnavailable
from controlplane.telemetry.metrics import Metrics
from tests.unit.retraining.test_loop import HAPPY, Toy, work

WITHOUT_EVIDENTLY = sys._base_executable  # type: ignore[attr-defined]  # the interpreter under our own environment
TOO_LITTLE_BYTES = 64 * 2**20


@dataclass
class Desk:
    """A gateway that keeps what it is shown, or is away."""

    is_away: bool = False
    shown: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)

    async def show_report(self, model: str, report: Mapping[str, Any]) -> None:
        if self.is_away:
            raise GatewayUnavailable("away")
        self.shown.append((model, report))


def with_reports(monitor: Monitor, settings: ReportSettings, desk: Desk, folder: Path) -> Reports:
    plain, metrics = monitor.ports_for, Metrics("monitor")
    reports = Reports(settings, desk, lambda: History(folder / "state/monitor.sqlite"), folder / "reports", metrics)

    def ports_for(model: WatchedModel) -> Any:
        async def report(course: Course) -> Evidence:
            return await reports.on_alarm(model, course)

        return replace(plain(model), report=report)

    monitor.ports_for = ports_for
    return reports


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        (ReportSettings(python=WITHOUT_EVIDENTLY), "not_installed"),
        (ReportSettings(python="/nowhere/python"), "not_installed"),
        (ReportSettings(timeout_s=0.05), "timeout"),
        (ReportSettings(memory_bytes=TOO_LITTLE_BYTES), None),  # how a starved process ends is its own business
    ],
    ids=["import", "interpreter", "time", "memory"],
)
async def test_a_report_that_fails_in_its_process_changes_no_move(
    tmp_path: Path, settings: ReportSettings, word: str | None
) -> None:
    toy, desk = Toy(tmp_path), Desk()
    monitor = toy.start()
    reports = with_reports(monitor, settings, desk, tmp_path)
    toy.calls(100, turned=False)
    toy.calls(100, turned=True)
    await work(toy, monitor)
    await monitor.close()
    assert toy.gateway.path == HAPPY
    said = str(toy.gateway.ledger[-2]["evidence"]["report"])
    assert said == word if word else said in {"out_of_memory", "failed", "not_installed"}
    assert desk.shown == []
    text = (await reports.metrics.exposition())[0].decode()
    assert f'controlplane_drift_reports_total{{model="risk",outcome="{said}"}} 1.0' in text


async def test_a_report_that_never_ends_holds_no_move_up(tmp_path: Path) -> None:
    """INJECTED: a report's process that hangs, and a time limit that is far away."""
    toy, begun = Toy(tmp_path), asyncio.Event()
    monitor = toy.start()
    plain = monitor.ports_for

    async def hangs(course: Course) -> Evidence:
        begun.set()
        await asyncio.Event().wait()
        return {}

    monitor.ports_for = lambda model: replace(plain(model), report=hangs)
    toy.calls(100, turned=False)
    toy.calls(100, turned=True)
    async with asyncio.timeout(60):
        while toy.gateway.path != HAPPY:
            await monitor.turn()
            await asyncio.sleep(0)  # the trainer's turn
            if toy.gateway.ring.newest == monitor.cursor:
                toy.calls(10, turned=True)
    assert begun.is_set()
    assert toy.gateway.ledger[-2]["evidence"]["report"] == "none_yet"
    await monitor.close()


async def test_a_report_that_cannot_even_be_begun_is_a_word_and_no_error(tmp_path: Path) -> None:
    (tmp_path / "reports").write_text("where the folder should be")
    toy = Toy(tmp_path)
    monitor = toy.start()
    reports = Reports(
        ReportSettings(), None, lambda: History(tmp_path / "state/monitor.sqlite"), tmp_path / "reports", Metrics("m")
    )
    rows = Rows(1, np.zeros((5, 1)), np.ones((5, 1)))
    made = await reports._make(monitor.settings.models[0], rows, "risk-1-0", "alarm")
    await monitor.close()
    assert made.word == "failed"


@pytest.mark.parametrize(
    ("hour", "last", "due"),
    [(1, "2026-11-20", False), (2, "2026-11-20", True), (23, "", True), (3, "2026-11-21", False)],
)
def test_a_night_has_one_round(hour: int, last: str, due: bool) -> None:
    now = datetime(2026, 11, 21, hour, 30, tzinfo=UTC)
    assert is_due(now, 2, last) is due
    assert not is_due(now, None, last)
