"""What choosing by ``auto:<task>`` loses against knowing the best model, on simulated tasks whose models drift.

    python -m benchmarks.inference selection [--calls 20000] [--seeds 10]

A model is right with a probability that wanders and, for some, breaks in the middle; its card was measured at the
start on a hundred examples, and one card in three flatters. Every fourth call is judged. The score is the product's own
(0.7 accuracy + 0.3 inverse latency) on the true values. Regret is the score lost: to the best single model in hindsight
(negative where following the drift beats it), and to whoever is best at every moment, which nobody can reach.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean, quantiles
from typing import Any

from inference.catalogue import Latency, Measured, ModelCard
from inference.selection import Ask, Candidate, Evidence, SelectionSettings, Selector
from inference.selection.scoring import weighted

TENANT, TASK = "bench", "chat"
AGENTS, PER_S, JUDGED = 50, 5.0, 0.25
CARD_EXAMPLES, FLATTERED, FLATTERY = 100, 1 / 3, 0.10
WANDER, BREAKS, LOSS = 0.0015, 0.2, 0.3
SIZES = (3, 10, 30)


@dataclass
class Model:
    name: str
    quality: float
    latency_ms: float
    breaks_at: int
    card: ModelCard

    def step(self, call: int, chance: random.Random) -> None:
        self.quality = min(max(self.quality + chance.gauss(0.0, WANDER), 0.05), 0.99)
        if call == self.breaks_at:
            self.quality = max(self.quality - LOSS, 0.05)


def some_models(count: int, calls: int, chance: random.Random) -> list[Model]:
    models = []
    for number in range(count):
        quality, latency_ms = chance.uniform(0.55, 0.95), math.exp(chance.uniform(math.log(80), math.log(1500)))
        examples = [chance.random() < quality for _ in range(CARD_EXAMPLES)]
        flattery = FLATTERY if chance.random() < FLATTERED else 0.0
        said = min(sum(examples) / CARD_EXAMPLES + flattery, 1.0)
        measured = Measured(dataset="simulated", metric="accuracy", value=said, n=CARD_EXAMPLES)
        card = ModelCard(quality=[measured], latency=Latency(p50_ms=latency_ms, measured_on="simulated"))
        breaks = calls // 2 if chance.random() < BREAKS else -1
        models.append(Model(f"m{number}", quality, latency_ms, breaks, card))
    return models


class Learner:
    """The product's own choice with these settings."""

    def __init__(self, models: Sequence[Model], seed: int, **changes: Any) -> None:
        settings = SelectionSettings(review_answers=10_000, **changes)  # no person looks in here
        self.candidates = [Candidate.of(one.name, TASK, one.card, (0.0, 0.0, 0.0)) for one in models]
        self.places = {one.name: at for at, one in enumerate(models)}
        self.evidence = Evidence(settings)
        self.chance = random.Random(seed)
        self.selector = Selector(settings, self.evidence, random=self.chance)
        self.explored = 0

    def choose(self, agent: str, now_s: float) -> int:
        chosen = self.selector.choose(Ask(tenant=TENANT, agent=agent, task=TASK), self.candidates, now_s)
        self.explored += chosen.why == "exploration"
        return self.places[chosen.model]

    def learn(self, place: int, *, right: bool, judged: bool, latency_ms: float, now_s: float) -> None:
        candidate = self.candidates[place]
        self.evidence.learn_latency(candidate.name, latency_ms, now_s, streams=False)
        if judged:
            self.evidence.learn_quality(TENANT, candidate, float(right), now_s)


class ByCard(Learner):
    """The best by the cards, for ever."""

    def learn(self, place: int, **_: Any) -> None: ...


class AtRandom(ByCard):
    def choose(self, agent: str, now_s: float) -> int:  # noqa: ARG002  the shape of a contestant
        return self.chance.randrange(len(self.candidates))


CONTESTANTS: Mapping[str, Callable[[Sequence[Model], int], Learner]] = {
    "auto (default)": Learner,
    "auto, never tries": lambda models, seed: Learner(models, seed, explore_share=0.0),
    "auto, up to 30 %": lambda models, seed: Learner(models, seed, explore_share=0.3),
    "best by card": lambda models, seed: ByCard(models, seed, explore_share=0.0),
    "at random": AtRandom,
}


