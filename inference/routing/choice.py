"""Which replica is asked. Pure but for the turn it keeps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from inference.backend import BackendRequest
from inference.routing.affinity import NO_MATCH, Match, PrefixMemory
from inference.routing.health import State
from inference.routing.replica import Call, Replica
from inference.routing.settings import RoutingSettings

Serves = Callable[[str, str, int | None], bool]
"""Whether a replica, by name, serves a target (a model or an adapter) in a version (None: any)."""

PROMPTED = frozenset({"chat", "completions", "responses", "messages"})
"""Operations with a prompt whose beginning a server may have in its cache."""


def serves_everything(_replica: str, _target: str, _version: int | None) -> bool:
    return True


class Choice:
    """Least calls under way among replicas that are not saturated; one that knows the prompt may have a few more."""

    def __init__(
        self, replicas: Sequence[Replica], settings: RoutingSettings, serves: Serves, draw: Callable[[], float]
    ) -> None:
        self._replicas, self._settings, self._serves, self._draw = replicas, settings, serves, draw
        self._memory = PrefixMemory(settings.affinity, len(replicas))
        self._turn = 0

    def keys(self, request: BackendRequest) -> list[int]:
        if request.operation not in PROMPTED or not self._settings.affinity.blocks:
            return []
        return self._memory.keys(request)

    def choose(self, call: Call, now_s: float) -> Replica | None:
        """The replica to ask, None when there is none. Remembers that it is sent this prompt."""
        able = self._able(call, now_s)
        if not able:
            return None
        match = self._memory.match(call.keys) if call.keys else NO_MATCH
        if len(able) > self._settings.scan_limit:
            able = self._drawn(able, match)
        chosen = self._least([one for one in able if not one.is_saturated(now_s)] or able, match)
        if call.keys:
            self._memory.remember(call.keys, chosen.number)
        return chosen

    def has_other(self, call: Call, now_s: float) -> bool:
        return bool(self._able(call, now_s))

    def forget(self, replica: Replica) -> None:
        self._memory.forget(replica.number)

    def probeable(self, call: Call, now_s: float, *, nobody_else: bool) -> tuple[Replica, int] | None:
        """An ejected replica for which this call is the one probe, and the lease for it."""
        for replica in self._replicas:
            if replica.health.state is State.READY or call.tried >> replica.number & 1:
                continue
            if (nobody_else or replica.is_probed_by_calls(now_s)) and self._serves_it(replica, call.request):
                lease = replica.health.lease_probe(now_s)
                if lease:
                    return replica, lease
        return None

    def _able(self, call: Call, now_s: float) -> list[Replica]:
        """Neither ejected, nor tried, nor within the time it asked to be left alone.

        Who does not serve the target is not asked, unless nobody at all is known to: what we know may be old.
        """
        able = [
            one
            for one in self._replicas
            if one.health.state is State.READY and not call.tried >> one.number & 1 and now_s >= one.retry_at_s
        ]
        if self._serves is serves_everything:
            return able
        serving = [one for one in able if self._serves_it(one, call.request)]
        if serving or any(self._serves_it(one, call.request) for one in self._replicas):
            return serving
        return able

    def _serves_it(self, replica: Replica, request: BackendRequest) -> bool:
        return self._serves(replica.name, request.target, request.version)

    def _least(self, able: Sequence[Replica], match: Match) -> Replica:
        self._turn += 1
        bonus, count = self._settings.affinity.worth_calls * match.ratio, len(self._replicas)
        best, best_cost = able[0], (float("inf"), 0)
        for one in able:
            pressure = one.pressure - bonus if match.replicas >> one.number & 1 else one.pressure
            if pressure <= best_cost[0]:
                cost = (pressure, (one.number - self._turn) % count)
                if cost < best_cost:
                    best, best_cost = one, cost
        return best

    def _drawn(self, able: list[Replica], match: Match) -> list[Replica]:
        """Two by lot, and one that knows the prompt if there is one (Mitzenmacher 2001, the power of two choices)."""
        first = int(self._draw() * len(able))
        second = (first + 1 + int(self._draw() * (len(able) - 1))) % len(able)
        drawn = [able[first], able[second]]
        knowing = next((one for one in able if match.replicas >> one.number & 1), None)
        if knowing is not None and knowing not in drawn:
            drawn.append(knowing)
        return drawn
