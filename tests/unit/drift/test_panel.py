from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from audit.entry import canonical
from controlplane.drift.panel import Budget, Panel, PanelSettings, Reference, Unpackable, Verdict, detectors_of

Rows = NDArray[np.float64]
NAMES = [f"c{j}" for j in range(30)]


def mixed(seed: int, rows: int, columns: int = 30) -> Rows:
    """Normal, lognormal, rare 0/1, counts, a heavy tail, and a constant, in turns."""
    random = np.random.default_rng(seed)
    kinds = (
        lambda: random.normal(size=rows),
        lambda: random.lognormal(size=rows),
        lambda: (random.random(rows) < 0.03).astype(float),
        lambda: random.poisson(3, rows).astype(float),
        lambda: random.standard_t(2.5, rows),
        lambda: np.full(rows, 7.0),
    )
    return np.column_stack([kinds[j % 6]() for j in range(columns)])


def coins(seed: int, rate: float, rows: int) -> Rows:
    return (np.random.default_rng(seed).random(rows) < rate).astype(float)


SIGNALS = {
    "error": coins(1, 0.10, 20_000),
    "refusal": coins(2, 0.002, 20_000),
    "timeout": coins(3, 0.0, 20_000),
    "latency": np.random.default_rng(4).lognormal(size=20_000),
}
ENROLMENT = Panel.enrol(NAMES, mixed(0, 20_000), SIGNALS).enrolment()


def fresh() -> Panel:
    return Panel.restored(ENROLMENT)


def first(panel: Panel, rows: Rows) -> Verdict:
    return panel.feed(rows)[0]


def test_nothing_is_said_of_two_hundred_thousand_rows_that_are_as_ever() -> None:
    panel = fresh()
    quiet = {
        "error": coins(16, 0.10, 200_000),
        "refusal": coins(12, 0.002, 200_000),
        "timeout": coins(13, 0.0, 200_000),
        "latency": np.random.default_rng(14).lognormal(size=200_000),
    }
    assert panel.feed(mixed(15, 200_000), quiet) == []


def test_one_standard_deviation_in_one_of_thirty_columns_is_found_and_named_within_250_rows() -> None:
    delays = []
    for seed in range(8):
        panel, changed = fresh(), mixed(50 + seed, 2_000)
        changed[:, 6] += 1.0
        assert panel.feed(mixed(20 + seed, 1_000 + 7 * seed)) == []
        verdict = first(panel, changed)
        delays.append(verdict.row - 1_000 - 7 * seed)
        assert (verdict.stream, verdict.movements[0].aspect, verdict.movements[0].rises) == ("c6", "location", True)
        assert abs(verdict.since_row - 1_000 - 7 * seed) <= 50
        assert 0.6 <= verdict.movements[0].after - verdict.movements[0].before <= 1.4
    assert np.median(delays) <= 250


@pytest.mark.parametrize(
    ("column", "change", "aspect"),
    [
        (0, lambda v: v * 3, "spread"),
        (2, lambda v: np.maximum(v, coins(9, 0.2, len(v))), "location"),
        (3, lambda v: v + 2, "location"),
        (4, lambda v: v - 1, "location"),
        (5, lambda v: v + 0.5, "location"),
        (1, lambda v: np.where(coins(9, 0.2, len(v)) > 0, np.nan, v), "missing"),
    ],
)
def test_every_kind_of_column_is_watched(column: int, change: object, aspect: str) -> None:
    panel, changed = fresh(), mixed(70, 3_000)
    changed[:, column] = change(changed[:, column])  # type: ignore[operator]
    verdict = first(panel, changed)
    assert (verdict.stream, verdict.movements[0].aspect) == (NAMES[column], aspect)


def test_a_missing_share_is_named_with_its_size() -> None:
    panel, changed = fresh(), mixed(71, 3_000)
    changed[coins(9, 0.2, 3_000) > 0, 8] = np.nan
    verdict = first(panel, changed)
    assert (verdict.detector, verdict.stream, verdict.movements[0].before) == ("missing", "c8", 0.0)
    assert verdict.row <= 150
    assert 0.1 < verdict.movements[0].after < 0.3


