"""The score: how several qualities of a candidate become one number between 0 and 1.

Each quality is a ratio to the best candidate's (accuracy / highest accuracy, lowest latency / latency). Stretching the
range from worst to best onto 0..1 was tried: two candidates at 0.900 and 0.901 are then worlds apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

LEAST_MS = 0.1  # below it a difference in latency is noise
LEAST_USD = 1e-7  # what is free and what is nearly free are the same


class Weights(Protocol):
    @property
    def accuracy_weight(self) -> float: ...
    @property
    def latency_weight(self) -> float: ...
    @property
    def price_weight(self) -> float: ...


Scorer = Callable[[Weights, Sequence[float], Sequence[float], Sequence[float]], list[float]]
"""(weights, accuracies, latencies in ms, prices of this call in US dollars) → scores, in the same order."""


def weighted(
    weights: Weights, accuracies: Sequence[float], latencies_ms: Sequence[float], prices_usd: Sequence[float]
) -> list[float]:
    """The default: 0.7 accuracy + 0.3 inverse latency, and the price where an operator gives it a weight."""
    by_accuracy, by_latency, by_price = weights.accuracy_weight, weights.latency_weight, weights.price_weight
    whole = by_accuracy + by_latency + by_price
    per_accuracy = by_accuracy / whole / (max(accuracies) or 1.0)
    latency_unit = by_latency / whole * max(min(latencies_ms), LEAST_MS)
    scores = [
        per_accuracy * accuracy + latency_unit / max(latency, LEAST_MS)
        for accuracy, latency in zip(accuracies, latencies_ms, strict=True)
    ]
    if by_price:
        price_unit = by_price / whole * max(min(prices_usd), LEAST_USD)
        return [s + price_unit / max(p, LEAST_USD) for s, p in zip(scores, prices_usd, strict=True)]
    return scores


def frugal(
    weights: Weights,  # noqa: ARG001  the shape of every scorer
    accuracies: Sequence[float],
    latencies_ms: Sequence[float],  # noqa: ARG001  likewise
    prices_usd: Sequence[float],
) -> list[float]:
    """The cheapest of those that are within a twentieth of the best accuracy; the rest by accuracy, below them."""
    enough, least = 0.95 * max(accuracies), max(min(prices_usd), LEAST_USD)
    return [
        0.5 + 0.5 * least / max(price, LEAST_USD) if accuracy >= enough else 0.5 * accuracy
        for accuracy, price in zip(accuracies, prices_usd, strict=True)
    ]


SCORERS: Mapping[str, Scorer] = {"weighted": weighted, "frugal": frugal}
"""By the name that settings choose. Another way to compare is another line here."""
