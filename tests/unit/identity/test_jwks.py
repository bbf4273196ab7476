"""Keys come and go while calls are running."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientPayloadError, web

from controlplane.identity import jwks
from controlplane.identity.errors import IdentityUnavailable
from controlplane.identity.identity import TokenIdentity
from controlplane.identity.jwks import JwksKeys
from tests.unit.identity.issuer import EC_PRIVATE, ED_PRIVATE, Clock, Source, key_set, keys_of, public, settings

OLD, NEW = public(EC_PRIVATE, "ES256", "old"), public(ED_PRIVATE, "EdDSA", "new")


async def test_keys_never_read_are_unavailable() -> None:
    source = Source()
    source.answer = OSError("no route")
    keys = keys_of(settings(), source, Clock())
    assert not await keys.refresh()
    with pytest.raises(IdentityUnavailable, match="keys_unavailable"):
        keys.current()


@pytest.mark.parametrize("trouble", [OSError("gone"), ClientPayloadError("cut off"), b"garbage", key_set(OLD, OLD)])
async def test_unreadable_keys_are_believed_until_they_are_stale(trouble: Any) -> None:
    source, clock = Source(OLD), Clock()
    keys = keys_of(settings(), source, clock)
    await keys.refresh()
    source.answer = trouble
    clock.now_s += 3_600
    assert not await keys.refresh()
    assert keys.current().find("old") is not None
    clock.now_s += 0.001
    with pytest.raises(IdentityUnavailable, match="keys_stale"):
        keys.current()
    source.answer = key_set(OLD)
    assert await keys.refresh()
    assert keys.current().find("old") is not None


async def test_unknown_key_is_looked_for_once_per_cool_down() -> None:
    source, clock = Source(OLD), Clock()
    keys = keys_of(settings(), source, clock)
    await keys.refresh()
    clock.now_s += 30
    assert [await keys.find(f"forged-{n}") for n in range(100)] == [None] * 100
    assert source.readings == 2
    source.answer = key_set(OLD, NEW)
    assert await keys.find("new") is None  # within the cool-down
    clock.now_s += 30
    found = await keys.find("new")
    assert found is not None
    assert source.readings == 3


async def test_all_who_wait_for_a_new_key_share_one_reading() -> None:
    source, clock = Source(OLD), Clock()
    keys = keys_of(settings(), source, clock)
    await keys.refresh()
    source.answer = key_set(OLD, NEW)
    clock.now_s += 30
    found = await asyncio.gather(*(keys.find("new") for _ in range(20)))
    assert all(key is not None for key in found)
    assert source.readings == 2


async def test_token_that_names_no_key_sends_nobody_to_the_issuer() -> None:
    source, clock = Source(OLD, NEW), Clock()
    keys = keys_of(settings(), source, clock)
    await keys.refresh()
    clock.now_s += 30
    assert await keys.find(None) is None  # two keys: it could be either
    assert source.readings == 1


class SlowTheSecondTime(Source):
    """``asked`` says that somebody waits for the document, who gets it when it ``arrives``."""

    def __init__(self, *keys: dict[str, Any]) -> None:
        super().__init__(*keys)
        self.asked, self.arrives = asyncio.Event(), asyncio.Event()

    async def __call__(self) -> bytes:
        if self.readings == 1:
            self.asked.set()
            await self.arrives.wait()
        return await super().__call__()


async def test_known_key_waits_for_no_reading() -> None:
    source = SlowTheSecondTime(OLD)
    keys = keys_of(settings(), source, Clock())
    await keys.refresh()
    reading = asyncio.create_task(keys.refresh())
    await source.asked.wait()
    finding = asyncio.create_task(keys.find("old"))
    await asyncio.sleep(0)
    found = finding.done()
    source.arrives.set()
    await asyncio.gather(reading, finding)
    assert found


async def test_generation_moves_only_when_the_keys_do() -> None:
    source = Source(OLD)
    keys = keys_of(settings(), source, Clock())
    await keys.refresh()
    first = keys.generation
    await keys.refresh()
    assert keys.generation == first
    source.answer = key_set(NEW)
    await keys.refresh()
    assert keys.generation == first + 1
    assert keys.current().find("old") is None


async def test_key_file_is_read_on_entering(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(key_set(OLD))
    async with JwksKeys(settings(jwks_file=path)) as keys:
        assert keys.current().find("old") is not None
        path.write_bytes(key_set(NEW))
        assert await keys.refresh()
        assert keys.current().find("new") is not None
    assert not await JwksKeys(settings(jwks_file=tmp_path / "none.json")).refresh()


async def test_keys_are_read_again_in_the_background_also_after_a_failure() -> None:
    enough = asyncio.Event()

    class Failing(Source):
        async def __call__(self) -> bytes:
            if self.readings == 1:
                self.readings += 1
                raise OSError("gone")
            document = await super().__call__()
            if self.readings >= 4:
                enough.set()
            return document

    async with JwksKeys(settings(refresh_s=0.001), source=Failing(OLD)):
        await asyncio.wait_for(enough.wait(), 60)


async def test_keys_that_could_not_be_read_at_the_start_are_read_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "FIRST_RETRY_S", 0.001)
    read = asyncio.Event()

    class Failing(Source):
        async def __call__(self) -> bytes:
            self.readings += 1
            if self.readings == 1:
                raise OSError("no route yet")
            read.set()
            return key_set(OLD)

    async with JwksKeys(settings(), source=Failing()) as keys:
        with pytest.raises(IdentityUnavailable, match="keys_unavailable"):
            keys.current()
        await asyncio.wait_for(read.wait(), 60)
        await asyncio.sleep(0)
        assert keys.current().find("old") is not None


async def test_nobody_reads_keys_once_we_have_left() -> None:
    async with TokenIdentity(settings(), keys=JwksKeys(settings(), source=Source(OLD))):
        assert [task.get_name() for task in asyncio.all_tasks()].count("identity-keys") == 1
    assert "identity-keys" not in [task.get_name() for task in asyncio.all_tasks()]


@pytest.mark.parametrize("moments", range(6))
async def test_whoever_leaves_as_a_document_arrives_has_left(moments: int) -> None:
    """``asyncio.wait_for`` of Python 3.11 loses a cancellation that comes together with what it waits for."""
    source = SlowTheSecondTime(OLD)
    keys = await JwksKeys(settings(refresh_s=0.001), source=source).__aenter__()
    await source.asked.wait()
    source.arrives.set()
    for _ in range(moments):
        await asyncio.sleep(0)
    leaving = asyncio.create_task(keys.__aexit__(None, None, None))
    done, _ = await asyncio.wait([leaving], timeout=60)
    leaving.cancel()
    assert done


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def elsewhere(_: web.Request) -> web.StreamResponse:
    """A key set that would do, at an address nobody configured."""
    return web.Response(body=key_set(OLD))


async def served(handler: Handler, finished: asyncio.Event | None = None, **changes: Any) -> JwksKeys:
    app = web.Application()
    app.router.add_get("/keys", handler)
    app.router.add_get("/elsewhere", elsewhere)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        keys = JwksKeys(settings(jwks_file=None, jwks_url=f"http://127.0.0.1:{port}/keys", **changes))
        await keys.refresh()
        return keys
    finally:
        if finished is not None:
            finished.set()
        await runner.cleanup()


async def test_key_url_is_fetched() -> None:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(body=key_set(OLD), content_type="application/json")

    assert (await served(answer)).current().find("old") is not None


@pytest.mark.parametrize("trouble", ["redirect", "error", "huge", "hangs"])
async def test_key_url_that_misbehaves_gives_no_keys(trouble: str) -> None:
    finished = asyncio.Event()

    async def answer(_: web.Request) -> web.StreamResponse:
        match trouble:
            case "redirect":
                raise web.HTTPFound("/elsewhere")
            case "error":
                return web.Response(status=500, body=key_set(OLD))
            case "huge":
                return web.Response(body=key_set(OLD) + b" " * 2_000)
            case _:
                await finished.wait()
                return web.Response(body=key_set(OLD))

    limit_s = 0.05 if trouble == "hangs" else 30.0
    keys = await served(answer, finished, max_jwks_bytes=1_024, fetch_timeout_s=limit_s)
    with pytest.raises(IdentityUnavailable, match="keys_unavailable"):
        keys.current()