def test_values_beyond_all_measure_in_single_rows_say_nothing() -> None:
    panel, rows = fresh(), mixed(72, 20_000)
    rows[500, 0], rows[1_500, 4], rows[2_500, 1], rows[3_500, 3] = 1e9, -1e12, np.inf, -np.inf
    assert panel.feed(rows) == []


@pytest.mark.parametrize(
    ("name", "values", "limit"),
    [
        ("error", coins(5, 0.20, 5_000), 350),
        ("error", coins(5, 0.40, 5_000), 60),
        ("refusal", coins(6, 0.10, 5_000), 100),
        ("timeout", coins(7, 0.10, 5_000), 100),
        ("latency", 3 * np.random.default_rng(8).lognormal(size=5_000), 250),
    ],
)
def test_a_signal_that_leaves_its_band_is_found(name: str, values: Rows, limit: int) -> None:
    panel = fresh()
    assert panel.feed(signals={name: SIGNALS[name][:5_000]}) == []
    verdict = panel.feed(signals={name: values})[0]
    assert (verdict.detector, verdict.stream) == (name, name)
    assert 0 < verdict.row - 5_000 <= limit
    assert verdict.movements[0].after > 1.5 * verdict.movements[0].before


def test_rows_keep_the_numbers_that_the_caller_gives_them() -> None:
    panel, changed = fresh(), mixed(73, 1_000)
    changed[:, 0] += 2
    numbers = np.arange(70_000, 72_000)
    panel.feed(mixed(74, 1_000), numbers=numbers[:1_000])
    verdict = panel.feed(changed, {"timeout": np.ones(1_000)}, numbers[1_000:])[0]
    assert 71_000 < verdict.row <= 71_250
    assert abs(verdict.since_row - 70_999) <= 50


def test_a_change_that_lasts_gives_verdicts_again_and_says_the_same_since() -> None:
    panel, changed = fresh(), mixed(75, 3_000)
    changed[:, 0] += 1
    found = [verdict for verdict in panel.feed(changed) if verdict.detector == "inputs_50"]
    assert [verdict.crossing for verdict in found] == list(range(1, len(found) + 1))
    assert len(found) > 5
    assert len({verdict.since_row for verdict in found}) == 1


def test_a_change_that_passes_and_comes_again_is_dated_anew() -> None:
    panel = fresh()
    for changed in (False, True, False, True):
        rows = mixed(79 + changed, 5_000)
        rows[:, 0] += changed
        errors = coins(17 + changed, 0.4 if changed else 0.1, 5_000)
        found = panel.feed(rows, {"error": errors})
    dated = {verdict.detector: verdict.since_row for verdict in reversed(found)}
    assert abs(dated["inputs_50"] - 15_000) <= 50
    assert abs(dated["inputs_200"] - 15_000) <= 200
    assert abs(dated["error"] - 15_000) <= 50


def test_the_ledger_gets_integers_and_words() -> None:
    panel, changed = fresh(), mixed(76, 1_000)
    changed[:, 0] += 2
    told = first(panel, changed).ledger()
    assert all(isinstance(value, int | str) for value in told.values())
    assert (told["detector"], told["stream"], told["direction"]) == ("inputs_50", "c0", "up")
    json.dumps(told)


@pytest.mark.parametrize("far", [1.7e18, 1e300, -1e300])  # the first one is a time in nanoseconds
def test_a_column_that_moves_beyond_all_measure_can_be_recorded(far: float) -> None:
    panel, changed = fresh(), mixed(76, 1_000)
    changed[:, 0] += far
    told = first(panel, changed)
    canonical({"evidence": told.ledger()})
    canonical({"evidence": replace(told, evidence=float("inf"), arl_rows=float("inf")).ledger()})


def test_the_false_alarm_budget_of_all_detectors_adds_up() -> None:
    panel = fresh()
    rates = [1 / status.arl_rows for status in panel.status()]
    assert len(rates) == 7
    assert sum(rates) <= 1 / 100_000 * (1 + 1e-9)


def test_a_detector_that_runs_elsewhere_has_its_part_of_the_budget() -> None:
    signals = {name: values for name, values in SIGNALS.items() if name != "error"}
    panel = Panel.enrol(NAMES, mixed(0, 20_000), signals, elsewhere=("error",))
    here = sum(1 / status.arl_rows for status in panel.status())
    there = 1 / Budget().arl_rows("error", detectors_of(PanelSettings(), SIGNALS))
    assert here + there == pytest.approx(1 / 100_000)


