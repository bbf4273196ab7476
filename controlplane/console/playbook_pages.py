"""Self-healing: every playbook, what is at fault now, and the runs that are on record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from audit import AuditUnavailable, Record
from controlplane.console.frame import Frame
from controlplane.console.playbook_views import PlaybooksView
from controlplane.console.playbooks import RESOURCE
from controlplane.console.ports import LedgerView

RUN, DONE = "playbook.run", "playbook.done"
SHOWN = 25
WHEN = {
    "breaker_open": "its breaker is open",
    "canary_open": "its canary's breaker is open",
    "replica_away": "one of its replicas is away",
}
DOES = {
    "restart": "restarts it by",
    "scale": "scales it by",
    "switch": "lets the fallback answer",
    "roll_back": "rolls it back",
}


@dataclass(frozen=True, slots=True)
class RunShown:
    index: int
    time_ms: int
    said: Any
    result: str


class PlaybookPages:
    def __init__(self, view: PlaybooksView, ledger: LedgerView, frame: Frame) -> None:
        self._view, self._ledger, self._frame = view, ledger, frame

    def routes(self) -> list[BaseRoute]:
        return [Route("/console/playbooks", self._frame.readable(self.playbooks))]

    async def playbooks(self, request: Request) -> Response:
        visitor = await self._frame.visitor(request, RESOURCE)
        runs, trouble = await to_thread.run_sync(self._runs)
        books = self._view.status()
        facts: dict[str, Any] = {"playbooks": books, "runs": runs, "trouble": trouble, "when": WHEN, "does": DOES}
        return self._frame.page(request, "playbooks.html", visitor, **facts)

    def _runs(self) -> tuple[Sequence[RunShown], str]:
        """Blocking. A ledger that cannot be read leaves its part empty, and says so."""
        try:
            records = self._ledger.read(-1, 2 * SHOWN, newest=True, kinds=[RUN, DONE])
        except AuditUnavailable as error:
            return [], error.reason
        outcomes = {one.body["playbook"]["run"]: one.body["playbook"]["outcome"] for one in records if one.kind == DONE}
        return [_run(one, outcomes.get(one.event_id, "")) for one in records if one.kind == RUN][:SHOWN], ""


def _run(record: Record, outcome: str) -> RunShown:
    said = record.body["playbook"]
    return RunShown(record.index, record.time_ms, said, "dry_run" if said["dry_run"] else outcome)
