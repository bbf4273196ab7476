"""The documented score, by hand."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from inference.selection import SelectionSettings
from inference.selection.scoring import SCORERS
from inference.selection.selector import filled

DEFAULT = SelectionSettings()


def test_the_default_is_seven_tenths_accuracy_and_three_tenths_inverse_latency() -> None:
    scores = SCORERS["weighted"](DEFAULT, [0.9, 0.45], [200.0, 100.0], [0.0, 0.0])
    assert scores == pytest.approx([0.7 + 0.3 * 0.5, 0.7 * 0.5 + 0.3])


def test_candidates_that_are_nearly_alike_score_nearly_alike() -> None:
    one, other = SCORERS["weighted"](DEFAULT, [0.900, 0.901], [100.0, 100.0], [0.0, 0.0])
    assert other - one < 0.001


def test_weights_are_shares_of_their_sum() -> None:
    scaled = SelectionSettings(accuracy_weight=7, latency_weight=3)
    told = ([0.9, 0.5], [200.0, 100.0], [0.0, 0.0])
    assert SCORERS["weighted"](scaled, *told) == pytest.approx(SCORERS["weighted"](DEFAULT, *told))


def test_price_counts_where_it_has_a_weight() -> None:
    settings = SelectionSettings(price_weight=1.0)
    dear, cheap = SCORERS["weighted"](settings, [0.9, 0.9], [100.0, 100.0], [0.02, 0.01])
    assert cheap - dear == pytest.approx(0.25)


def test_frugal_takes_the_cheapest_that_is_good_enough() -> None:
    scores = SCORERS["frugal"](DEFAULT, [0.90, 0.87, 0.5], [1.0, 1.0, 1.0], [0.02, 0.01, 0.0])
    assert scores.index(max(scores)) == 1


@pytest.mark.parametrize("scorer", SCORERS)
def test_nothing_known_and_nothing_to_pay_is_no_division_by_zero(scorer: str) -> None:
    assert len(SCORERS[scorer](SelectionSettings(price_weight=1), [0.0, 0.0], [0.0, 0.0], [0.0, 0.0])) == 2


@pytest.mark.parametrize("wrong", [{"scorer": "mine"}, {"accuracy_weight": 0, "latency_weight": 0}])
def test_settings_that_cannot_compare_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SelectionSettings.model_validate(wrong)


def test_an_unknown_latency_is_taken_for_the_middle_of_the_known() -> None:
    assert filled([10.0, None, 30.0, 20.0]) == [10.0, 20.0, 30.0, 20.0]
    assert len(set(filled([None, None]))) == 1
