"""How a model's calls went: noted by the layer that makes them, read once in a window.

Latency is the model's own: the wait in our line, our cache and our ladder are outside of it, or a throttle would keep
itself alive by the queue that it makes. A quantile of a few calls is noise: calls are kept over windows until there are
enough, and each is judged once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from controlplane.adaptation.engine import Readings
from controlplane.adaptation.settings import AdaptationSettings
from controlplane.adaptation.signals import Subject

SAMPLES_KEPT = 2000  # of one model between two judgements; beyond that every new one replaces the oldest


@dataclass(slots=True)
class Kept:
    since_s: float
    latencies_s: list[float] = field(default_factory=list)
    answered: int = 0
    failed: int = 0
    fresh: int = 0  # calls since the last window


class ModelCalls:
    """``models`` are those that have signals even when nobody calls them."""

    def __init__(self, settings: AdaptationSettings, models: Callable[[], Iterable[str]]) -> None:
        self._settings, self._models = settings, models
        self._kept: dict[str, Kept] = {}

    def answered(self, model: str, latency_s: float, now_s: float) -> None:
        kept = self._of(model, now_s)
        if len(kept.latencies_s) < SAMPLES_KEPT:
            kept.latencies_s.append(latency_s)
        else:
            kept.latencies_s[kept.answered % SAMPLES_KEPT] = latency_s
        kept.answered += 1
        kept.fresh += 1

    def failed(self, model: str, now_s: float) -> None:
        kept = self._of(model, now_s)
        kept.failed += 1
        kept.fresh += 1

    def __call__(self, now_s: float) -> Mapping[Subject, Readings]:
        """A ``Source``."""
        found: dict[Subject, Readings] = {Subject("model", name): {"calls": 0} for name in self._models()}
        for model, kept in list(self._kept.items()):
            readings: dict[str, float] = {"calls": kept.fresh}
            kept.fresh = 0
            enough = kept.answered + kept.failed >= self._settings.min_calls
            if enough:
                readings |= _judged(kept, self._settings.min_calls)
            if enough or now_s - kept.since_s >= self._settings.calls_kept_s:
                del self._kept[model]
            found[Subject("model", model)] = readings
        return found

    def _of(self, model: str, now_s: float) -> Kept:
        kept = self._kept.get(model)
        if kept is None:
            kept = self._kept[model] = Kept(now_s)
        return kept


def _judged(kept: Kept, min_calls: int) -> dict[str, float]:
    readings = {"error_ratio": kept.failed / (kept.answered + kept.failed)}
    if kept.answered >= min_calls:
        ordered = sorted(kept.latencies_s)
        readings["latency_p95_ms"] = quantile(ordered, 0.95) * 1000
        readings["latency_p99_ms"] = quantile(ordered, 0.99) * 1000
    return readings


def quantile(ordered: list[float], ratio: float) -> float:
    """The smallest value that at least ``ratio`` of all do not exceed."""
    return ordered[min(len(ordered) - 1, -int(-ratio * len(ordered) // 1) - 1)]
