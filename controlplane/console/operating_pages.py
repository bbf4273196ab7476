"""What waits for a person's answer, and what adapts by itself."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from controlplane.calls import Principal
from controlplane.console.changes import Changes
from controlplane.console.frame import Frame
from controlplane.console.ports import ConsolePorts, ModelView, NotFound

SELECTION, REVIEWS, ADAPTATION = "/api/selection", "/api/reviews", "/api/adaptation"
WAITING = frozenset({"DEGRADED"})
ANSWERS = {
    "healthy": "It is good as it is",
    "fallback": "Let the fallback answer",
    "retrain": "Train again",
}


class OperatingPages:
    def __init__(self, ports: ConsolePorts, frame: Frame, changes: Changes) -> None:
        self._ports, self._frame, self._changes = ports, frame, changes

    def routes(self) -> list[BaseRoute]:
        readable = self._frame.readable
        return [
            Route("/console/reviews", readable(self.reviews)),
            Route("/console/reviews/selection", readable(self.clear), methods=["POST"]),
            Route("/console/reviews/drift", readable(self.answer), methods=["POST"]),
            Route("/console/reviews/adaptation", readable(self.tell), methods=["POST"]),
            Route("/console/adaptation", readable(self.adaptation)),
        ]

    async def reviews(self, request: Request) -> Response:
        visitor = await self._frame.visitor(request, SELECTION)
        return self._frame.page(request, "reviews.html", visitor, answers=ANSWERS, **self._waiting(visitor.principal))

    async def adaptation(self, request: Request) -> Response:
        visitor = await self._frame.visitor(request)
        control = self._ports.adaptation
        adapted = list(control.status()) if control else []
        rules = list(control.rules()) if control else []
        standing: dict[str, list[Any]] = {rule.id: [] for rule in rules}
        for each in adapted:
            standing.setdefault(each.rule, []).append(each)
        replicas = self._ports.replicas()
        return self._frame.page(
            request, "adaptation.html", visitor, adapted=adapted, rules=rules, standing=standing, replicas=replicas
        )

    async def clear(self, request: Request) -> Response:
        wish, form = await self._frame.wish(request, "write", SELECTION)
        if self._ports.selection is None:
            raise NotFound("no_selection", "models are not chosen here")
        await self._ports.selection.clear(form.get("task", ""), form.get("model", ""), wish.by, wish.reason)
        return self._frame.to(request, "/console/reviews")

    async def answer(self, request: Request) -> Response:
        wish, form = await self._frame.wish(request, "write", REVIEWS)
        answer = form.get("answer", "")
        if self._ports.reviews is None or answer not in ANSWERS:
            raise NotFound("unknown_answer", "that is no answer to this question")
        await self._ports.reviews.review(form.get("model", ""), answer, wish.by, wish.reason, "")
        return self._frame.to(request, "/console/reviews")

    async def tell(self, request: Request) -> Response:
        wish, form = await self._frame.wish(request, "write", ADAPTATION)
        control = self._ports.adaptation
        if control is None:
            raise NotFound("no_adaptation", "nothing adapts here")
        rule, subject, word = (form.get(name, "") for name in ("rule", "subject", "word"))
        what = {"what": "adaptation.tell", "rule": rule, "subject": subject, "word": word}
        await self._changes.do(what, wish, lambda: control.tell(rule, subject, word, wish.by))
        return self._frame.to(request, "/console/reviews")

    def _waiting(self, principal: Principal) -> dict[str, Any]:
        selection, reviews, adaptation = self._ports.selection, self._ports.reviews, self._ports.adaptation
        degraded: list[tuple[ModelView, Any]] = []
        if reviews is not None:
            found = [each for each in self._ports.models.view() if each.state in WAITING]
            degraded = [(each, reviews.review_of(each.name)) for each in found]
        return {
            "chosen": [each for each in selection.view(principal) if each.under_review] if selection else [],
            "degraded": degraded,
            "held": [each for each in adaptation.status() if each.ends_on] if adaptation else [],
        }
