"""Changes to versions of models: recorded with who and why before they are done, or not done."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.unit.console.world import World

WHY = {"reason": "try the new one"}
CHANGES: list[tuple[str, dict[str, Any], tuple[Any, ...], dict[str, Any]]] = [
    ("load", {"version": 3}, ("load", "risk", 3), {"what": "model.load", "version": 3}),
    ("unload", {"version": 2}, ("unload", "risk", 2), {"what": "model.unload", "version": 2}),
    (
        "canary",
        {"version": 2, "percent": 5},
        ("canary", "risk", 2, 5),
        {"what": "model.canary", "version": 2, "percent": 5},
    ),
    ("canary", {"percent": 0}, ("canary", "risk", None, 0), {"what": "model.canary", "percent": 0}),
    (
        "shadow",
        {"version": 2, "percent": 100},
        ("shadow", "risk", 2, 100),
        {"what": "model.shadow", "version": 2, "percent": 100},
    ),
    ("rollback", {}, ("rollback", "risk", 1), {"what": "model.rollback", "version": 1}),
]


@pytest.fixture(autouse=True)
def history(console: World) -> None:
    console.models.known["risk"] = replace(console.models.known["risk"], previous=(1,))


@pytest.mark.parametrize(("word", "body", "deed", "said"), CHANGES)
async def test_a_change_is_recorded_and_then_done(
    console: World, word: str, body: dict[str, Any], deed: tuple[Any, ...], said: dict[str, Any]
) -> None:
    async with console.client("operator-token") as client:
        reply = await client.post(f"/api/models/risk/{word}", json=WHY | body)
    assert reply.status_code == 200
    (record,) = console.changes()
    assert reply.json()["event_id"] == record["event_id"]
    who = {"by": "user:operator", "tenant": "acme", "delegation": ["agent:helper"]}
    assert record["change"] == said | WHY | who | {"model": "risk"}
    assert console.models.done == [deed]


@pytest.mark.parametrize(("word", "body", "deed", "said"), CHANGES)
async def test_a_change_that_cannot_be_recorded_is_not_made(
    console: World, word: str, body: dict[str, Any], deed: Any, said: Any
) -> None:
    console.is_ledger_down = True
    async with console.client("operator-token") as client:
        reply = await client.post(f"/api/models/risk/{word}", json=WHY | body)
    assert (reply.status_code, console.models.done) == (503, [])


@pytest.mark.parametrize(
    ("word", "body"),
    [
        ("load", {"version": 0}),
        ("load", {}),
        ("canary", {"version": 2, "percent": 101}),
        ("canary", {"version": 2, "percent": -1}),
        ("canary", {"percent": 5}),
        ("shadow", {"version": 2}),
        ("rollback", {"version": 2}),
    ],
)
async def test_a_malformed_change_is_refused(console: World, word: str, body: dict[str, Any]) -> None:
    async with console.client("operator-token") as client:
        assert (await client.post(f"/api/models/risk/{word}", json=WHY | body)).status_code == 422
    assert (console.changes(), console.models.done) == ([], [])


async def test_where_there_is_no_way_back_nothing_is_recorded(console: World) -> None:
    console.models.known["risk"] = replace(console.models.known["risk"], previous=())
    async with console.client("operator-token") as client:
        reply = await client.post("/api/models/risk/rollback", json=WHY)
    assert (reply.status_code, reply.json()["reason"], console.changes()) == (409, "no_previous", [])


async def test_a_release_names_who_wants_it(console: World) -> None:
    async with console.client("operator-token") as client:
        reply = await client.post("/api/models/risk/release", json=WHY | {"version": 1, "key": "k"})
    assert reply.json() == {"event_id": "e1", "ledger_index": 7}
    assert console.models.done == [("release", "risk", 1, "user:operator", "try the new one", "k")]
    assert console.changes() == [], "the moves record it, since they read it back"


async def test_a_model_is_shown_with_everything_that_was_decided(console: World) -> None:
    view = replace(
        console.models.known["risk"],
        canary_percent=5,
        shadow_version=2,
        shadow_percent=50,
        replicas={"a:1": frozenset({2, 1}), "b:1": frozenset()},
    )
    console.models.known["risk"] = view
    async with console.client("operator-token") as client:
        (shown,) = (await client.get("/api/models")).json()["models"]
    assert (shown["canary_percent"], shown["shadow_version"], shown["shadow_percent"], shown["previous"]) == (
        5,
        2,
        50,
        [1],
    )
    assert shown["replicas"] == [{"name": "a:1", "versions": [1, 2]}, {"name": "b:1", "versions": []}]
