"""The gate between a challenger and the agents: a paired test that may be looked at after every row. Pure.

Theory. Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting" (Journal of the Royal
Statistical Society B 86(1), 2024), for a difference of losses; the time-uniform bound is Ville's inequality (1939). On
row t both models answer; d_t = champion's error - challenger's error lies in {-1, 0, 1}. While the challenger is no
better, E[d_t | past] <= 0, and for a bet 0 < b < 1 the capital

    K_t = K_{t-1} (1 + b d_t)

is a nonnegative supermartingale from 1, and so is a mixture over bets. Ville: P(K ever reaches 1/alpha) <= alpha. So a
challenger that is equal or worse is promoted with probability at most alpha, however long and often one looks. The
same capital on -d_t refuses a worse one early. A fixed sample with "mean > 0" promotes an equal challenger every
second time; a z-test looked at every hundred rows promotes it several times in a hundred.

The same test answers three questions.

* Shadow: is the challenger better? margin 0. Everything that is ever promoted has passed this one, so the bound above
  is the bound of the whole course: what stands behind it can only refuse.
* Each step of a canary: is it, on the rows of this step alone, still not worse by more than a margin m > 0? With
  d_t + m for d_t the hypothesis "worse by m or more" has E[d_t + m | past] <= 0, and 1 + b (d_t + m) > 0 for b < 1, so
  the theory stands word for word. A step starts with capital 1 again: what the shadow showed is no evidence that the
  version serves well. "Worse" always means worse without a margin.
* A fallback: is it better than a version that labels have proved wrong? margin 0, from the verdict on. The rows that
  led to the verdict were picked for the version's errors and would flatter anybody else.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

MILLION = 1_000_000
BETS = (0.05, 0.1, 0.2, 0.4)  # small bets find small differences late, large bets find large ones soon


class Ruling(StrEnum):
    OPEN = "open"
    PROMOTE = "promote"
    REFUSE_WORSE = "worse"
    REFUSE_UNDECIDED = "undecided"


@dataclass(slots=True)
class PromotionGate:
    """Feed it one paired row at a time until its ruling is no longer open; later rows change nothing."""

    alpha: float = 0.01
    undecided_rows: int = 5_000
    margin: float = 0.0
    at_least: int = 0  # rows before which nothing is promoted, however clear it is
    rows: int = 0
    champion_errors: int = 0
    challenger_errors: int = 0
    ruling: Ruling = Ruling.OPEN
    _for: list[float] = field(default_factory=lambda: [0.0] * len(BETS), repr=False)  # log capital, by bet
    _against: list[float] = field(default_factory=lambda: [0.0] * len(BETS), repr=False)

    def update(self, champion_error: int, challenger_error: int) -> Ruling:
        if self.ruling is not Ruling.OPEN:
            return self.ruling
        self.rows += 1
        self.champion_errors += champion_error
        self.challenger_errors += challenger_error
        difference = champion_error - challenger_error
        if difference or self.margin:
            for i, bet in enumerate(BETS):
                self._for[i] += math.log1p(bet * (difference + self.margin))
                self._against[i] += math.log1p(-bet * difference)
        self.ruling = self._ruling()
        return self.ruling

    def update_all(self, pairs: Iterable[tuple[int, int]]) -> Ruling:
        for champion_error, challenger_error in pairs:
            if self.update(champion_error, challenger_error) is not Ruling.OPEN:
                break
        return self.ruling

    def _ruling(self) -> Ruling:
        threshold = -math.log(self.alpha)
        if _log_mean(self._against) >= threshold:
            return Ruling.REFUSE_WORSE
        if self.log_capital >= threshold and self.rows >= self.at_least:
            return Ruling.PROMOTE
        return Ruling.REFUSE_UNDECIDED if self.rows >= self.undecided_rows else Ruling.OPEN

    @property
    def is_closed(self) -> bool:
        return self.ruling is not Ruling.OPEN

    @property
    def log_capital(self) -> float:
        """Natural logarithm of the evidence that the challenger is better."""
        return _log_mean(self._for)

    def evidence(self) -> dict[str, int | str]:
        said: dict[str, int | str] = {
            "gate": "paired-betting/1",
            "paired_rows": self.rows,
            "champion_errors": self.champion_errors,
            "challenger_errors": self.challenger_errors,
            "capital_log10_milli": int(1000 * self.log_capital / math.log(10)),
            "false_promotion_ppm": round(self.alpha * MILLION),
        }
        return said | {"margin_ppm": round(self.margin * MILLION)} if self.margin else said

    def snapshot(self) -> dict[str, Any]:
        """Plain values from which ``resumed_gate`` makes an equal gate."""
        return {
            "alpha": self.alpha,
            "undecided_rows": self.undecided_rows,
            "margin": self.margin,
            "at_least": self.at_least,
            "rows": self.rows,
            "champion_errors": self.champion_errors,
            "challenger_errors": self.challenger_errors,
            "ruling": str(self.ruling),
            "for": list(self._for),
            "against": list(self._against),
        }


def resumed_gate(snapshot: dict[str, Any]) -> PromotionGate:
    return PromotionGate(
        alpha=snapshot["alpha"],
        undecided_rows=snapshot["undecided_rows"],
        margin=snapshot.get("margin", 0.0),
        at_least=snapshot.get("at_least", 0),
        rows=snapshot["rows"],
        champion_errors=snapshot["champion_errors"],
        challenger_errors=snapshot["challenger_errors"],
        ruling=Ruling(snapshot["ruling"]),
        _for=list(snapshot["for"]),
        _against=list(snapshot["against"]),
    )


def _log_mean(logs: list[float]) -> float:
    highest = max(logs)
    return highest + math.log(sum(math.exp(value - highest) for value in logs) / len(logs))