@dataclass
class Tally:
    """Per call and run: regret to the best single model, to the best of every moment; and the share of tries."""

    single: list[float] = field(default_factory=list)
    moment: list[float] = field(default_factory=list)
    explored: list[float] = field(default_factory=list)


def one_run(count: int, calls: int, seed: int, tallies: Mapping[str, Tally]) -> None:
    chance = random.Random(seed)
    models = some_models(count, calls, chance)
    contestants = {name: make(models, seed) for name, make in CONTESTANTS.items()}
    earned, held, ideal = dict.fromkeys(contestants, 0.0), [0.0] * count, 0.0
    weights, free = SelectionSettings(), [0.0] * count
    latencies = [one.latency_ms for one in models]
    for call in range(calls):
        now_s, agent = call / PER_S, f"agent-{chance.randrange(AGENTS)}"
        for one in models:
            one.step(call, chance)
        truth = weighted(weights, [one.quality for one in models], latencies, free)
        luck, slowness, judged = chance.random(), chance.lognormvariate(0.0, 0.5), chance.random() < JUDGED
        ideal += max(truth)
        held = [sum(pair) for pair in zip(held, truth, strict=True)]
        for name, contestant in contestants.items():
            place = contestant.choose(agent, now_s)
            earned[name] += truth[place]
            told = {"right": luck < models[place].quality, "judged": judged}
            contestant.learn(place, **told, latency_ms=latencies[place] * slowness, now_s=now_s)
    for name, contestant in contestants.items():
        tallies[name].single.append((max(held) - earned[name]) / calls)
        tallies[name].moment.append((ideal - earned[name]) / calls)
        tallies[name].explored.append(contestant.explored / calls)


def measure(calls: int, seeds: int) -> dict[int, dict[str, Tally]]:
    results = {}
    for count in SIZES:
        results[count] = {name: Tally() for name in CONTESTANTS}
        for seed in range(seeds):
            one_run(count, calls, seed, results[count])
    return results


def cost_us(count: int = 10, calls: int = 20_000) -> float:
    """A choice among ``count``, the best of five rounds."""
    models = some_models(count, calls, random.Random(0))
    learner, best = Learner(models, 0), math.inf
    for _ in range(5):
        began = time.perf_counter()
        for call in range(calls):
            learner.choose(f"agent-{call % AGENTS}", call / PER_S)
        best = min(best, time.perf_counter() - began)
    return best / calls * 1e6


def report(results: Mapping[int, Mapping[str, Tally]], calls: int) -> str:
    lines = [f"score lost in {calls:,} calls: mean over runs (worst tenth of them), and the share of calls that tried"]
    lines.append(f"{'models':<8}{'who chooses':<20}{'to best single':>22}{'to best of each moment':>26}{'tried':>8}")
    for count, tallies in results.items():
        for name, tally in tallies.items():
            cells = [
                f"{mean(row) * calls:>9,.0f} ({tenth(row) * calls:>6,.0f})" for row in (tally.single, tally.moment)
            ]
            lines.append(f"{count:<8}{name:<20}{cells[0]:>22}{cells[1]:>26}{mean(tally.explored):>8.1%}")
    return "\n".join(lines)


def tenth(row: Sequence[float]) -> float:
    return quantiles(row, n=10)[-1] if len(row) > 1 else row[0]


def figures(results: Mapping[int, Mapping[str, Tally]], calls: int) -> dict[str, Any]:
    return {
        str(count): {
            name: {"single": mean(t.single) * calls, "moment": mean(t.moment) * calls} for name, t in by.items()
        }
        for count, by in results.items()
    }


def run(calls: int = 20_000, seeds: int = 10) -> tuple[str, dict[str, Any]]:
    """The table for people and the figures for machines."""
    results, cost = measure(calls, seeds), cost_us()
    found = figures(results, calls) | {"choice_us_of_10": cost}
    return f"{report(results, calls)}\na choice among 10 takes {cost:.1f} us", found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="selection", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args(arguments)
    print(run(options.calls, options.seeds)[0])


if __name__ == "__main__":
    main()
