"""Candidates for tests, and an evidence that was told what a test wants it to believe."""

from __future__ import annotations

from typing import Any

from inference.catalogue import Latency, Measured, ModelCard
from inference.selection import Ask, Candidate, Evidence, SelectionSettings

NOW_S = 1_000_000.0
TENANT, TASK = "acme", "chat"


def a_candidate(
    name: str,
    quality: float | None = 0.8,
    latency_ms: float | None = 100.0,
    n: int | None = 100,
    prices_usd: tuple[float, float, float] = (0.0, 0.0, 0.0),
    **card: Any,
) -> Candidate:
    measured = [] if quality is None else [Measured(dataset="d", metric="accuracy", value=quality, n=n)]
    latency = None if latency_ms is None else Latency(p50_ms=latency_ms, measured_on="here")
    return Candidate.of(name, TASK, ModelCard(quality=measured, latency=latency, **card), prices_usd)


def ask(agent: str = "agent:one", **fields: Any) -> Ask:
    return Ask(**{"tenant": TENANT, "agent": agent, "task": TASK, **fields})


def judge(evidence: Evidence, candidate: Candidate, scores: list[float], now_s: float = NOW_S) -> None:
    for score in scores:
        evidence.learn_quality(TENANT, candidate, score, now_s)


def settings(**changes: Any) -> SelectionSettings:
    return SelectionSettings(**{"explore_share": 0.0, **changes})
