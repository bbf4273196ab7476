"""A model as the choice sees it: what its card promises and what it costs."""

from __future__ import annotations

from dataclasses import dataclass

from inference.catalogue import ModelCard

UNKNOWN_QUALITY = 0.5
UNKNOWN_WEIGHT = 2.0  # judged answers that knowing nothing is worth
MILLION = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """``quality`` and ``latency_ms`` are what the card says; None: it does not say."""

    name: str
    task: str
    card: ModelCard
    input_per_million_usd: float = 0.0
    output_per_million_usd: float = 0.0
    per_call_usd: float = 0.0
    quality: float | None = None
    believed_quality: float = UNKNOWN_QUALITY  # the same, with a number for not knowing
    quality_n: int | None = None
    latency_ms: float | None = None

    @classmethod
    def of(cls, name: str, task: str, card: ModelCard, prices_usd: tuple[float, float, float]) -> Candidate:
        """``prices_usd`` are those of a million input tokens, of a million output tokens, and of a call."""
        measured = card.quality_for(task, task)
        return cls(
            name=name,
            task=task,
            card=card,
            input_per_million_usd=prices_usd[0],
            output_per_million_usd=prices_usd[1],
            per_call_usd=prices_usd[2],
            quality=measured.value if measured else None,
            believed_quality=measured.value if measured else UNKNOWN_QUALITY,
            quality_n=measured.n if measured else None,
            latency_ms=card.latency.p50_ms if card.latency else None,
        )

    def price_usd(self, input_tokens: int, output_tokens: int) -> float:
        tokens = self.input_per_million_usd * input_tokens + self.output_per_million_usd * output_tokens
        return self.per_call_usd + tokens / MILLION
