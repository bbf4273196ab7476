"""What is looked at: subjects and their signals. Each source reads one part of the system, once in a window."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from controlplane.adaptation.engine import Readings

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Subject:
    """``kind`` is ``gateway``, ``model`` or ``replica``; ``name`` is "" for the gateway."""

    kind: str
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}" if self.name else self.kind


GATEWAY = Subject("gateway")
Source = Callable[[float], Mapping[Subject, Readings]]
"""(monotonic seconds) → what is known now. A subject without signals is there, and nothing is known of it."""


class Sources:
    """Several sources as one. One that breaks is logged once and leaves its signals unknown: nothing moves by them."""

    def __init__(self, sources: Iterable[Source]) -> None:
        self._sources = tuple(sources)
        self._complained: set[int] = set()

    def read(self, now_s: float) -> dict[Subject, dict[str, float]]:
        found: dict[Subject, dict[str, float]] = {GATEWAY: {}}
        for number, source in enumerate(self._sources):
            try:
                seen = source(now_s)
            except Exception as error:  # noqa: BLE001  whatever broke, the other signals are still there
                self._complain(number, error)
                continue
            for subject, readings in seen.items():
                found.setdefault(subject, {}).update(readings)
        of_all = found[GATEWAY]
        return {subject: {**of_all, **readings} for subject, readings in found.items()}

    def _complain(self, number: int, error: Exception) -> None:
        if number not in self._complained:
            self._complained.add(number)
            log.error("a source of signals broke; its signals are unknown", exc_info=error, extra={"source": number})
