"""Both triggers on the same rows: what each must say, what neither may, and what only one of them can."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from controlplane.drift.panel import Panel, PanelSettings, Verdict

Trigger = Literal["sequential", "evidently"]
Rows = NDArray[np.float64]
NAMES = [f"c{j}" for j in range(10)]
REFERENCE, WATCHED = 10_000, 20_000
BOTH: tuple[Trigger, ...] = ("sequential", "evidently")


def rows(seed: int, count: int) -> Rows:
    chance = np.random.default_rng(seed)
    plain = chance.normal(size=(count, 10))
    plain[:, 3] = chance.lognormal(size=count)
    plain[:, 5] = chance.random(count) < 0.03
    return plain


def verdicts(trigger: Trigger, watched: Rows) -> list[Verdict]:
    panel = Panel.enrol(NAMES, rows(0, REFERENCE), {}, PanelSettings(trigger=trigger))
    return panel.feed(watched)


@pytest.mark.parametrize("trigger", BOTH)
def test_neither_speaks_where_nothing_moved(trigger: Trigger) -> None:
    assert verdicts(trigger, rows(1, WATCHED)) == []


@pytest.mark.parametrize("trigger", BOTH)
def test_neither_can_be_made_to_speak_by_one_extreme_value(trigger: Trigger) -> None:
    """Evidently's own score of such a window is above a million."""
    watched = rows(2, WATCHED)
    watched[5_000, 0], watched[9_000, 7] = 1e9, -1e12
    assert verdicts(trigger, watched) == []


@pytest.mark.parametrize(("trigger", "late"), [("sequential", 400), ("evidently", 2_000)])
def test_both_name_the_column_that_moved_by_a_standard_deviation(trigger: Trigger, late: int) -> None:
    watched = rows(3, WATCHED)
    watched[10_000:, 4] += 1.0
    first = verdicts(trigger, watched)[0]
    assert first.stream == "c4"
    assert 10_000 < first.row <= 10_000 + late


def test_a_quarter_of_a_standard_deviation_is_sooner_found_by_a_window() -> None:
    watched = rows(4, WATCHED)
    watched[:, 4] += 0.25
    first = {trigger: verdicts(trigger, watched)[0] for trigger in BOTH}
    assert {each.stream for each in first.values()} == {"c4"}
    assert first["evidently"].row <= 1_000 < first["sequential"].row


@pytest.mark.parametrize("trigger", BOTH)
def test_neither_sees_a_change_of_what_is_true_and_labels_do(trigger: Trigger) -> None:
    chance = np.random.default_rng(5)
    settings = PanelSettings(trigger=trigger)
    panel = Panel.enrol(NAMES, rows(0, REFERENCE), {"error": (chance.random(5_000) < 0.1).astype(float)}, settings)
    errors = (chance.random(WATCHED) < np.where(np.arange(WATCHED) < 10_000, 0.1, 0.3)).astype(float)
    found = panel.feed(rows(6, WATCHED), {"error": errors})
    assert {each.detector for each in found} == {"error"}
    assert 10_000 < found[0].row <= 10_400


def test_the_threshold_of_the_score_is_the_operators() -> None:
    watched = rows(7, 5_000)
    watched[:, 4] += 0.25
    deaf = PanelSettings(trigger="evidently", drift_score_threshold=0.95)
    assert Panel.enrol(NAMES, rows(0, REFERENCE), {}, deaf).feed(watched) == []
