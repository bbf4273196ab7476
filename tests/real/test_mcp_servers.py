"""Unmodified MCP servers from PyPI and npm, over stdio, behind bridge and door, driven by the official client.

Every client era meets every server era: the PyPI server speaks 2026-07-28, those from npm speak 2025-11-25.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

mcp = pytest.importorskip("mcp", reason="the mcp extra is not installed")

from mcp import Client  # noqa: E402
from mcp.client.streamable_http import streamable_http_client  # noqa: E402
from mcp.shared.exceptions import MCPError  # noqa: E402

from tests.real.mcp_parts import RunningGateway, gateway, node_tool  # noqa: E402

MODES = ["auto", "legacy", "2026-07-28"]


@asynccontextmanager
async def connected(
    running: RunningGateway, mode: str, *, server: str, token: str | None = None
) -> AsyncGenerator[Client]:
    headers = {"authorization": f"Bearer {running.token if token is None else token}"}
    url = f"{running.origin}/mcp/{server}"
    async with (
        httpx2.AsyncClient(headers=headers, timeout=60) as http,
        Client(streamable_http_client(url, http_client=http), mode=mode, cache=None) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def time_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    program = shutil.which("mcp-server-time", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("mcp-server-time is not installed")
    entry = {"name": "time", "command": program, "args": ["--local-timezone", "UTC"]}
    folder = tmp_path_factory.mktemp("time")
    with gateway({"stdio_servers": [entry]}, folder, "--deny", "/mcp/time/convert_time") as running:
        yield running


@pytest.fixture(scope="module")
def filesystem_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    folder = tmp_path_factory.mktemp("files")
    (folder / "note.txt").write_text("a note")
    entry = {"name": "files", "command": node_tool("mcp-server-filesystem"), "args": [str(folder)]}
    options = ("--deny", "/mcp/files/write_file")
    with gateway({"stdio_servers": [entry]}, tmp_path_factory.mktemp("gateway"), *options) as running:
        yield running


@pytest.mark.real("mcp-server-time")
@pytest.mark.parametrize("mode", MODES)
async def test_a_modern_server_serves_clients_of_every_era(time_server: RunningGateway, mode: str) -> None:
    async with connected(time_server, mode, server="time") as client:
        assert client.protocol_version == ("2025-11-25" if mode == "legacy" else "2026-07-28")
        tools = await client.list_tools()
        assert [tool.name for tool in tools.tools] == ["get_current_time"]
        result = await client.call_tool("get_current_time", {"timezone": "Europe/Paris"})
        assert not result.is_error
        assert result.structured_content is not None
        assert result.structured_content["timezone"] == "Europe/Paris"


@pytest.mark.real("mcp-server-time")
@pytest.mark.parametrize("mode", MODES)
async def test_a_denied_tool_answers_with_its_reason_and_the_connection_lives_on(
    time_server: RunningGateway, mode: str
) -> None:
    async with connected(time_server, mode, server="time") as client:
        arguments = {"source_timezone": "UTC", "time": "12:00", "target_timezone": "UTC"}
        result = await client.call_tool("convert_time", arguments)
        assert result.is_error
        assert result.content[0].text.startswith("Denied by policy test.denied: rule_denied. decision ")
        assert not (await client.call_tool("get_current_time", {"timezone": "UTC"})).is_error


@pytest.mark.real("mcp-server-time")
@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_forged_token_opens_nothing(time_server: RunningGateway, mode: str) -> None:
    with pytest.raises(BaseExceptionGroup) as caught:
        async with connected(time_server, mode, server="time", token="forged"):
            pass
    assert caught.group_contains(MCPError, match="no valid credential")


@pytest.mark.real("mcp-server-time")
async def test_an_unlisted_server_is_not_found(time_server: RunningGateway) -> None:
    with pytest.raises(BaseExceptionGroup) as caught:
        async with connected(time_server, "auto", server="unlisted"):
            pass
    assert caught.group_contains(MCPError, match="no such MCP server")


@pytest.mark.real("mcp-server-time")
async def test_every_message_is_in_a_ledger_that_verifies(time_server: RunningGateway) -> None:
    async with connected(time_server, "auto", server="time") as client:
        await client.call_tool("get_current_time", {"timezone": "UTC"})
    status, words = time_server.verify_ledger()
    assert status == 0, words


@pytest.mark.real("mcp-server-filesystem")
@pytest.mark.parametrize("mode", MODES)
async def test_an_old_server_serves_clients_of_every_era(filesystem_server: RunningGateway, mode: str) -> None:
    async with connected(filesystem_server, mode, server="files") as client:
        names = {tool.name for tool in (await client.list_tools()).tools}
        assert "read_text_file" in names
        assert "write_file" not in names
        folder = (await client.call_tool("list_allowed_directories", {})).content[0].text.splitlines()[-1]
        result = await client.call_tool("read_text_file", {"path": f"{folder}/note.txt"})
        assert result.content[0].text == "a note"
        refused = await client.call_tool("write_file", {"path": f"{folder}/note.txt", "content": "changed"})
        assert refused.is_error
        assert (Path(folder) / "note.txt").read_text() == "a note"


@pytest.mark.real("mcp-server-filesystem")
@pytest.mark.parametrize("mode", MODES)
async def test_a_servers_own_error_arrives_as_the_server_said_it(filesystem_server: RunningGateway, mode: str) -> None:
    async with connected(filesystem_server, mode, server="files") as client:
        result = await client.call_tool("read_text_file", {"path": "/etc/passwd"})
        assert result.is_error
        assert "outside allowed directories" in result.content[0].text
