"""What replicas say of themselves, as signals of the replicas and of the models that they serve."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from controlplane.adaptation.engine import Readings
from controlplane.adaptation.settings import AdaptationSettings
from controlplane.adaptation.signals import Subject

RESTARTED = 0.5  # memory that fell to half of what it was belongs to a new process


class ReplicaSeen(Protocol):
    """One replica now. None where it has not said."""

    @property
    def name(self) -> str: ...
    @property
    def models(self) -> Sequence[str]: ...
    @property
    def kv_ratio(self) -> float | None:
        """KV cache in use, 0 to 1."""
        ...

    @property
    def gpu_ratio(self) -> float | None: ...
    @property
    def waiting(self) -> int | None: ...
    @property
    def rss_bytes(self) -> int | None: ...
    @property
    def is_progressing(self) -> bool | None:
        """False when it was given work and does not move; None when nobody has tried."""
        ...


@dataclass(slots=True)
class History:
    """Readings of one replica's memory, the oldest first, and its failed checks in a row."""

    sizes: deque[tuple[float, int]] = field(default_factory=deque)
    failed: int | None = None


class ReplicaSignals:
    """A ``Source`` over what ``replicas`` gives; call it once for each progress check."""

    def __init__(self, settings: AdaptationSettings, replicas: Callable[[], Iterable[ReplicaSeen]]) -> None:
        self._window_s, self._replicas = settings.memory_window_s, replicas
        self._histories: dict[str, History] = {}

    def __call__(self, now_s: float) -> Mapping[Subject, Readings]:
        found: dict[Subject, dict[str, float]] = {}
        seen = list(self._replicas())
        self._histories = {one.name: self._histories.get(one.name, History()) for one in seen}
        for one in seen:
            own = found[Subject("replica", one.name)] = self._of(one, self._histories[one.name], now_s)
            for model in one.models:
                _add(found.setdefault(Subject("model", model), {}), own)
        return found

    def _of(self, one: ReplicaSeen, history: History, now_s: float) -> dict[str, float]:
        readings: dict[str, float] = {}
        uses = [ratio for ratio in (one.kv_ratio, one.gpu_ratio) if ratio is not None]
        if uses:
            readings["gpu_or_kv_ratio"] = max(uses)
        if one.waiting is not None:
            readings["waiting"] = one.waiting
        if one.is_progressing is not None:
            history.failed = 0 if one.is_progressing else (history.failed or 0) + 1
        if history.failed is not None:
            readings["failed_checks"] = history.failed
        growth = None if one.rss_bytes is None else self._growth(history.sizes, one.rss_bytes, now_s)
        if growth is not None:
            readings["memory_growth_ratio"] = growth
        return readings

    def _growth(self, sizes: deque[tuple[float, int]], rss_bytes: int, now_s: float) -> float | None:
        """Against the beginning of the window; None until a whole window was seen."""
        if sizes and rss_bytes < sizes[-1][1] * RESTARTED:
            sizes.clear()
        sizes.append((now_s, rss_bytes))
        while len(sizes) > 1 and sizes[1][0] <= now_s - self._window_s:
            sizes.popleft()
        began_s, began_bytes = sizes[0]
        if now_s - began_s < self._window_s or not began_bytes:
            return None
        return rss_bytes / began_bytes - 1


def _add(model: dict[str, float], replica: Readings) -> None:
    """A model is as full as its fullest replica, and all their queues are its queue."""
    if "gpu_or_kv_ratio" in replica:
        model["gpu_or_kv_ratio"] = max(model.get("gpu_or_kv_ratio", 0.0), replica["gpu_or_kv_ratio"])
    if "waiting" in replica:
        model["waiting"] = model.get("waiting", 0) + replica["waiting"]
