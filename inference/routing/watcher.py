"""Looks at replicas in the background: reads their metrics, asks for one token where something seems to stand still.

Nothing here may hurt a call. What cannot be read ages, and an aged reading makes a replica less wanted, never ejected;
what cannot be probed is left to the calls. Metrics and probes have loops of their own, for each replica.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from inference.errors import BackendError, BackendRejected, BackendTimeout
from inference.routing.health import Event, State
from inference.routing.load import Load
from inference.routing.replica import SATURATION, STALLED, LoadSource, Probe, Replica
from inference.routing.settings import WatchSettings

log = logging.getLogger(__name__)

SPREAD = 0.2  # of the time between looks, so that replicas are not all looked at in the same moment


class Watcher:
    """``rescue`` takes waiting calls from a replica that is out, as far as the budget goes."""

    def __init__(
        self,
        replicas: Sequence[Replica],
        settings: WatchSettings,
        draw: Callable[[], float],
        rescue: Callable[[Replica, float], None],
    ) -> None:
        self._replicas, self._settings, self._draw, self._rescue = replicas, settings, draw, rescue

    async def run(self) -> None:
        """Until cancelled; at once over when there is nothing to look at."""
        async with asyncio.TaskGroup() as tasks:
            for replica in self._replicas:
                if replica.read_load is not None:
                    tasks.create_task(self._repeated(replica, self.read))
                if replica.probe is not None:
                    tasks.create_task(self._repeated(replica, self.probe_if_due))

    async def read(self, replica: Replica) -> None:
        """One reading of the metrics. A replica that says it sleeps is out; one that comes back is probed at once."""
        if replica.read_load is None:
            return
        now, health = asyncio.get_running_loop().time, replica.health
        before, was_blind = replica.load, now() - replica.load_at_s > self._settings.stale_s
        load = await self._reading(replica.read_load)
        if load is None:
            return
        replica.note_load(load, now())
        if load.is_asleep:
            health.eject("asleep", now())
        elif (
            was_blind
            or before is None
            or before.is_asleep
            or (health.reason == STALLED and load.worked != before.worked)
        ):
            health.hasten(now())

    async def probe_if_due(self, replica: Replica) -> None:
        now_s = replica.looked_at_s = asyncio.get_running_loop().time()
        if replica.probe is None:
            return
        if replica.health.state is State.READY:
            if self._is_suspect(replica, now_s):
                await self._probe_ready(replica, replica.probe)
            return
        self._rescue(replica, now_s)
        lease = 0 if replica.sleeps(now_s) else replica.health.lease_probe(now_s)
        if lease:
            await self._probe_leased(replica, replica.probe, lease)

    def _is_suspect(self, replica: Replica, now_s: float) -> bool:
        """It owes something and moves nothing, or nobody has asked it anything for long."""
        progress = replica.progress
        if progress.owed or progress.has_unpaid:
            return progress.stalled_s(now_s) >= self._settings.stall_s
        return now_s - progress.last_s >= self._settings.idle_s

    async def _probe_ready(self, replica: Replica, probe: Probe) -> None:
        """Progress on anything else while the probe waits acquits: it was merely slow to have its turn.

        A probe that is rejected teaches nothing: somebody named a model that is not there.
        """
        now = asyncio.get_running_loop().time
        started_s, was_owed = now(), replica.progress.owed > 0
        error = await self._error_of(probe)
        now_s, progress = now(), replica.progress
        if error is None:
            progress.note(now_s)
        elif progress.last_s > started_s or isinstance(error, BackendRejected):
            return
        elif error.reason in SATURATION and progress.stalled_s(now_s) < self._longest_stall_s:
            replica.note_busy(error.retry_after_s, now_s)
        else:
            replica.health.eject(STALLED if was_owed else "probe_failed", now_s)

    async def _probe_leased(self, replica: Replica, probe: Probe, lease: int) -> None:
        """A rejected probe heals, or a wrong name in the settings would keep a good replica out for ever."""
        now, event, reason = asyncio.get_running_loop().time, Event.PROBE_ABANDONED, ""
        try:
            error = await self._error_of(probe)
            if error is None or isinstance(error, BackendRejected):
                replica.progress.note(now())
                event = Event.PROBE_SUCCEEDED
            else:
                event, reason = Event.PROBE_FAILED, error.reason
        finally:
            replica.health.settle(lease, event, now(), reason)

    @property
    def _longest_stall_s(self) -> float:
        return self._settings.stall_s + self._settings.probe_timeout_s

    async def _error_of(self, probe: Probe) -> BackendError | None:
        try:
            async with asyncio.timeout(self._settings.probe_timeout_s):
                await probe()
        except BackendError as error:
            return error
        except TimeoutError:
            return BackendTimeout("probe_timeout")
        return None

    async def _reading(self, read_load: LoadSource) -> Load | None:
        try:
            async with asyncio.timeout(self._settings.scrape_timeout_s):
                return await read_load()
        except (BackendError, TimeoutError):
            return None

    async def _repeated(self, replica: Replica, look: Callable[[Replica], Awaitable[None]]) -> None:
        """A look that breaks is logged once, until one has worked again; the next one comes in any case."""
        complained = False
        while True:
            try:
                await look(replica)
                complained = False
            except Exception:
                if not complained:
                    log.exception("looking at a replica broke; trying again", extra={"replica": replica.name})
                complained = True
            await asyncio.sleep(self._settings.every_s * (1 + SPREAD * (self._draw() - 0.5)))
