"""What other rooms already know of a model, as signals: breakers, drift, selection. Plain values come in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from controlplane.adaptation.engine import Readings
from controlplane.adaptation.signals import Source, Subject

CLOSED = "closed"
DRIFT_LEVELS: Mapping[str, int] = MappingProxyType(
    {
        "LEARNING": 0,
        "HEALTHY": 0,
        "PROMOTED": 0,
        "WARN": 1,
        "DATA_FAULT": 2,
        "DEGRADED": 3,
        "RETRAINING": 3,
        "SHADOW": 3,
        "CANARY": 3,
        "ROLLED_BACK": 3,
    }
)


@dataclass(frozen=True, slots=True)
class Chosen:
    """A model that selection chose although its accuracy is down, and that a person must review."""

    model: str
    in_a_row: int
    drop_ratio: float


class BreakerSeen(NamedTuple):
    model: str
    state: str


def breakers(seen: Callable[[], Iterable[BreakerSeen]], models: Callable[[], Iterable[str]]) -> Source:
    """A model has several breakers, one for each version; a model without any has none that is open."""

    def read(_now_s: float) -> Mapping[Subject, Readings]:
        found = dict.fromkeys(models(), 0)
        for breaker in seen():
            found[breaker.model] = max(found.get(breaker.model, 0), int(breaker.state != CLOSED))
        return {Subject("model", model): {"breaker_open": is_open} for model, is_open in found.items()}

    return read


def drift(states: Callable[[], Mapping[str, str]]) -> Source:
    """``states`` gives the drift state of every model that is watched; a word that is not known is no signal."""

    def read(_now_s: float) -> Mapping[Subject, Readings]:
        return {
            Subject("model", model): {"drift_level": DRIFT_LEVELS[state]}
            for model, state in states().items()
            if state in DRIFT_LEVELS
        }

    return read


def selection(chosen: Callable[[], Iterable[Chosen]], models: Callable[[], Iterable[str]]) -> Source:
    """A model that nobody has to review is well. Where several tenants have one under review the worst counts."""

    def read(_now_s: float) -> Mapping[Subject, Readings]:
        found = dict.fromkeys(models(), (0, 0.0))
        for one in chosen():
            times, drop_ratio = found.get(one.model, (0, 0.0))
            found[one.model] = max(times, one.in_a_row), max(drop_ratio, one.drop_ratio)
        return {
            Subject("model", model): {"chosen_in_a_row": times, "accuracy_drop_ratio": drop_ratio}
            for model, (times, drop_ratio) in found.items()
        }

    return read
