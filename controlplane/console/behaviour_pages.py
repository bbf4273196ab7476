"""Agents that are held back, a person's word about them, and what rules of behaviour found lately."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from audit import AuditUnavailable, Record
from controlplane.calls import Principal
from controlplane.console.agent_words import AgentWords
from controlplane.console.behaviour import RESOURCE
from controlplane.console.behaviour_views import BY_HAND
from controlplane.console.frame import Frame
from controlplane.console.ports import LedgerView, NotFound

VERDICT = "behaviour.verdict"
SHOWN, SCAN = 25, 500
HOUR_S = 3600
LIFTS: Mapping[int, str] = {0: "once", HOUR_S: "for 1 hour", 8 * HOUR_S: "for 8 hours", 24 * HOUR_S: "for 24 hours"}
BLOCKS: Mapping[int, str] = {
    HOUR_S: "1 hour",
    8 * HOUR_S: "8 hours",
    24 * HOUR_S: "24 hours",
    7 * 24 * HOUR_S: "7 days",
    30 * 24 * HOUR_S: "30 days",
}
MAX_NAME = 200


@dataclass(frozen=True, slots=True)
class Found:
    """A verdict as the ledger has it."""

    index: int
    time_ms: int
    said: Mapping[str, Any]


class BehaviourPages:
    def __init__(self, words: AgentWords, ledger: LedgerView, frame: Frame) -> None:
        self._words, self._ledger, self._frame = words, ledger, frame

    def routes(self) -> list[BaseRoute]:
        readable = self._frame.readable
        return [
            Route("/console/behaviour", readable(self.behaviour)),
            Route("/console/behaviour/lift", readable(self.lift), methods=["POST"]),
            Route("/console/behaviour/block", readable(self.block), methods=["POST"]),
        ]

    async def behaviour(self, request: Request) -> Response:
        visitor = await self._frame.visitor(request, RESOURCE)
        control, sees = self._words.control, self._words.sees
        held = [one for one in control.held() if sees(visitor.principal, one.tenant)]
        facts = await to_thread.run_sync(lambda: self._lately(visitor.principal))
        return self._frame.page(
            request,
            "behaviour.html",
            visitor,
            held=held,
            alone=[one for one in control.left_alone() if sees(visitor.principal, one.tenant)],
            agents={answer: len({one.agent for one in held if one.answer == answer}) for answer in ANSWERS},
            unknown_rules=control.unknown_rules(),
            by_hand=BY_HAND,
            lifts=LIFTS,
            blocks=BLOCKS,
            **facts,
        )

    async def lift(self, request: Request) -> Response:
        wish, form = await self._frame.wish(request, "write", RESOURCE)
        for_s = _chosen(form, LIFTS)
        await self._words.lift(form.get("tenant", ""), _named(form), form.get("rule", ""), for_s, wish)
        return self._frame.to(request, "/console/behaviour")

    async def block(self, request: Request) -> Response:
        wish, form = await self._frame.wish(request, "write", RESOURCE)
        for_s = _chosen(form, BLOCKS)
        await self._words.block(form.get("tenant", ""), _named(form), for_s, wish)
        return self._frame.to(request, "/console/behaviour")

    def _lately(self, principal: Principal) -> dict[str, Any]:
        """Blocking. A ledger that cannot be read leaves its part empty, and says so."""
        try:
            records = self._ledger.read(-1, SCAN, newest=True, kinds=[VERDICT])
        except AuditUnavailable as error:
            return {"found": [], "trouble": error.reason}
        seen = [_found(one) for one in records if self._words.sees(principal, str(_said(one)["tenant"]))]
        return {"found": seen[:SHOWN], "trouble": ""}


ANSWERS = ("block", "step_up", "throttle")


def _said(record: Record) -> Mapping[str, Any]:
    said: Mapping[str, Any] = record.body["behaviour"]
    return said


def _found(record: Record) -> Found:
    return Found(record.index, record.time_ms, _said(record))


def _named(form: Mapping[str, str]) -> str:
    agent = form.get("agent", "").strip()
    if not 0 < len(agent) <= MAX_NAME:
        raise NotFound("unknown_agent", "name the agent as its token does")
    return agent


def _chosen(form: Mapping[str, str], choices: Mapping[int, str]) -> int:
    said = form.get("for_s", "")
    if said not in {str(choice) for choice in choices}:
        raise NotFound("unknown_time", "choose one of the times")
    return int(said)
