"""The ways around a gateway are found, each by its name, and finding them changes nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from inference.exposure import PROBES, Severity, exposure_of, exposure_of_address


@dataclass
class Server:
    """Answers ``status`` to whoever has no key, except on ``open`` paths."""

    url: str = ""
    status: int = 401
    open: dict[str, int] = field(default_factory=dict)
    heard: list[tuple[str, str, bytes]] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        self.heard.append((request.method, request.path, await request.read()))
        return web.Response(status=self.open.get(request.path, self.status))


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    yield server
    await runner.cleanup()


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_a_server_that_is_shut_is_fine(server: Server, status: int) -> None:
    server.status = status
    assert [finding.severity for finding in await exposure_of(server.url)] == [Severity.FINE]


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.name)
@pytest.mark.parametrize("status", [200, 400, 405, 422, 500])
async def test_an_open_path_is_found_by_name(server: Server, probe, status: int) -> None:
    server.open = {probe.path: status}
    (finding,) = await exposure_of(server.url)
    assert (finding.name, finding.severity) == (probe.name, probe.severity)
    assert finding.advice


async def test_probes_can_change_nothing(server: Server) -> None:
    await exposure_of(server.url)
    assert {method for method, path, _ in server.heard if path in ("/sleep", "/pause", "/collective_rpc")} == {"GET"}
    assert {body for method, _, body in server.heard if method == "POST"} == {b"{}"}


async def test_the_gravest_comes_first(server: Server) -> None:
    server.open = {"/tokenize": 200, "/adapters": 422}
    assert [finding.name for finding in await exposure_of(server.url)] == ["adapters_open", "tokenize_open"]


async def test_a_server_that_is_down_is_said_to_be() -> None:
    (finding,) = await exposure_of("http://127.0.0.1:9/v1")
    assert (finding.name, finding.severity) == ("unreachable", Severity.WARNING)


@pytest.mark.parametrize(
    ("host", "encrypted", "names"),
    [
        ("127.0.0.1", False, []),
        ("10.0.0.7", True, []),
        ("10.0.0.7", False, ["plain_text"]),
        ("8.8.8.8", True, ["public_address"]),
        ("8.8.8.8", False, ["public_address", "plain_text"]),
        ("vllm.internal", False, []),
        ("", False, []),
    ],
)
def test_an_address_says_who_may_reach_it(host: str, encrypted: bool, names: list[str]) -> None:
    assert [finding.name for finding in exposure_of_address(host, encrypted=encrypted)] == names
