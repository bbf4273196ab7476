"""The real Evidently, in its own process, as the monitor runs it."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from controlplane.drift.reporter import Reporter
from controlplane.drift.settings import ReportSettings

pytestmark = [
    pytest.mark.real("evidently"),
    pytest.mark.skipif(
        importlib.util.find_spec("evidently") is None, reason="evidently is not installed (extra: drift)"
    ),
]
FEATURES = ("income", "age", "insured")
MEMORY_TOO_SMALL_BYTES = 200 * 2**20


def survey(seed: int, shift: float, rows: int = 2_000) -> np.ndarray:
    chance = np.random.default_rng(seed)
    return np.column_stack(
        [chance.normal(shift, 1, rows), chance.normal(40, 10, rows), chance.integers(0, 2, rows).astype(float)]
    )


async def test_the_report_names_the_column_that_moved(tmp_path: Path) -> None:
    found = await Reporter(ReportSettings(), FEATURES).report(survey(1, 0.0), survey(2, 1.0), tmp_path / "out")
    html = (tmp_path / "out/report.html.gz").read_bytes()
    assert found == {
        "report": "made",
        "report_sha256": hashlib.sha256(html).hexdigest(),
        "report_drifted_columns": 1,
        "report_columns": 3,
    }
    assert b"<html" in gzip.decompress(html)
    scores = json.loads((tmp_path / "out/scores.json").read_text())
    moved = {name for name, column in scores["columns"].items() if column["score"] >= column["threshold"]}
    assert moved == {"income"}


async def test_a_report_that_breaks_takes_too_long_or_too_much_is_a_word_and_no_error(tmp_path: Path) -> None:
    """One broken kind each: an empty column, a second, and memory that does not even hold the library."""
    rows = survey(1, 0.0, 50)
    empty = np.full_like(rows, np.nan)
    assert await Reporter(ReportSettings(), FEATURES).report(rows, empty, tmp_path / "a") == {"report": "failed"}
    assert (tmp_path / "a/failure.txt").read_bytes()
    hasty = ReportSettings(timeout_s=0.2)
    assert await Reporter(hasty, FEATURES).report(rows, rows, tmp_path / "b") == {"report": "timeout"}
    poor = ReportSettings(memory_bytes=MEMORY_TOO_SMALL_BYTES)
    assert await Reporter(poor, FEATURES).report(rows, rows, tmp_path / "c") == {"report": "failed"}
    nothing = np.empty((0, 0))
    assert await Reporter(ReportSettings(), FEATURES).report(nothing, rows, tmp_path / "d") == {"report": "no_rows"}
