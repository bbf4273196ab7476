"""From work to money and energy. Pure and exact: the rates are the decimals as written, and only the sum is rounded."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from controlplane.policy.catalogue import Energy, Price

MICRO = 1_000_000
JOULES_PER_MICRO_WATT_HOUR = Fraction(3600, 1_000_000)
LARGEST = 2**53 - 1  # the largest integer that the ledger takes


@dataclass(frozen=True, slots=True)
class Work:
    """What one call made a model do. ``cached_tokens`` are part of ``input_tokens``."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    seconds: float = 0.0


def micro_usd(price: Price, work: Work) -> int:
    """Micro US dollars, rounded up. A dollar for a million tokens is a micro dollar a token."""
    cached = min(work.cached_tokens, work.input_tokens)
    cached_rate = price.cached_input_per_million_usd
    total = (
        _exact(price.input_per_million_usd) * (work.input_tokens - cached)
        + _exact(price.input_per_million_usd if cached_rate is None else cached_rate) * cached
        + _exact(price.output_per_million_usd) * work.output_tokens
        + _exact(price.per_call_usd) * MICRO
        + _exact(price.per_second_usd) * MICRO * _exact(max(0.0, work.seconds))
    )
    return min(math.ceil(total), LARGEST)


def energy_uwh(energy: Energy, work: Work) -> int:
    """Micro watt hours, rounded up. Tokens that the server had cached are not computed again."""
    joules = (
        _exact(energy.joules_per_input_token) * max(0, work.input_tokens - work.cached_tokens)
        + _exact(energy.joules_per_output_token) * work.output_tokens
        + _exact(energy.watts) * _exact(max(0.0, work.seconds))
    )
    return min(math.ceil(joules / JOULES_PER_MICRO_WATT_HOUR), LARGEST)


def _exact(rate: float) -> Fraction:
    """The number that was written: 0.1 is a tenth, not the nearest binary fraction above it."""
    return Fraction(repr(rate)) if rate else Fraction(0)
