"""Everything that chooses models and learns from it, put together for one gateway process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from audit import LedgerReceipt, ReadableLedger
from controlplane.calls import Principal
from controlplane.choice import Choice, ChosenOnly, Policy
from controlplane.choice_health import BreakerHealth
from controlplane.choice_labels import LabelLearning
from controlplane.choice_memory import PPM, ChoiceMemory, NotUnderReview
from controlplane.clock import Clock
from controlplane.console.ports import LearntView, NotFound
from controlplane.feedback import FeedbackDesk, Reader
from controlplane.gateway.gateway import DecisionPoint, Observer
from controlplane.policy import Catalogue
from controlplane.resilience.breakers import Breakers
from controlplane.telemetry.metrics import Metrics
from inference.selection import Candidate, Evidence, Selector
from inference.selection.constraints import AUTO
from inference.selection.settings import SelectionSettings
from inference.tfserving.signatures import Signature

FILE = "selection.json"


class Fleet(Protocol):
    """``controlplane.fleet.Fleet``."""

    @property
    def breakers(self) -> Breakers: ...
    def names(self) -> Iterable[str]: ...
    def deployment_of(self, model: str) -> object | None: ...
    def version_meant(self, model: str, version: int | None, label: str | None) -> int: ...
    def known(
        self, model: str, version: int | None = None, label: str | None = None
    ) -> Mapping[str, Signature] | None: ...


class Choosing:
    """``choice`` and ``observers`` for the gateway, ``memory`` to resume and keep, ``desk`` for the door of feedback.

    Make it before holds on breakers are put back, and after policy is loaded.
    """

    def __init__(
        self,
        settings: SelectionSettings,
        policy: Policy,
        fleet: Fleet,
        ledger: ReadableLedger,
        *,
        state: Path,
        clock: Clock,
        metrics: Metrics | None = None,
    ) -> None:
        self.settings, self.policy, self.fleet, self.clock = settings, policy, fleet, clock
        self.evidence = Evidence(settings)
        self.selector = Selector(settings, self.evidence)
        self.health = BreakerHealth(
            fleet.breakers, lambda model: fleet.version_meant(model, None, None), clock.monotonic
        )
        self.choice = Choice(
            settings,
            self.selector,
            policy,
            serves=self._serves,
            is_healthy=self.health.is_healthy,
            wall_clock=clock.wall,
            metrics=metrics,
        )
        self.memory = ChoiceMemory(
            settings,
            self.selector,
            ledger,
            state / FILE,
            candidate=self.choice.candidate,
            wall_clock=clock.wall,
            metrics=metrics,
        )
        self.selector.on_review = self.memory.review
        self.labels = LabelLearning(self.evidence, self.choice.candidate, clock.wall)
        self.observers: tuple[Observer, ...] = (self.choice, self.labels)

    def policy_for(self, inner: DecisionPoint) -> ChosenOnly:
        """``inner`` as the gateway's policy: what was not chosen is denied."""
        return ChosenOnly(inner, lambda: self.policy.status().revision)

    def desk(self, reader: Reader, commit: Callable[[bytes], str]) -> FeedbackDesk:
        window_s = self.settings.feedback_window_s
        return FeedbackDesk(self.memory, reader, self.choice.candidate, commit, window_s, self.clock.wall)

    def signatures(self) -> TaskSignatures:
        """For TF Serving's REST door, which must know a model's inputs before one is chosen."""
        return TaskSignatures(self.fleet, lambda: self.policy.catalogue)

    def control(self) -> LearntModels:
        return LearntModels(self)

    def live(self, principal: Principal, model: str) -> list[tuple[str, float, int]]:
        """Metrics seen in use, for the doors that show the catalogue."""
        candidate = self.choice.candidate(model)
        judged = self.evidence.judged(principal.tenant, candidate.task, model) if candidate else None
        return [("accuracy", round(judged.quality.mean, 6), judged.answers)] if judged else []

    def _serves(self, model: str, tensors: bool) -> bool:
        return model in self.fleet.names() and (self.fleet.deployment_of(model) is not None) == tensors


class TaskSignatures:
    """Signatures by model, and for ``auto:<task>`` those that all models of the task have in common; None: they differ.

    A REST body becomes a message before a model is chosen, so that only what fits them all can be written.
    """

    def __init__(self, fleet: Fleet, catalogue: Callable[[], Catalogue]) -> None:
        self.fleet, self.catalogue = fleet, catalogue

    def known(self, model: str, version: int | None = None, label: str | None = None) -> Mapping[str, Signature] | None:
        if not model.startswith(AUTO):
            return self.fleet.known(model, version, label)
        task = model.removeprefix(AUTO).partition("?")[0]
        found = [self.fleet.known(name) for name, entry in self.catalogue().models.items() if entry.task == task]
        known = [one for one in found if one is not None]
        inputs = [{name: signature.inputs for name, signature in one.items()} for one in known]
        return known[0] if known and all(one == inputs[0] for one in inputs) else None


class LearntModels:
    """``console.ports.SelectionControl``."""

    def __init__(self, choosing: Choosing) -> None:
        self._choosing = choosing

    def view(self, principal: Principal) -> Sequence[LearntView]:
        names = sorted(self._choosing.policy.catalogue.models)
        candidates = [self._choosing.choice.candidate(name) for name in names]
        return [self._view(principal.tenant, one) for one in candidates if one is not None]

    async def clear(self, task: str, model: str, by: Principal, reason: str) -> LedgerReceipt:
        try:
            return await self._choosing.memory.clear(by.tenant, task, model, by, reason)
        except NotUnderReview:
            raise NotFound("not_under_review", f"nobody has to look at {model} for {task}") from None

    def _view(self, tenant: str, candidate: Candidate) -> LearntView:
        evidence = self._choosing.evidence
        judged = evidence.judged(tenant, candidate.task, candidate.name)
        accuracy = judged.quality.mean if judged else candidate.quality
        reference = judged.reference if judged else candidate.quality
        return LearntView(
            task=candidate.task,
            model=candidate.name,
            accuracy_ppm=None if accuracy is None else round(accuracy * PPM),
            reference_ppm=None if reference is None else round(reference * PPM),
            answers=judged.answers if judged else 0,
            latency_ms=evidence.latencies_ms([candidate], streams=False)[0],
            under_review=evidence.key(tenant, candidate.task, candidate.name) in self._choosing.selector.reviews,
        )
