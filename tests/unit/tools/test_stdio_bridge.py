"""The bridge's own decisions; what it does with real servers is in ``tests/real/test_mcp_servers.py``."""

from __future__ import annotations

import socket
import subprocess
import sys
from typing import Any

import pytest

pytest.importorskip("mcp", reason="the bridge needs the mcp extra")

from controlplane.tools.stdio_bridge import Guarded, childs_params, loopback_listener


def test_the_bridge_listens_on_loopback_alone_and_sends_small_answers_at_once() -> None:
    with loopback_listener(0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"
        with socket.create_connection(listener.getsockname()), listener.accept()[0] as accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_what_belongs_to_one_leg_stays_there_and_the_rest_goes_on() -> None:
    params = {
        "name": "x",
        "_meta": {"progressToken": 1, "io.modelcontextprotocol/protocolVersion": "2026-07-28", "traceparent": "t"},
    }
    assert childs_params(params) == {"name": "x", "_meta": {"traceparent": "t"}}
    assert childs_params({"name": "x", "_meta": None}) == {"name": "x"}


@pytest.mark.parametrize(
    ("headers", "reached"),
    [
        ([(b"authorization", b"Bearer secret")], True),
        ([(b"authorization", b"Bearer other")], False),
        ([], False),
        ([(b"authorization", b"Bearer secret"), (b"authorization", b"Bearer secret")], False),
    ],
)
async def test_only_the_holder_of_the_token_reaches_the_server(
    headers: list[tuple[bytes, bytes]], reached: bool
) -> None:
    seen: list[str] = []
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError

    await Guarded(app, "secret")({"type": "http", "headers": headers}, receive, send)
    assert bool(seen) is reached
    assert reached or sent[0]["status"] == 401


@pytest.mark.parametrize("command", [["/nothing/such"], [sys.executable, "-c", "pass"]])
def test_a_command_that_is_no_mcp_server_is_told_without_a_traceback(command: list[str]) -> None:
    bridge = [sys.executable, "-m", "controlplane.tools.stdio_bridge", "--", *command]
    with subprocess.Popen(bridge, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(b"token\n")
        process.stdin.flush()
        assert process.wait(60) == 1
        said = process.stderr.read().decode() if process.stderr is not None else ""
    assert ("does not answer as an MCP server" in said, "Traceback" in said) == (True, False), said
