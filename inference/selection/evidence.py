"""What answers have taught: how often a model was right for a tenant, and how long it takes.

An estimate is a mean and a weight (how many answers it rests on). A new answer moves the mean by one part in the
weight; the weight stops at a memory, so that old answers fade with every new one. Time takes weight alone, never the
mean: what was not tried for long is believed less surely, not less highly.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from inference.selection.candidates import UNKNOWN_QUALITY, UNKNOWN_WEIGHT, Candidate
from inference.selection.settings import SelectionSettings

JEFFREYS = 0.5  # what a Beta distribution begins with when nothing is known (Jeffreys' prior)
LEAST_WEIGHT = 1.0
LATENCY_MEMORY = 50
LEAST_MS, MOST_MS = 0.01, 3_600_000.0


@dataclass(slots=True)
class Estimate:
    """``at_s`` is the wall-clock second of the last answer."""

    mean: float
    weight: float
    at_s: float

    def faded(self, now_s: float, half_life_s: float) -> float:
        """The weight that is left now."""
        left = self.weight
        if now_s > self.at_s:
            left *= math.exp2((self.at_s - now_s) / half_life_s)
        return left if left >= LEAST_WEIGHT else min(LEAST_WEIGHT, self.weight)

    def learn(self, value: float, now_s: float, half_life_s: float, memory: float) -> None:
        self.weight = min(self.faded(now_s, half_life_s) + 1.0, memory)
        self.mean += (value - self.mean) / self.weight
        self.at_s = now_s


@dataclass(slots=True)
class Seen:
    """Latencies that were seen: an estimate of their logarithm, and ``ms``, the same in milliseconds."""

    logarithm: Estimate
    ms: float


@dataclass(slots=True)
class Judged:
    """The judged answers of a model for one task and tenant. ``recent`` looks at fewer of them than ``quality`` does;
    ``reference`` is the accuracy that a loss is measured against, None until there is one.
    """

    quality: Estimate
    recent: Estimate
    reference: float | None
    answers: int = 0


Key = tuple[str, str, str]
"""Tenant ("" where all share), task, model."""


class Evidence:
    """Bounded: of pairs of tenant and model, the one that was not judged for longest leaves first."""

    def __init__(self, settings: SelectionSettings) -> None:
        self._settings = settings
        self._judged: OrderedDict[Key, Judged] = OrderedDict()
        self._latencies: tuple[dict[str, Seen], dict[str, Seen]] = ({}, {})  # of whole answers, of first bytes

    def key(self, tenant: str, task: str, model: str) -> Key:
        return ("" if self._settings.shared_between_tenants else tenant, task, model)

    def qualities(self, tenant: str, candidates: Sequence[Candidate]) -> list[float]:
        """The accuracies believed now."""
        judged, tenant = self._judged, "" if self._settings.shared_between_tenants else tenant
        believed = []
        for one in candidates:
            found = judged.get((tenant, one.task, one.name))
            believed.append(one.believed_quality if found is None else found.quality.mean)
        return believed

    def draw(self, tenant: str, candidate: Candidate, now_s: float, random: Random) -> float:
        """An accuracy as it may well be, by what is known: one draw of its Beta distribution (Thompson 1933)."""
        found = self._judged.get(self.key(tenant, candidate.task, candidate.name))
        mean, weight = self._prior(candidate)
        if found is not None:
            mean, weight = found.quality.mean, found.quality.faded(now_s, self._settings.half_life_s)
        return random.betavariate(mean * weight + JEFFREYS, (1.0 - mean) * weight + JEFFREYS)

    def latencies_ms(self, candidates: Sequence[Candidate], *, streams: bool) -> list[float | None]:
        """Of a stream the time to its first byte, else to its last. What was seen beats the card; None: unknown."""
        these, others = self._latencies[streams], self._latencies[not streams]
        believed: list[float | None] = []
        for one in candidates:
            found = these.get(one.name) or others.get(one.name)
            believed.append(one.latency_ms if found is None else found.ms)
        return believed

    def judged(self, tenant: str, task: str, model: str) -> Judged | None:
        return self._judged.get(self.key(tenant, task, model))

    def learn_quality(self, tenant: str, candidate: Candidate, score: float, now_s: float) -> None:
        """``score`` between 0 (wrong) and 1 (right)."""
        settings, key = self._settings, self.key(tenant, candidate.task, candidate.name)
        found = self._judged.get(key)
        if found is None:
            mean, weight = self._prior(candidate)
            found = Judged(Estimate(mean, weight, now_s), Estimate(mean, 0.0, now_s), candidate.quality)
            self._judged[key] = found
            if len(self._judged) > settings.max_learnt:
                self._judged.popitem(last=False)
        self._judged.move_to_end(key)
        found.quality.learn(score, now_s, settings.half_life_s, settings.memory_answers)
        found.recent.learn(score, now_s, settings.half_life_s, settings.review_answers)
        found.answers += 1
        if found.reference is None and found.answers >= settings.review_answers:
            found.reference = found.recent.mean

    def learn_latency(self, model: str, latency_ms: float, now_s: float, *, streams: bool) -> None:
        """Logarithms are averaged: latencies have long tails, and the mean of the logarithm is near the median."""
        if not LEAST_MS <= latency_ms <= MOST_MS:
            latency_ms = min(max(latency_ms, LEAST_MS), MOST_MS)
        value, found = math.log(latency_ms), self._latencies[streams].get(model)
        if found is None:
            self._latencies[streams][model] = Seen(Estimate(value, 1.0, now_s), math.exp(value))
        else:
            found.logarithm.learn(value, now_s, self._settings.half_life_s, LATENCY_MEMORY)
            found.ms = math.exp(found.logarithm.mean)

    def accept(self, tenant: str, task: str, model: str) -> None:
        """A person has looked: what the accuracy is now is what a loss is measured against from here on."""
        found = self.judged(tenant, task, model)
        if found is not None:
            found.reference = found.recent.mean

    def keep_only(self, models: frozenset[str]) -> None:
        """Forget the latencies of what is in the catalogue no more."""
        for known in self._latencies:
            for gone in known.keys() - models:
                del known[gone]

    def as_json(self) -> dict[str, Any]:
        return {
            "judged": [
                [*key, *_numbers(one.quality), *_numbers(one.recent), one.reference, one.answers]
                for key, one in self._judged.items()
            ],
            "latencies": [
                [model, streams, *_numbers(one.logarithm)]
                for streams in (False, True)
                for model, one in self._latencies[streams].items()
            ],
        }

    def restore(self, said: Mapping[str, Any]) -> None:
        """Raises ``TypeError`` or ``ValueError`` for what ``as_json`` did not write; then nothing is restored."""
        judged: OrderedDict[Key, Judged] = OrderedDict()
        for tenant, task, model, *numbers, reference, answers in said["judged"]:
            mean, weight, at_s, *recent = map(float, numbers)
            kept = Judged(Estimate(mean, weight, at_s), Estimate(*recent), reference, int(answers))
            judged[str(tenant), str(task), str(model)] = kept
        latencies: tuple[dict[str, Seen], dict[str, Seen]] = ({}, {})
        for model, streams, *numbers in said["latencies"]:
            logarithm = Estimate(*map(float, numbers))
            latencies[bool(streams)][str(model)] = Seen(logarithm, math.exp(logarithm.mean))
        self._judged, self._latencies = judged, latencies

    def _prior(self, candidate: Candidate) -> tuple[float, float]:
        if candidate.quality is None:
            return UNKNOWN_QUALITY, UNKNOWN_WEIGHT
        limit = self._settings.prior_weight
        return candidate.quality, limit if candidate.quality_n is None else min(float(candidate.quality_n), limit)


def _numbers(estimate: Estimate) -> tuple[float, float, float]:
    return estimate.mean, estimate.weight, estimate.at_s
