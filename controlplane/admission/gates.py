"""All gates of a gateway, by name, made when first needed; throttled one by one or all together."""

from __future__ import annotations

from collections.abc import Callable

from controlplane.admission.gate import Gate, GateStatus, Watcher
from controlplane.admission.settings import AdmissionSettings


class Gates:
    """``settings_for`` gives the settings of a gate. Names come from configuration, never from callers."""

    def __init__(
        self,
        settings_for: Callable[[str], AdmissionSettings],
        now: Callable[[], float],
        watcher: Watcher | None = None,
    ) -> None:
        self._settings_for, self._now, self._watcher = settings_for, now, watcher
        self._gates: dict[str, Gate] = {}
        self._steps: dict[str, int] = {}
        self._steps_of_all = 0

    def of(self, name: str) -> Gate:
        gate = self._gates.get(name)
        if gate is None:
            gate = self._gates[name] = Gate(name, self._settings_for(name), self._watcher)
            self._apply(name)
        return gate

    def throttle(self, name: str, steps: int) -> None:
        """0 lifts it. Where a gate and all gates are throttled the stronger of the two holds."""
        self._steps[name] = steps
        self._apply(name)

    def throttle_all(self, steps: int) -> None:
        self._steps_of_all = steps
        for name in self._gates:
            self._apply(name)

    def snapshot(self) -> list[GateStatus]:
        return [gate.status() for _, gate in sorted(self._gates.items())]

    def _apply(self, name: str) -> None:
        gate, steps = self._gates.get(name), max(self._steps.get(name, 0), self._steps_of_all)
        if gate is not None and gate.throttle_steps != steps:
            gate.throttle(steps, self._now())
