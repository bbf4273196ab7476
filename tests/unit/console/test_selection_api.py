"""Operators see what the choice has learnt and let models back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from audit import LedgerReader
from controlplane.calls import Principal
from controlplane.console import ConsolePorts, build
from controlplane.console.ports import LearntView, NotAllowed, NotFound, NotProven
from tests.unit.console.world import BASE, OPERATOR, Observations, World, world


@dataclass(frozen=True)
class Receipt:
    event_id: str = "e1"
    index: int = 7


@dataclass
class Selection:
    cleared: list[tuple[str, str, str, str]] = field(default_factory=list)

    def view(self, principal: Principal) -> Sequence[LearntView]:
        known: dict[str, Any] = {"task": "chat", "accuracy_ppm": 600_000, "reference_ppm": None, "answers": 31}
        return [LearntView(model=principal.tenant, latency_ms=12.5, under_review=True, **known)]

    async def clear(self, task: str, model: str, by: Principal, reason: str) -> Receipt:
        if model != "good":
            raise NotFound("not_under_review", "nobody has to look at it")
        self.cleared.append((task, model, by.subject, reason))
        return Receipt()


def client(world: World, selection: Selection, token: str = "operator-token") -> httpx2.AsyncClient:
    async def authorize(credential: str, action: str, resource: str) -> Principal:
        if not credential:
            raise NotProven("no_credential")
        if credential == "reader-token" and action != "read":
            raise NotAllowed("no_matching_rule")
        assert resource == "/api/selection"
        return OPERATOR

    ports = ConsolePorts(
        authorize=authorize,
        ledger=LedgerReader(Path("none")),
        append=world.append,
        breakers=world.breakers,
        models=world.models,
        policy_status=lambda: world.policy,
        observations=Observations(),
        take_outcomes=world.labels.extend,
        selection=selection,
    )
    headers = {"authorization": f"Bearer {token}"} if token else {}
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(build(ports)), base_url=BASE, headers=headers)


CLEAR = {"task": "chat", "model": "good", "reason": "prompt mended"}


@pytest.mark.parametrize(
    ("body", "token", "status"),
    [
        (CLEAR, "operator-token", 200),
        (CLEAR, "reader-token", 403),
        (CLEAR, "", 401),
        (CLEAR | {"model": "other"}, "operator-token", 404),
        (CLEAR | {"reason": ""}, "operator-token", 422),
        (CLEAR | {"tenant": "globex"}, "operator-token", 422),
    ],
)
async def test_a_model_is_let_back_by_who_may_and_with_a_reason(
    tmp_path: Path, body: dict[str, str], token: str, status: int
) -> None:
    selection = Selection()
    async with world(tmp_path) as made, client(made, selection, token) as asking:
        answer = await asking.post("/api/selection/clear", json=body)
    assert answer.status_code == status
    assert selection.cleared == ([("chat", "good", "user:operator", "prompt mended")] if status == 200 else [])
    if status == 200:
        assert answer.json() == {"event_id": "e1", "ledger_index": 7}


async def test_what_was_learnt_is_that_of_ones_own_tenant(tmp_path: Path) -> None:
    async with world(tmp_path) as made, client(made, Selection()) as asking:
        answer = await asking.get("/api/selection")
    assert answer.json()["models"] == [
        {
            "task": "chat",
            "model": "acme",
            "accuracy_ppm": 600_000,
            "reference_ppm": None,
            "answers": 31,
            "latency_ms": 12.5,
            "under_review": True,
        }
    ]
