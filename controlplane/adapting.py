"""How this gateway adapts: the layers around a model's calls, and the loop that moves them by the rules of policy.

Meets here: gates (admission), lighter tiers and rules (adaptation), the catalogue, breakers, drift states, the ledger
and the metrics. The fleet asks for the layers when it is built; the loop begins when everything that it reads is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from audit import ReadableLedger, RecordReader
from controlplane.adaptation import (
    KIND,
    Act,
    Adaptation,
    AdaptationSettings,
    Adapted,
    BreakerSeen,
    Chosen,
    CpuMeter,
    ModelCalls,
    ReplicaSeen,
    ReplicaSignals,
    Source,
    Sources,
    Tiers,
    Transition,
    breakers,
    drift,
    lighter_tier,
    selection,
    throttle,
)
from controlplane.admission import AdmissionSettings, Gates, QueuedBackend
from controlplane.clock import Clock
from controlplane.policy import BundlePolicy
from controlplane.policy.catalogue import CACHE
from controlplane.resilience.breakers import Breakers, target_in
from controlplane.telemetry.metrics import Metrics
from inference.backend import Backend

PAGE = 1000


class Reviewed(Protocol):
    """``inference.selection`` says this of a model that a person must look at."""

    @property
    def model(self) -> str: ...
    @property
    def reference_ppm(self) -> int: ...
    @property
    def accuracy_ppm(self) -> int: ...
    @property
    def choices(self) -> int: ...


@dataclass(frozen=True, slots=True)
class GateMeter:
    """``admission.gate.Watcher`` over the metrics."""

    metrics: Metrics

    def waited(self, gate: str, seconds: float) -> None:
        self.metrics.observe_waited(gate=gate, duration_s=seconds)

    def shed(self, gate: str, cause: str) -> None:
        self.metrics.observe_shed(gate=gate, cause=cause)


class Adapting:
    """One gate for each model of the catalogue. ``loop`` is there once ``begin`` was called."""

    loop: Adaptation

    def __init__(
        self,
        admission: AdmissionSettings,
        adaptation: AdaptationSettings,
        policy: BundlePolicy,
        *,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._settings, self._policy, self._clock, self._metrics = adaptation, policy, clock, metrics
        self.gates = Gates(lambda _: admission, clock.monotonic, GateMeter(metrics))
        self.tiers = Tiers(self._lighter)
        self.calls = ModelCalls(adaptation, self._models)

    def adapted(self, plain: Mapping[str, Backend]) -> dict[str, Backend]:
        """The layer between the fallback ladder and the versions: models by name, as they are answered now."""
        return {
            name: Adapted(backend, plain, self.tiers, self.calls, self._clock.monotonic)
            for name, backend in plain.items()
        }

    def queued(self, model: str, backend: Backend) -> Backend:
        """The outermost layer: the gate before everything that a call of this model needs."""
        return QueuedBackend(backend, self.gates.of(model), self._clock.monotonic)

    def begin(
        self,
        ledger: ReadableLedger,
        circuit: Breakers,
        *,
        drift_states: Callable[[], Mapping[str, str]],
        reviews: Callable[[], Iterable[Reviewed]] = list,
        replicas: Callable[[], Iterable[ReplicaSeen]] = list,
        actions: Mapping[str, Act] | None = None,
        cpu: Source | None = None,
    ) -> None:
        """Blocking: takes the levels from the ledger. ``actions`` are those of replicas: ``isolate``, ``restart``."""
        sources: list[Source] = [
            cpu or CpuMeter(),
            self.calls,
            ReplicaSignals(self._settings, replicas),
            breakers(
                lambda: [BreakerSeen(target_in(one.name), one.state.value) for one in circuit.snapshot()], self._models
            ),
            drift(drift_states),
            selection(lambda: map(_chosen, reviews()), self._models),
        ]
        self.loop = Adaptation(
            self._settings,
            lambda: self._policy.adaptation,
            Sources(sources),
            {
                "throttle": throttle(self.gates.throttle, self.gates.throttle_all),
                "lighter_tier": lighter_tier(self.tiers),
                **(actions or {}),
            },
            ledger.append,
            now=self._clock.monotonic,
            task_of=self._task,
            revision=lambda: self._policy.status().revision,
        )
        self.loop.listen(self._observe)
        self.loop.resume(_transitions(ledger))

    def report(self) -> None:
        """The gauges of all gates, for whoever reports regularly."""
        for gate in self.gates.snapshot():
            self._metrics.observe_gate(gate=gate.name, limit=gate.room, running=gate.running, waiting=gate.waiting)

    def _observe(self, moved: Transition) -> None:
        self._metrics.observe_adaptation(
            rule=moved.rule, target=str(moved.subject), level=moved.step.after, direction=moved.step.direction.value
        )

    def _models(self) -> list[str]:
        return list(self._policy.catalogue.models)

    def _task(self, model: str) -> str:
        entry = self._policy.catalogue.models.get(model)
        return "" if entry is None else entry.task

    def _lighter(self, model: str) -> list[str]:
        entry = self._policy.catalogue.models.get(model)
        return [] if entry is None else [name for name in entry.fallback if name != CACHE]


def _chosen(review: Reviewed) -> Chosen:
    dropped_ppm = review.reference_ppm - review.accuracy_ppm
    return Chosen(review.model, review.choices, dropped_ppm / max(1, review.reference_ppm))


def _transitions(ledger: RecordReader) -> Iterator[Mapping[str, Any]]:
    after = -1
    while records := ledger.read(after, PAGE, kinds=[KIND]):
        for record in records:
            yield record.body["adaptation"]
        after = records[-1].index
