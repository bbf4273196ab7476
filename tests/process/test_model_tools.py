"""A model as a tool, through the official MCP and OpenAI SDKs: a real SavedModel behind the whole gateway."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from controlplane.settings import Settings
from controlplane.wiring import ControlPlane
from tests.matrix.upstreams import Upstream
from tests.matrix.world import World, listening, until
from tests.unit.controlplane.rig import ModelServer, publish

ROWS = [[0.5, -1.0], [2.0, 0.25]]


@dataclass
class Running:
    url: str
    plane: ControlPlane
    tokens: dict[str, str]


@pytest.fixture(scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    folder = tmp_path_factory.mktemp("tools")
    publish(folder / "models/risk", 1)
    server = ModelServer(folder / "models")
    await server.start()
    async with Upstream() as upstream:
        world = World(folder, upstream)
        world.build()
        document = world.document()
        document["backends"]["tfs"] |= {"target": f"127.0.0.1:{server.port}"}
        document["backends"]["tfs"]["models"] = {"risk": str(folder / "models/risk")}
        async with ControlPlane(Settings.model_validate(document)) as plane, listening(plane.app) as port:
            await until(lambda: plane.fleet.known("risk") is not None)
            yield Running(f"http://127.0.0.1:{port}", plane, world.tokens)
    await server.stop()


@asynccontextmanager
async def connected(running: Running, mode: str, token: str) -> AsyncIterator[Client]:
    headers = {"authorization": f"Bearer {running.tokens[token]}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=60) as http,
        Client(streamable_http_client(f"{running.url}/mcp/models", http_client=http), mode=mode, cache=None) as client,
    ):
        yield client


async def asked(running: Running, method: str, path: str, body: Any = None, token: str = "good") -> tuple[int, Any]:
    headers = {"authorization": f"Bearer {running.tokens[token]}"}
    data = body if body is None or isinstance(body, str) else json.dumps(body)
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.request(method, running.url + path, data=data) as answer,
    ):
        return answer.status, json.loads(await answer.read() or b"null")


async def predicted(running: Running) -> Any:
    """What TF Serving's own face says of the same rows."""
    _, told = await asked(running, "POST", "/v1/models/risk:predict", {"inputs": ROWS})
    return told["outputs"]


@pytest.mark.parametrize("mode", ["legacy", "auto", "2026-07-28"])
async def test_a_model_is_a_tool_with_the_inputs_of_its_signature(gateway: Running, mode: str) -> None:
    async with connected(gateway, mode, "good") as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        schema = tools["risk"].input_schema
        assert set(schema["required"]) == set(schema["properties"])
        (name,) = schema["properties"]
        rows = schema["properties"][name]["items"]
        assert (rows["minItems"], rows["items"]["type"]) == (2, "number")
        answer = await client.call_tool("risk", {name: ROWS})
    assert not answer.is_error
    assert answer.structured_content["outputs"] == await predicted(gateway)


async def test_the_call_stands_in_the_ledger_as_a_call_to_the_model(gateway: Running) -> None:
    before = gateway.plane.ledger.head.size
    async with connected(gateway, "auto", "good") as client:
        await client.call_tool("risk", {"x": ROWS})
    actions = [one.body["action"] for one in gateway.plane.ledger.read(after=before - 1, kinds=["intent"])]
    (call,) = [action for action in actions if action["kind"] == "infer"]
    assert (call["name"], call["operation"], call["protocol"]) == ("/model/risk", "Predict", "mcp.models")


async def test_arguments_that_do_not_fit_are_told_to_the_model_and_reach_nobody(gateway: Running) -> None:
    before = gateway.plane.ledger.head.size
    async with connected(gateway, "auto", "good") as client:
        await client.list_tools()
        told = [await client.call_tool("risk", wrong) for wrong in ({}, {"x": [["a", 1]]}, {"x": [[1.0]]}, {"y": ROWS})]
        told.append(await client.call_tool("nobody", {}))
    assert all(one.is_error for one in told)
    actions = [one.body["action"] for one in gateway.plane.ledger.read(after=before - 1, kinds=["intent"])]
    assert [action["name"] for action in actions if action["kind"] == "infer"] == ["/model/nobody"]


async def test_who_may_not_call_the_model_neither_sees_nor_calls_the_tool(gateway: Running) -> None:
    status, told = await asked(gateway, "GET", "/v1/functions", token="denied")
    assert (status, told["error"]["code"]) == (403, "rule_denied")
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "risk", "arguments": {"x": ROWS}}}
    status, told = await asked(gateway, "POST", "/mcp/models", call, token="denied")
    assert (status, told["result"]["isError"]) == (200, True)
    assert "rule_denied" in told["result"]["content"][0]["text"]


async def test_functions_go_into_a_chat_and_their_arguments_come_back(gateway: Running) -> None:
    status, told = await asked(gateway, "GET", "/v1/functions")
    functions = {one["function"]["name"]: one for one in told["data"]}
    assert (status, functions["risk"]["type"]) == (200, "function")
    (name,) = functions["risk"]["function"]["parameters"]["properties"]
    status, answer = await asked(gateway, "POST", "/v1/functions/risk", {name: ROWS})
    assert (status, answer["outputs"]) == (200, await predicted(gateway))


async def test_a_language_model_is_a_function_of_a_prompt(gateway: Running) -> None:
    _, told = await asked(gateway, "GET", "/v1/functions")
    tiny = next(one["function"] for one in told["data"] if one["function"]["name"] == "tiny")
    assert tiny["parameters"]["required"] == ["prompt"]
    status, answer = await asked(gateway, "POST", "/v1/functions/tiny", {"prompt": "hi", "max_tokens": 4})
    assert status == 200
    assert set(answer) == {"text"}


@pytest.mark.parametrize(
    ("name", "body", "status", "code"),
    [
        ("nothing", {}, 404, "not_found"),
        ("no%20name", {}, 400, "invalid_name"),
        ("risk", {"x": [[1.0]]}, 400, "invalid_arguments"),
        ("risk", {"x": ROWS, "signature_name": "no"}, 400, "invalid_arguments"),
        ("tiny", {}, 400, "invalid_arguments"),
        ("tiny", {"prompt": 3}, 400, "invalid_arguments"),
        ("tiny", {"prompt": "a", "max_tokens": 0}, 400, "invalid_arguments"),
        ("tiny", {"prompt": "a", "tools": []}, 400, "invalid_arguments"),
        ("risk", "[1]", 400, "invalid_body"),
        ("risk", '{"x": 1, "x": 2}', 400, "ambiguous_body"),
    ],
)
async def test_what_cannot_be_a_call_is_refused_with_a_word(
    gateway: Running, name: str, body: Any, status: int, code: str
) -> None:
    told = await asked(gateway, "POST", f"/v1/functions/{name}", body)
    assert (told[0], told[1]["error"]["code"]) == (status, code)


async def test_there_are_neither_streams_nor_other_methods(gateway: Running) -> None:
    status, told = await asked(gateway, "GET", "/mcp/models")
    assert (status, told["error"]["data"]["reason"]) == (405, "method")
    status, told = await asked(gateway, "POST", "/mcp/models", {"jsonrpc": "2.0", "id": 1, "method": "resources/list"})
    assert (status, told["error"]["code"]) == (200, -32601)


async def test_a_notification_has_no_answer(gateway: Running) -> None:
    said = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    assert await asked(gateway, "POST", "/mcp/models", said) == (202, None)
