"""Observations in two forms, what was lost of them, and gaps in the monitor's sight."""

from __future__ import annotations

from typing import Any

import pytest

from .world import World

GAP = {"key": "g1", "reason": "overwritten", "lost": 30, "from_ms": 1_000, "to_ms": 2_000, "boot": "b1"}


async def test_who_accepts_msgpack_gets_the_page_as_it_is(console: World) -> None:
    async with console.client("monitor-token") as client:
        params = {"after": 2, "limit": 2}
        packed = await client.get("/api/observations", params=params, headers={"accept": "application/msgpack"})
        plain = await client.get("/api/observations", params=params)
    assert (packed.content, packed.headers["content-type"]) == (b"2 2", "application/msgpack")
    assert plain.json()["next"] == 4


async def test_a_gap_is_recorded_once(console: World) -> None:
    async with console.client("monitor-token") as client:
        told = [await client.post("/api/observations/gaps", json=GAP | {"lost": lost}) for lost in (30, 30)]
        await client.post("/api/observations/gaps", json=GAP | {"key": "g2", "reason": "monitor_away", "lost": 0})
    assert told[0].json() == told[1].json()
    records = console.ledger.read(kinds=["watch.gap"])
    assert [record.body["gap"]["key"] for record in records] == ["g1", "g2"]
    assert records[0].body["gap"] == GAP | {"by": "service:monitor"}


async def test_a_gap_that_cannot_be_recorded_is_to_be_told_again(console: World) -> None:
    console.is_ledger_down = True
    async with console.client("monitor-token") as client:
        assert (await client.post("/api/observations/gaps", json=GAP)).status_code == 503
        console.is_ledger_down = False
        assert (await client.post("/api/observations/gaps", json=GAP)).status_code == 200
    assert len(console.ledger.read(kinds=["watch.gap"])) == 1


@pytest.mark.parametrize("wrong", [{"key": ""}, {"reason": "bored"}, {"lost": -1}, {"unheard": 1}, {"to_ms": "x"}])
async def test_a_malformed_gap_is_refused(console: World, wrong: dict[str, Any]) -> None:
    async with console.client("monitor-token") as client:
        assert (await client.post("/api/observations/gaps", json=GAP | wrong)).status_code == 422
    assert console.ledger.read(kinds=["watch.gap"]) == []


async def test_what_was_not_counted_is_shown_by_reason(console: World) -> None:
    skipped = {"risk": {"over_share": 40}}
    async with console.client("monitor-token") as client:
        assert (await client.post("/api/observations/skipped", json={"skipped": skipped})).status_code == 200
    async with console.client("operator-token") as client:
        status = (await client.get("/api/observations/status")).json()
    assert (status["skipped"], status["dropped"]) == (skipped, {"overwritten": 1})


@pytest.mark.parametrize("path", ["gaps", "skipped"])
async def test_nobody_but_the_monitor_speaks_for_it(console: World, path: str) -> None:
    async with console.client("reader-token") as client:
        assert (await client.post(f"/api/observations/{path}", json=GAP)).status_code in (401, 403)


async def test_a_verdict_on_a_language_model_is_recorded_once(console: World) -> None:
    said = {"key": "v1", "model": "tiny", "version": 0, "evidence": {"stream": "refusal", "row": 68}}
    async with console.client("monitor-token") as client:
        told = [await client.post("/api/observations/verdicts", json=said) for _ in range(2)]
        assert (
            await client.post("/api/observations/verdicts", json=said | {"evidence": {"a b": 1}})
        ).status_code == 422
    assert told[0].json() == told[1].json()
    (record,) = console.ledger.read(kinds=["watch.verdict"])
    assert record.body["verdict"] == said | {"by": "service:monitor"}
