"""One call out for many equal ones: the first leads, the others wait for what it brings. On one event loop."""

from __future__ import annotations

import asyncio

from controlplane.response_cache.answers import Saved


class Flight:
    """What the leader is after. Landed exactly once: with an answer, or with None, and then everybody goes alone."""

    __slots__ = ("_landing",)

    def __init__(self) -> None:
        self._landing: asyncio.Future[Saved | None] = asyncio.get_running_loop().create_future()

    @property
    def has_landed(self) -> bool:
        return self._landing.done()

    def land(self, saved: Saved | None) -> None:
        if not self._landing.done():
            self._landing.set_result(saved)

    async def awaited(self, patience_s: float) -> Saved | None:
        """What the leader brings; None when it brings nothing, or not within ``patience_s``."""
        try:
            async with asyncio.timeout(patience_s):
                return await asyncio.shield(self._landing)  # one who leaves must not end it for the others
        except TimeoutError:
            return None


class Flights:
    """Those under way, by key."""

    def __init__(self) -> None:
        self._under_way: dict[bytes, Flight] = {}

    def __len__(self) -> int:
        return len(self._under_way)

    def find(self, key: bytes) -> Flight | None:
        return self._under_way.get(key)

    def begin(self, key: bytes) -> Flight:
        flight = self._under_way[key] = Flight()
        return flight

    def end(self, key: bytes, flight: Flight) -> None:
        """The leader is gone. Whoever still waits goes alone."""
        flight.land(None)
        if self._under_way.get(key) is flight:
            del self._under_way[key]
