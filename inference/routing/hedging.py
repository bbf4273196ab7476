"""When a prediction is late enough to ask a second replica. Pure; tasks are the pool's."""

from __future__ import annotations

from collections import OrderedDict, deque

from inference.backend import BackendRequest
from inference.routing.budget import Budget
from inference.routing.settings import HedgeSettings

HEDGED = frozenset({"Predict", "Classify", "Regress", "MultiInference"})
REMEMBERED_CALLS = 128
REMEMBERED_MODELS = 256
SORTED_EVERY = 16  # calls; sorting 128 numbers for each of them would cost more than it is worth
BURST = 4.0


class Recent:
    """Latencies of one model's last calls, and their quantile as it was a few calls ago."""

    __slots__ = ("_quantile", "_since_sorted", "_spans", "late_s")

    def __init__(self, quantile: float) -> None:
        self._quantile, self._since_sorted = quantile, 0
        self._spans: deque[float] = deque(maxlen=REMEMBERED_CALLS)
        self.late_s = float("inf")

    def note(self, span_s: float, min_calls: int) -> None:
        self._spans.append(span_s)
        self._since_sorted += 1
        if self._since_sorted >= SORTED_EVERY and len(self._spans) >= min_calls:
            self._since_sorted = 0
            self.late_s = sorted(self._spans)[int(self._quantile * len(self._spans))]


class Hedging:
    def __init__(self, settings: HedgeSettings) -> None:
        self._settings = settings
        self._recent: OrderedDict[str, Recent] = OrderedDict()
        self.budget = Budget(settings.ratio, 0.0, BURST)

    def hedges(self, request: BackendRequest) -> bool:
        return self._settings.ratio > 0 and request.operation in HEDGED

    def delay_s(self, request: BackendRequest) -> float:
        """Seconds after which a second replica is asked; infinite while too little is known."""
        recent = self._recent.get(request.target)
        return max(self._settings.at_least_s, recent.late_s) if recent else float("inf")

    def note(self, request: BackendRequest, span_s: float) -> None:
        recent = self._recent.get(request.target)
        if recent is None:
            recent = self._recent[request.target] = Recent(self._settings.quantile)
            if len(self._recent) > REMEMBERED_MODELS:
                self._recent.popitem(last=False)
        recent.note(span_s, self._settings.min_calls)