def test_a_reference_too_short_for_a_scale_leaves_it_unarmed_and_says_so() -> None:
    panel = Panel.enrol(NAMES, mixed(1, 2_000))
    assert panel.unarmed == {"inputs_200": "reference_too_short"}
    assert [status.detector for status in panel.status()] == ["inputs_50", "missing"]
    changed = mixed(3, 3_000)
    changed[:, 0] += 1
    assert panel.feed(mixed(2, 20_000)) == []
    assert first(panel, changed).stream == "c0"
    shorter = Panel.enrol(NAMES, mixed(1, 500))
    assert shorter.unarmed == {"inputs_50": "reference_too_short", "inputs_200": "reference_too_short"}


def test_a_reference_that_wanders_leaves_a_scale_unarmed() -> None:
    rows = np.random.default_rng(1).normal(size=(20_000, 3)) + np.arange(20_000)[:, None] / 2_000
    assert Panel.enrol(["a", "b", "c"], rows).unarmed["inputs_50"] == "reference_disagrees_with_itself"


def test_state_is_small_and_enrolment_bounded() -> None:
    panel, changed = fresh(), mixed(77, 5_000)
    changed[:, ::6] += 1
    panel.feed(changed, {name: SIGNALS[name][:5_000] for name in SIGNALS})
    assert len(panel.state()) <= 40 * 1024
    assert len(ENROLMENT) <= 256 * 1024


def test_a_state_of_another_panel_and_foreign_bytes_are_refused() -> None:
    other = Panel.enrol(NAMES, mixed(5, 2_000))
    for enrolment, state in ((ENROLMENT, other.state()), (ENROLMENT, b"x"), (b"x", None), (ENROLMENT[:-9], None)):
        with pytest.raises(Unpackable):
            Panel.restored(enrolment, state)


def test_what_does_not_fit_is_refused_and_nothing_taken_in() -> None:
    panel = fresh()
    before = panel.state()
    for wrong in (
        lambda: panel.feed(np.zeros((5, 29))),
        lambda: panel.feed(np.zeros(30)),
        lambda: panel.feed(mixed(1, 5), numbers=np.arange(4)),
        lambda: panel.feed(mixed(1, 5), {"timeout": np.zeros((5, 1))}),
    ):
        with pytest.raises(ValueError):
            wrong()
    with pytest.raises(KeyError):
        panel.feed(mixed(1, 5), {"unheard_of": np.zeros(5)})
    assert panel.state() == before


def test_a_reference_may_be_told_in_counts() -> None:
    panel = Panel.enrol([], np.zeros((0, 0)), {"error": Reference(500, 5_000)})
    (status,) = panel.status()
    assert status.tolerated == pytest.approx(Reference(500, 5_000).band())
    assert panel.feed(signals={"error": coins(5, 0.3, 400)})[0].detector == "error"


def test_a_signal_that_is_silent_in_most_rows_is_counted_where_it_speaks() -> None:
    panel, values = fresh(), np.full(10_000, np.nan)
    values[::10] = coins(6, 0.3, 1_000)
    verdict = panel.feed(signals={"refusal": values})[0]
    assert verdict.row <= 600


def test_weights_move_the_budget_from_one_detector_to_another() -> None:
    def arl(weights: dict[str, float]) -> float:
        return Budget(weights=weights).arl_rows("error", ["error", "timeout"])

    assert arl({"error": 3.0, "timeout": 1.0}) < arl({"error": 1.0, "timeout": 1.0}) == 200_000
    with pytest.raises(ValueError):
        Budget(weights={"error": 0.0})


def test_trigger_evidently_watches_windows_in_place_of_blocks() -> None:
    settings = PanelSettings(trigger="evidently")
    panel = Panel.enrol(NAMES, mixed(0, 10_000), settings=settings)
    assert [status.detector for status in panel.status()] == ["window"]
    changed = mixed(3, 1_000)
    changed[:, 0] += 0.3
    assert panel.feed(mixed(2, 50_000)) == []
    verdict = first(panel, changed)
    assert (verdict.detector, verdict.stream, verdict.since_row, verdict.row) == ("window", "c0", 50_000, 51_000)
    assert Panel.enrol(NAMES, mixed(0, 1_500), settings=settings).unarmed == {"window": "reference_too_short"}
