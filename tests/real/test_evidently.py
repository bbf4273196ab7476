"""The real Evidently, in its own process, as the monitor runs it."""

from __future__ import annotations

import asyncio
import gzip
import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from controlplane.drift.history import History
from controlplane.drift.reporter import MADE, Reporter, milli, ranked
from controlplane.drift.rows import LabelledRow
from controlplane.drift.settings import ReportSettings
from controlplane.drift.store import MonitorStore
from controlplane.monitor import WatchedModel
from controlplane.monitor.reports import Reports
from controlplane.retraining.course import Course
from controlplane.telemetry.metrics import Metrics
from tests.unit.console.rooms import Rooms
from tests.unit.console.world import world

pytestmark = [
    pytest.mark.real("evidently"),
    pytest.mark.skipif(
        importlib.util.find_spec("evidently") is None, reason="evidently is not installed (extra: drift)"
    ),
]
FEATURES = ("income", "age", "insured")
MEMORY_TOO_SMALL_BYTES = 200 * 2**20
WIDE = 80
NIGHT_S = 199_900 + 60  # a minute after the last row; the last day are the last 864 rows


def survey(seed: int, shift: float, rows: int = 2_000) -> np.ndarray:
    chance = np.random.default_rng(seed)
    return np.column_stack(
        [chance.normal(shift, 1, rows), chance.normal(40, 10, rows), chance.integers(0, 2, rows).astype(float)]
    )


async def test_the_report_names_the_column_that_moved(tmp_path: Path) -> None:
    made = await Reporter(ReportSettings(), FEATURES).report(survey(1, 0.0), survey(2, 1.0), tmp_path / "out")
    assert (made.word, made.drifted, made.columns, made.of_columns) == (MADE, 1, 3, 3)
    assert next(iter(made.scores)) == "income"
    assert made.evidence()["report_drifted_columns"] == 1
    page = gzip.decompress(made.html_gzip)
    assert b"<html" in page
    assert b"https://fonts" not in page, "a report loads nothing from elsewhere"
    assert not (tmp_path / "out").exists(), "rows of agents do not stay behind"


async def test_of_many_columns_those_that_moved_are_in_it_within_memory_and_time(tmp_path: Path) -> None:
    """The largest report that the settings allow: 10,000 rows against 5,000, 50 columns."""
    chance = np.random.default_rng(7)
    before, now = chance.normal(size=(10_000, WIDE)), chance.normal(size=(5_000, WIDE))
    now[:, 70] += 1.0
    names = tuple(f"c{n}" for n in range(WIDE))
    made = await Reporter(ReportSettings(), names).report(before, now, tmp_path / "out", first=["c79", "nobody"])
    assert (made.word, made.columns, made.of_columns) == (MADE, 50, WIDE)
    assert next(iter(made.scores)) == "c70"
    assert "c79" in made.scores, "what a verdict names is shown whatever it looks like"


def test_columns_are_ranked_by_what_moved() -> None:
    before, now = survey(1, 0.0), survey(2, 0.5)
    now[:1_000, 1] = np.nan
    assert ranked(before, now, FEATURES)[0] == 0
    assert ranked(before, now, FEATURES, ["insured"])[:2] == [2, 0]
    assert milli(float("inf")) == 10**12
    assert milli(float("nan")) == 0


async def test_a_report_that_breaks_takes_too_long_or_too_much_is_a_word_and_no_error(tmp_path: Path) -> None:
    """One broken kind each: an empty column, a second, memory that does not even hold the library, nothing at all."""
    rows = survey(1, 0.0, 50)
    empty = np.full_like(rows, np.nan)
    broken = await Reporter(ReportSettings(), FEATURES).report(rows, empty, tmp_path / "a")
    assert (broken.word, broken.evidence()) == ("failed", {"report": "failed"})
    assert (tmp_path / "a/failure.txt").read_bytes()
    hasty = ReportSettings(timeout_s=0.2)
    assert (await Reporter(hasty, FEATURES).report(rows, rows, tmp_path / "b")).word == "timeout"
    poor = ReportSettings(memory_bytes=MEMORY_TOO_SMALL_BYTES)
    starved = await Reporter(poor, FEATURES).report(rows, rows, tmp_path / "c")
    assert starved.word in {"out_of_memory", "failed"}
    assert (await Reporter(ReportSettings(), FEATURES).report(np.empty((0, 0)), rows, tmp_path / "d")).word == "no_rows"


async def test_a_report_that_takes_too_long_leaves_no_process_behind(tmp_path: Path) -> None:
    rows = survey(1, 0.0)
    mark = tmp_path / "marked-by-this-test"
    assert (await Reporter(ReportSettings(timeout_s=1.5), FEATURES).report(rows, rows, mark)).word == "timeout"
    running = await asyncio.create_subprocess_exec("ps", "-eo", "args", stdout=asyncio.subprocess.PIPE)
    said, _ = await running.communicate()
    assert str(mark) not in said.decode()


async def test_it_runs_in_an_environment_of_its_own(tmp_path: Path) -> None:
    """An interpreter elsewhere, which knows neither our packages nor the caller's folders."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nset -- "$@"\necho "$@" > {tmp_path}/asked\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    made = await Reporter(ReportSettings(python=str(python)), FEATURES).report(
        survey(1, 0.0), survey(2, 1.0), tmp_path / "out"
    )
    assert made.word == MADE
    assert (tmp_path / "asked").read_text().startswith("-I ")


@dataclass
class Desk:
    """The console's API, as the monitor reaches it."""

    client: httpx2.AsyncClient

    async def show_report(self, model: str, report: Mapping[str, Any]) -> None:
        answer = await self.client.post(f"/api/drift/{model}/reports", json=dict(report))
        assert answer.status_code == 200, answer.text


async def test_on_alarm_and_by_night_it_reaches_the_ledger_and_the_console(tmp_path: Path) -> None:
    store = MonitorStore(tmp_path / "monitor.sqlite")
    rows = np.concatenate([survey(1, 0.0, 1_000), survey(2, 1.5, 1_000)])
    with store.transaction():
        for number, row in enumerate(rows):
            store.keep_labelled(
                LabelledRow(
                    call_id=f"c{number}", row=0, at_ms=number * 100_000, model="risk", version=3, principal="agent:a",
                    rung="primary", inputs=row, predicted=0, label=0,
                )
            )  # fmt: skip
    model = WatchedModel(name="risk", feature_names=FEATURES)
    async with world(tmp_path, Rooms(tmp_path)) as console:
        reports = Reports(
            ReportSettings(),
            Desk(console.client("monitor-token")),
            lambda: History(tmp_path / "monitor.sqlite"),
            tmp_path / "reports",
            Metrics("monitor"),
            now=lambda: datetime.fromtimestamp(NIGHT_S, UTC),
        )
        evidence = await reports.on_alarm(model, Course(model="risk", version=3, change_row=1_000))
        (record,) = console.ledger.read(kinds=["drift.report"])
        said = record.body["report"]
        assert (said["version"], said["cause"], said["columns"]) == (3, "alarm", 3)
        assert said["scores"][0]["column"] == "income"
        assert evidence["report_sha256"] == said["sha256"]
        page = await console.client("reader-token").get(f"/api/drift/risk/reports/{record.event_id}")
        assert b"<html" in page.content
        await reports.nightly([model])
        (_, nightly) = console.ledger.read(kinds=["drift.report"])
        assert nightly.body["report"]["cause"] == "nightly"
        assert nightly.body["report"]["scores"][0]["column"] == "income"
    store.close()
