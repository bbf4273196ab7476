"""Models and their servers, one model as the monitor sees it, and the reports on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from audit import AuditUnavailable, Record
from controlplane.console.drift_views import DriftView
from controlplane.console.frame import Frame, now_utc
from controlplane.console.plots import HEIGHT, WIDTH, evidence_lines, state_stretches
from controlplane.console.ports import ConsolePorts, ModelView, NotFound, ReplicaShown
from controlplane.drift.shelf import KeptReport, Point

MODELS = "/api/models"
TRANSITION = "drift.transition"
MOVES_SHOWN = 40
SCAN = 2_000  # newest transitions looked at for one model's


class ModelPages:
    def __init__(self, ports: ConsolePorts, frame: Frame) -> None:
        self._ports, self._frame = ports, frame

    def routes(self) -> list[BaseRoute]:
        readable = self._frame.readable
        return [
            Route("/console/models", readable(self.models)),
            Route("/console/models/{name:path}/reports/{report}", readable(self.report)),
            Route("/console/models/{name:path}", readable(self.model)),
        ]

    async def models(self, request: Request) -> Response:
        visitor = await self._frame.visitor(request, MODELS)
        replicas = self._ports.replicas()
        models = self._ports.models.view()
        by_model = {each.name: replicas_of(each, replicas) for each in models}
        return self._frame.page(request, "models.html", visitor, models=models, replicas=by_model)

    async def model(self, request: Request) -> Response:
        visitor = await self._frame.visitor(request, MODELS)
        model = self._model(request)
        facts = await to_thread.run_sync(lambda: self._watched(model.name))
        return self._frame.page(
            request,
            "model.html",
            visitor,
            model=model,
            replicas=replicas_of(model, self._ports.replicas()),
            width=WIDTH,
            height=HEIGHT,
            **facts,
        )

    async def report(self, request: Request) -> Response:
        """Our page around the report; the report itself comes into a frame that shares nothing with us."""
        visitor = await self._frame.visitor(request, MODELS)
        model, wanted = self._model(request), request.path_params["report"]
        drift = self._ports.drift
        kept: Sequence[KeptReport] = [] if drift is None else await to_thread.run_sync(drift.reports, model.name)
        found = next((each for each in kept if each.id == wanted), None)
        if found is None:
            raise NotFound("unknown_report", "there is no such report, or it was too old to be kept")
        return self._frame.page(request, "report.html", visitor, model=model, report=found)

    def _model(self, request: Request) -> ModelView:
        name = request.path_params["name"]
        found = next((each for each in self._ports.models.view() if each.name == name), None)
        if found is None:
            raise NotFound("unknown_model", "no such model")
        return found

    def _watched(self, name: str) -> dict[str, Any]:
        """Blocking. A ledger that cannot be read leaves its part empty, and says so."""
        moves, trouble = list[Record](), ""
        try:
            newest = self._ports.ledger.read(limit=SCAN, newest=True, kinds=[TRANSITION])
            moves = [each for each in newest if each.body["drift"].get("model") == name]
        except AuditUnavailable as error:
            trouble = error.reason
        moves.sort(key=lambda each: each.index)
        points, reports = _shown(self._ports.drift, name)
        states = [(each.time_ms, str(each.body["drift"]["to"])) for each in moves]
        return {
            "lines": evidence_lines(points),
            "span": (points[0].at_ms, points[-1].at_ms) if points else None,
            "stretches": state_stretches(states, round(now_utc().timestamp() * 1000)),
            "moves": [move_facts(each) for each in reversed(moves[-MOVES_SHOWN:])],
            "reports": reports,
            "trouble": trouble,
        }


def _shown(drift: DriftView | None, name: str) -> tuple[Sequence[Point], Sequence[KeptReport]]:
    return ([], []) if drift is None else (drift.points(name), drift.reports(name))


def replicas_of(model: ModelView, replicas: Sequence[ReplicaShown]) -> list[ReplicaShown]:
    """Those of the backend that serves it."""
    return [each for each in replicas if model.name in each.models or (each.backend == model.backend != "")]


def move_facts(record: Record) -> dict[str, Any]:
    drift = record.body["drift"]
    return {
        "index": record.index,
        "time_ms": record.time_ms,
        "version": drift.get("version"),
        "new_version": drift.get("new_version"),
        "source": drift.get("from", ""),
        "target": drift.get("to", ""),
        "reason": drift.get("reason", ""),
        "by": drift.get("by", ""),
        "evidence": dict(drift.get("evidence", {})),
    }
