"""Keeps what is known of agents over restarts and reloads. Reads in threads, and tells the watch on the loop."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import anyio
from anyio import to_thread

from controlplane.behaviour import past
from controlplane.behaviour.agents import Agent, AgentKey
from controlplane.behaviour.oversight import Oversight
from controlplane.behaviour.settings import BehaviourSettings
from controlplane.behaviour.watch import Watch
from controlplane.policy.behaviour import LONGEST_S

FILE = "behaviour.json"

Report = Callable[[int, int], None]
"""(agents remembered, rules that refuse for want of their past)."""

log = logging.getLogger(__name__)


class Keeper:
    """Begin it when policy is loaded and the ledger is open, before the first call."""

    def __init__(
        self,
        settings: BehaviourSettings,
        watch: Watch,
        reader: past.Reader,
        *,
        state: Path,
        wall_clock: Callable[[], float],
        report: Report = lambda _agents, _unknown: None,
    ) -> None:
        self._report = report
        self._settings, self._watch, self._reader = settings, watch, reader
        self._path, self._wall_clock = state / FILE, wall_clock

    async def begin(self) -> None:
        """Before the first call. A ledger that cannot be read leaves rules unknown, and ``keep`` tries again."""
        past.load(self._watch, self._path, self._wall_clock())
        await self._try_rebuild()
        await self._recall()

    async def keep(self) -> None:
        """Until cancelled: read the past of rules that are new, and save what was learnt."""
        saved_s = self._wall_clock()
        while True:
            await anyio.sleep(self._settings.check_s)
            await self._try_rebuild()
            self._report(*self._watch.remembered(self._wall_clock()))
            if self._wall_clock() - saved_s >= self._settings.save_s:
                saved_s = self._wall_clock()
                await self.save_beside()

    async def save_beside(self) -> None:
        """As ``save``, while calls go on: ten thousand agents take more than half a second."""
        await to_thread.run_sync(self._save, self._watch.agents())

    def save(self) -> None:
        """Fails open: what could not be saved is learnt again."""
        self._save(self._watch.agents())

    def _save(self, agents: list[tuple[AgentKey, Agent]]) -> None:
        try:
            past.save(agents, self._path)
        except OSError as error:
            log.warning("learnt rates cannot be saved", extra={"error": repr(error)})

    async def rebuild(self) -> None:
        """Raises what the ledger raises; then the rules stay unknown, and what they could refuse is refused."""
        names = self._watch.unknown_rules()
        if not names:
            return
        self._watch.begin_rebuild()
        since_s = self._wall_clock() - LONGEST_S
        most = self._settings.rebuild_records
        try:
            happened, covered_s = await to_thread.run_sync(past.read_back, self._reader, since_s, most)
        except BaseException:
            self._watch.abandon_rebuild()
            raise
        self._watch.finish_rebuild(names, happened, covered_s)

    async def _recall(self) -> None:
        """Since when rules refuse somebody. Fails open: it decides nothing, people only see less of it."""
        try:
            told = await to_thread.run_sync(past.refusals, self._reader, self._wall_clock() - LONGEST_S)
        except Exception as error:  # noqa: BLE001  whatever it is, calls do not need it
            log.warning("earlier verdicts cannot be read", extra={"error": repr(error)})
        else:
            Oversight(self._watch).recall(told)

    async def _try_rebuild(self) -> None:
        try:
            await self.rebuild()
        except Exception as error:  # noqa: BLE001  whatever it is, the rules stay unknown and refuse
            log.error("the past of behaviour rules cannot be read; they refuse", extra={"error": repr(error)})  # noqa: TRY400  said every few seconds
