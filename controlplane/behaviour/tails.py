"""The tail of a negative binomial distribution, by logarithms of gamma functions; no tables, no scipy. Pure.

Parametrised by mean m and spread k = 1/r, so that the variance is m + k·m². k = 0 is the Poisson distribution.
"""

from __future__ import annotations

from math import exp, inf, lgamma, log, log1p

SMALLEST_SPREAD = 1e-6  # below it, r is so large that lgamma differences lose their digits; Poisson is as good
MOST = 2**40


def log_pmf(count: int, mean: float, spread: float) -> float:
    if mean <= 0:
        return 0.0 if count == 0 else -inf
    if spread < SMALLEST_SPREAD:
        return count * log(mean) - mean - lgamma(count + 1)
    r = 1 / spread
    of_zero = -r * log1p(mean / r)
    return lgamma(count + r) - lgamma(r) - lgamma(count + 1) + of_zero + count * (log(mean) - log(r + mean))


def tail_bound(count: int, mean: float, spread: float) -> float:
    """At least P(X ≥ ``count``), and nearly it; 1 where ``count`` is not above the mean.

    Terms fall by pmf(i+1)/pmf(i) = q·(i + r)/(i + 1) with q = m/(r + m), which rises or falls towards q. So from
    ``count`` on no ratio is above the larger of the first one and q, and a geometric series bounds the sum.
    """
    if count <= mean:
        return 1.0
    if spread < SMALLEST_SPREAD:
        ratio = mean / (count + 1)
    else:
        r = 1 / spread
        q = mean / (r + mean)
        ratio = max(q, q * (count + r) / (count + 1))
    if ratio >= 1:
        return 1.0
    return min(1.0, exp(log_pmf(count, mean, spread)) / (1 - ratio))


def limit_of(mean: float, spread: float, tail: float) -> int:
    """The smallest count that is exceeded with a chance of at most ``tail``."""
    low, high = int(mean), int(mean) + 2
    while tail_bound(high + 1, mean, spread) > tail and high < MOST:
        low, high = high, 2 * high
    while low < high:
        middle = (low + high) // 2
        if tail_bound(middle + 1, mean, spread) <= tail:
            high = middle
        else:
            low = middle + 1
    return low
