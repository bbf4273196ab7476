"""The choice itself: who meets the constraints, who scores best, and now and then a try of another.

Most calls go to the best by what is believed. In a bounded share of agents' periods (``explore_share``) an accuracy is
drawn for every candidate from what is known of it, and the best by these draws is tried: whoever is surely worse is
hardly ever drawn, whoever is little known often (Thompson sampling). An agent stays with what it tries for the period.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from inference.selection.candidates import Candidate
from inference.selection.constraints import NO_CONSTRAINTS, Constraints
from inference.selection.evidence import Evidence, Key
from inference.selection.review import Review, Strikes
from inference.selection.scoring import SCORERS
from inference.selection.settings import SelectionSettings

BEST, EXPLORATION, ONLY = "best", "exploration", "only"
TRIES_KEPT = 4096
PPM = 1_000_000
UNKNOWN_MS = 1000.0  # where nobody's latency is known all are alike, whatever it is

Coin = Callable[[tuple[str, str, str, int]], float]
"""(tenant, agent, task, number of the period) → a number in [0, 1), the same for the same every time."""


def hashed(period: tuple[str, str, str, int]) -> float:
    """Python salts its hashes anew in every process, so that no agent can reckon when it will be sent elsewhere."""
    return hash(period) % PPM / PPM


def tell_nobody(_: Review) -> None:
    """Nobody listens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """Who wants what done. Token counts are guesses, for the price alone."""

    tenant: str
    agent: str
    task: str
    constraints: Constraints = NO_CONSTRAINTS
    streams: bool = False
    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Selected:
    """``model`` is "" when nobody meets the constraints. ``scores`` are of those who do, in the order given."""

    model: str
    why: str
    scores: Sequence[tuple[str, int]] = ()


NOBODY = Selected("", "")


class Selector:
    """Use from one thread. ``reviews`` are the models that left the choice until a person lets them back."""

    def __init__(
        self,
        settings: SelectionSettings,
        evidence: Evidence,
        *,
        random: Random | None = None,
        coin: Coin = hashed,
        on_review: Callable[[Review], None] = tell_nobody,
    ) -> None:
        self._settings, self.evidence = settings, evidence
        self._random, self._coin, self.on_review = random or Random(), coin, on_review  # noqa: S311  no secret
        self._score = SCORERS[settings.scorer]
        self._strikes = Strikes(settings)
        self._tries: OrderedDict[tuple[str, str, str, str], tuple[int, str]] = OrderedDict()
        self.reviews: dict[Key, Review] = {}

    def cleared(self, ask: Ask, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        """Those of ``candidates`` that nobody has to look at first."""
        if not self.reviews:
            return candidates
        key = self.evidence.key
        return [one for one in candidates if key(ask.tenant, ask.task, one.name) not in self.reviews]

    def choose(self, ask: Ask, candidates: Sequence[Candidate], now_s: float) -> Selected:
        """``candidates`` may be asked, are healthy and cleared, and their cards meet the constraints. ``now_s`` is
        wall-clock time, as all here.
        """
        evidence, tenant = self.evidence, ask.tenant
        qualities = evidence.qualities(tenant, candidates)
        latencies = evidence.latencies_ms(candidates, streams=ask.streams)
        counts_prices = self._settings.counts_prices or bool(ask.constraints.moving)
        prices = (
            [one.price_usd(ask.input_tokens, ask.output_tokens) for one in candidates]
            if counts_prices
            else [0.0] * len(candidates)
        )
        if ask.constraints.moving:
            meets = map(ask.constraints.met_by, qualities, latencies, prices)
            fit = [at for at, does in enumerate(meets) if does]
            candidates = [candidates[at] for at in fit]
            qualities, prices = ([row[at] for at in fit] for row in (qualities, prices))
            latencies = [latencies[at] for at in fit]
        if not candidates:
            return NOBODY
        known_ms = filled(latencies)
        scores = self._score(self._settings, qualities, known_ms, prices)
        best = scores.index(max(scores))
        told = [(one.name, int(score * PPM)) for one, score in zip(candidates, scores, strict=True)]
        if len(candidates) == 1:
            return self._taken(ask, candidates[best], ONLY, told)
        if self._settings.explore_share:
            tried = self._tried(ask, candidates, (known_ms, prices), now_s)
            if tried is not None and tried.name != candidates[best].name:
                return Selected(tried.name, EXPLORATION, told)
        return self._taken(ask, candidates[best], BEST, told)

    def _taken(self, ask: Ask, candidate: Candidate, why: str, scores: Sequence[tuple[str, int]]) -> Selected:
        key = self.evidence.key(ask.tenant, ask.task, candidate.name)
        review = self._strikes.count(key, self.evidence.judged(*key))
        if review is not None:
            self.reviews[key] = review
            self.on_review(review)
        return Selected(candidate.name, why, scores)

    def _tried(
        self, ask: Ask, candidates: Sequence[Candidate], rest: tuple[list[float], list[float]], now_s: float
    ) -> Candidate | None:
        """Whom this agent tries in this period; None when it tries nobody."""
        period = int(now_s / self._settings.sticky_s)
        if self._coin((ask.tenant, ask.agent, ask.task, period)) >= self._settings.explore_share:
            return None
        who = (ask.tenant, ask.agent, ask.task, ask.constraints.text)
        since, name = self._tries.get(who, (-1, ""))
        if since == period:
            kept = next((one for one in candidates if one.name == name), None)
            if kept is not None:
                return kept
        drawn = [self.evidence.draw(ask.tenant, one, now_s, self._random) for one in candidates]
        scores = self._score(self._settings, drawn, *rest)
        tried = candidates[scores.index(max(scores))]
        self._tries[who] = period, tried.name
        if len(self._tries) > TRIES_KEPT:
            self._tries.popitem(last=False)
        return tried


def filled(latencies: Sequence[float | None]) -> list[float]:
    """Where a latency is unknown, the middle one of those that are known."""
    known = [one for one in latencies if one is not None]
    if len(known) == len(latencies):
        return known
    middle = sorted(known)[len(known) // 2] if known else UNKNOWN_MS
    return [middle if one is None else one for one in latencies]
