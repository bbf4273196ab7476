"""Money and energy of work: exact, in whole numbers, rounded up once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from controlplane.cost import Work, energy_uwh, micro_usd
from controlplane.policy.catalogue import Energy, Price

CHAT = Price(input_per_million_usd=0.1, output_per_million_usd=0.4)
SOURCE = "measured at the socket, 2026-11"


@pytest.mark.parametrize(
    ("price", "work", "micro"),
    [
        (CHAT, Work(), 0),
        (CHAT, Work(10, 0), 1),
        (CHAT, Work(30, 0), 3),  # in binary fractions thirty tenths are more than three
        (CHAT, Work(1, 0), 1),
        (CHAT, Work(100, 50), 30),
        (CHAT, Work(100, 50, 100), 30),
        (Price(input_per_million_usd=1.0, cached_input_per_million_usd=0.25), Work(100, 0, 40), 70),
        (Price(input_per_million_usd=1.0, cached_input_per_million_usd=0.0), Work(100, 0, 40), 60),
        (Price(input_per_million_usd=1.0, cached_input_per_million_usd=0.0), Work(100, 0, 400), 0),
        (Price(per_call_usd=0.002), Work(), 2000),
        (Price(per_second_usd=0.001), Work(seconds=0.25), 250),
        (Price(per_second_usd=0.001), Work(seconds=-1.0), 0),
        (Price(per_call_usd=1e12), Work(), 2**53 - 1),
    ],
)
def test_a_call_costs_what_its_price_says(price: Price, work: Work, micro: int) -> None:
    assert micro_usd(price, work) == micro


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6), st.floats(0, 1000), st.floats(0, 1000))
def test_a_cost_is_never_below_the_exact_one_and_never_a_micro_dollar_above(
    given_tokens: int, made: int, cached: int, rate: float, other: float
) -> None:
    price = Price(input_per_million_usd=rate, output_per_million_usd=other, cached_input_per_million_usd=0.0)
    exact = rate * max(0, given_tokens - cached) + other * made
    assert (
        exact * (1 - 1e-9) - 1e-9 <= micro_usd(price, Work(given_tokens, made, cached)) <= exact * (1 + 1e-9) + 1 + 1e-9
    )


def test_energy_is_by_token_or_by_second() -> None:
    by_token = Energy(joules_per_input_token=0.36, joules_per_output_token=3.6, source=SOURCE)
    assert energy_uwh(by_token, Work(100, 10)) == 20_000
    assert energy_uwh(by_token, Work(100, 10, 100)) == 10_000, "what the server had cached is not computed again"
    assert energy_uwh(Energy(watts=100, source=SOURCE), Work(seconds=0.036)) == 1_000


@pytest.mark.parametrize("fields", [{"watts": 1.0}, {"watts": 1.0, "source": ""}, {"watts": -1.0, "source": SOURCE}])
def test_a_factor_without_its_source_does_not_load(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Energy.model_validate(fields)
