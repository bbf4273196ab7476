"""From work to money and energy. Pure and exact: rates are the decimals as written, and only the sum is rounded, up.

Reckoned in whole billionths: exact fractions cost a call 20 µs, and binary ones overcharge (3 * 0.1 is above 0.3).
"""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal
from functools import lru_cache

import msgspec

from controlplane.policy.catalogue import Energy, Price

MICRO = 1_000_000
BILLION = 1_000_000_000
JOULES_PER_WATT_HOUR = 3600
LARGEST = 2**53 - 1  # the largest integer that the ledger takes


class Work(msgspec.Struct, frozen=True):
    """What one call made a model do. ``cached_tokens`` are part of ``input_tokens``."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    seconds: float = 0.0


class Rates(msgspec.Struct, frozen=True):
    """A price, reckoned once: billionths of a micro dollar for a token, for a call and for a second. A dollar for a
    million tokens is a micro dollar a token."""

    input_token: int
    cached_token: int
    output_token: int
    call: int
    second: int

    @classmethod
    def of(cls, price: Price) -> Rates:
        cached = price.cached_input_per_million_usd
        return cls(
            input_token=_billionths(price.input_per_million_usd),
            cached_token=_billionths(price.input_per_million_usd if cached is None else cached),
            output_token=_billionths(price.output_per_million_usd),
            call=_billionths(price.per_call_usd) * MICRO,
            second=_billionths(price.per_second_usd) * MICRO,
        )

    def micro_usd(self, work: Work) -> int:
        """Micro US dollars, rounded up."""
        given, cached = work.input_tokens, min(work.cached_tokens, work.input_tokens)
        total = (
            self.input_token * (given - cached) + self.cached_token * cached + self.output_token * work.output_tokens
        )
        total += self.call
        if self.second:
            total += _up(self.second * _nanoseconds(work), BILLION)
        return min(_up(total, BILLION), LARGEST)


def micro_usd(price: Price, work: Work) -> int:
    """Micro US dollars, rounded up. Who asks more than once for the same price keeps its ``Rates``."""
    return Rates.of(price).micro_usd(work)


def energy_uwh(energy: Energy, work: Work) -> int:
    """Micro watt hours, rounded up. Tokens that the server had cached are not computed again."""
    joules = (
        _billionths(energy.joules_per_input_token) * max(0, work.input_tokens - work.cached_tokens)
        + _billionths(energy.joules_per_output_token) * work.output_tokens
    )
    if energy.watts:
        joules += _up(_billionths(energy.watts) * _nanoseconds(work), BILLION)
    return min(_up(joules * MICRO, JOULES_PER_WATT_HOUR * BILLION), LARGEST)


def _nanoseconds(work: Work) -> int:
    return max(0, round(work.seconds * BILLION))


def _up(amount: int, unit: int) -> int:
    return -(-amount // unit)


@lru_cache(maxsize=4096)
def _billionths(rate: float) -> int:
    """The number that was written: 0.1 is a tenth, not the nearest binary fraction above it."""
    return int((Decimal(repr(rate)) * BILLION).to_integral_value(ROUND_CEILING))
