"""The monitor's side of the gateway's API, over a real socket."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from click.testing import CliRunner

from controlplane.monitor import HttpClient, MonitorSettings, monitor_command, serve
from controlplane.retraining.ports import GatewayUnavailable, TransitionRefused

Handler = Callable[[web.Request], Awaitable[web.Response]]
MOVE = {"key": "k/0", "version": 1, "from": "HEALTHY", "to": "DEGRADED", "reason": "risk_left_band", "evidence": {}}


@asynccontextmanager
async def client_of(tmp_path: Path, handler: Handler) -> AsyncIterator[HttpClient]:
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    (tmp_path / "token").write_text("secret\n")
    settings = MonitorSettings(gateway_url=site.name, token_file=tmp_path / "token")
    async with aiohttp.ClientSession() as session:
        yield HttpClient(settings, session)
    await runner.cleanup()


async def test_a_page_is_asked_for_with_the_token_of_the_file(tmp_path: Path) -> None:
    seen: list[tuple[str, str]] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append((request.path_qs, request.headers["authorization"]))
        return web.json_response({"observations": [{"seq": 8}], "next": 8, "lost": 2, "boot": "b"})

    async with client_of(tmp_path, answer) as client:
        page = await client.observations(7, 100)
        (tmp_path / "token").write_text("renewed")
        await client.observations(8, 100)
    assert (page.observations, page.next, page.lost, page.boot) == ([{"seq": 8}], 8, 2, "b")
    assert seen == [
        ("/api/observations?after=7&limit=100", "Bearer secret"),
        ("/api/observations?after=8&limit=100", "Bearer renewed"),
    ]


async def test_a_move_is_posted_word_for_word(tmp_path: Path) -> None:
    seen = []

    async def answer(request: web.Request) -> web.Response:
        seen.append((request.method, request.path, await request.json()))
        return web.json_response({"index": 1})

    async with client_of(tmp_path, answer) as client:
        await client.ask("risk", MOVE)
    assert seen == [("POST", "/api/models/risk/transitions", MOVE)]


@pytest.mark.parametrize("status", [500, 503, 401, 403, 429])
async def test_what_may_pass_is_asked_again(tmp_path: Path, status: int) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status)

    async with client_of(tmp_path, answer) as client:
        with pytest.raises(GatewayUnavailable):
            await client.ask("risk", MOVE)


@pytest.mark.parametrize(
    ("body", "reason"), [(b'{"reason": "load_failed"}', "load_failed"), (b'["reason"]', ""), (b"oh", "")]
)
async def test_the_gateway_s_word_for_what_it_could_not_do_is_heard(tmp_path: Path, body: bytes, reason: str) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=502, body=body)

    async with client_of(tmp_path, answer) as client:
        with pytest.raises(GatewayUnavailable) as caught:
            await client.ask("risk", MOVE)
    assert caught.value.reason == reason


@pytest.mark.parametrize("status", [400, 404, 409])
async def test_what_will_not_pass_is_refused(tmp_path: Path, status: int) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status)

    async with client_of(tmp_path, answer) as client:
        with pytest.raises(TransitionRefused):
            await client.ask("risk", MOVE)


@pytest.mark.parametrize("body", [b"{}", b"[]", b"3", b"null", b"[" * 100_000, b'{"observations": []}'])
async def test_an_answer_that_is_no_page_is_a_gateway_that_is_away(tmp_path: Path, body: bytes) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    async with client_of(tmp_path, answer) as client:
        with pytest.raises(GatewayUnavailable):
            await client.observations(0, 1)


async def test_nonsense_a_missing_token_and_a_closed_port_are_a_gateway_that_is_away(tmp_path: Path) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=b"{nonsense")

    async with client_of(tmp_path, answer) as client:
        with pytest.raises(GatewayUnavailable):
            await client.observations(0, 1)
        (tmp_path / "token").unlink()
        with pytest.raises(GatewayUnavailable):
            await client.observations(0, 1)
    (tmp_path / "token").write_text("secret")
    away = MonitorSettings(gateway_url="http://127.0.0.1:9", token_file=tmp_path / "token")
    async with aiohttp.ClientSession() as session:
        with pytest.raises(GatewayUnavailable):
            await HttpClient(away, session).observations(0, 1)


def test_a_wrong_setting_refuses_to_start_and_names_itself(tmp_path: Path) -> None:
    config = tmp_path / "monitor.yaml"
    config.write_text("models: [{name: risk, feature_names: [a], watch: {reference_row: 5}}]")
    result = CliRunner().invoke(monitor_command, ["--config", str(config)])
    assert result.exit_code != 0
    assert "models.0.watch.reference_row" in result.output


async def test_the_process_reads_until_it_is_told_to_end(tmp_path: Path) -> None:
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.query["after"])
        if len(asked) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return web.json_response({"observations": [], "next": 5, "lost": 0, "boot": ""})

    async with client_of(tmp_path, answer) as client:
        said = client._settings.model_dump() | {"state_dir": tmp_path / "state", "poll_s": 0.01}
        settings = MonitorSettings.model_validate(said | {"telemetry": {"metrics_port": 0}})
        await serve(settings)
    assert asked[:2] == ["0", "5"], "the cursor moves on"
