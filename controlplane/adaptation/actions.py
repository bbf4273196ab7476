"""Actions by name: how far a rule has gone, made true. Each may be asked for again with the same level."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from controlplane.adaptation.adapted import Tiers
from controlplane.adaptation.signals import GATEWAY, Subject

Act = Callable[[Subject, int], Awaitable[None]]
"""(subject, level) → done. 0 takes it back. What it raises is put on record, and it is asked for again."""


class Replicas(Protocol):
    """Who can leave a replica alone."""

    def isolate(self, replica: str) -> None:
        """No more calls; those under way end. MAY be repeated."""
        ...

    def restore(self, replica: str) -> None: ...


class Runner(Protocol):
    """Who can restart a replica: a process supervisor, Kubernetes."""

    async def restart(self, replica: str) -> None: ...


def throttle(one: Callable[[str, int], None], everybody: Callable[[int], None]) -> Act:
    async def act(subject: Subject, level: int) -> None:
        if subject == GATEWAY:
            everybody(level)
        else:
            one(subject.name, level)

    return act


def lighter_tier(tiers: Tiers) -> Act:
    async def act(subject: Subject, level: int) -> None:
        tiers.set(subject.name, level)

    return act


def isolate(replicas: Replicas) -> Act:
    async def act(subject: Subject, level: int) -> None:
        if level:
            replicas.isolate(subject.name)
        else:
            replicas.restore(subject.name)

    return act


def restart(runner: Runner) -> Act:
    """Once for every step up. On the way back there is nothing to do."""
    reached: dict[Subject, int] = {}

    async def act(subject: Subject, level: int) -> None:
        if level > reached.get(subject, 0):
            await runner.restart(subject.name)
        reached[subject] = level

    return act
