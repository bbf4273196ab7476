"""How each door is spoken to: one good request in its protocol, and how its answers are read. No other file knows both.

A refusal must have the protocol's own error shape, or reading it fails.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import grpc
import numpy as np

from inference.tfserving.predict import decode_predict, encode_predict
from inference.tfserving.wire import METHODS
from tests.matrix.world import JUDGED, PATIENCE_S, Gate

MODERN = "2026-07-28"
META = {"io.modelcontextprotocol/protocolVersion": MODERN, "io.modelcontextprotocol/clientCapabilities": {}}
JSON_RPC_DENIED = 403_001
OPENAI_TYPES = {401: "authentication_error", 403: "permission_error"}
ANTHROPIC_TYPES = {**OPENAI_TYPES, 502: "api_error", 503: "overloaded_error", 504: "timeout_error"}


@dataclass(frozen=True)
class Answer:
    """``status`` is HTTP's or gRPC's. ``reason`` is "" for a call that was done; ``receipt`` is the event id named."""

    status: int | str
    reason: str = ""
    receipt: str = ""
    rules: tuple[str, ...] = ()
    challenge: str = ""
    retry_after: str = ""


@dataclass(frozen=True)
class Over:
    """A door over HTTP. ``reaches`` is what the upstream remembers of a good call, "" for a door without one.

    ``begins_early``: a reply's head comes before the reply is whole. ``called`` is what the ledger says, where one path
    is shared by two doors. ``down`` and ``hangs`` are the reasons of an upstream in that state.
    """

    name: str
    door: str
    method: str
    path: str
    read: Callable[[int, Any], tuple[str, Mapping[str, Any]]]
    reaches: str = ""
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    is_good: Callable[[Any], bool] = bool
    down: str = "connect_failed"
    hangs: str = "deadline"
    denied_status: int | str = 403
    begins_early: bool = False
    called: str = ""
    read_stranger: Callable[[int, Any], tuple[str, Mapping[str, Any]]] | None = None
    strangers_status: int | str = 401
    unrecorded_status: int | str = 503
    timeout_status: int | str = 504

    @property
    def records_as(self) -> str:
        return self.called or self.door

    @property
    def raw_body(self) -> bytes:
        return b"" if self.body is None else json.dumps(self.body).encode()

    def all_headers(self, token: str) -> dict[str, str]:
        authorization = {"authorization": f"Bearer {token}"} if token else {}
        return {"content-type": "application/json", **self.headers, **authorization}

    @asynccontextmanager
    async def open(self, gate: Gate, token: str) -> AsyncGenerator[aiohttp.ClientResponse]:
        headers = self.all_headers(token)
        async with (
            aiohttp.ClientSession() as session,
            session.request(self.method, gate.url + self.path, data=self.raw_body, headers=headers) as response,
        ):
            yield response

    async def ask(self, gate: Gate, token: str) -> Answer:
        async with self.open(gate, token) as response:
            document = _document(response.content_type, await response.text())
            read = (response.status == 401 and self.read_stranger) or self.read
            reason, facts = read(response.status, document)
            if not reason:
                assert self.is_good(document), document
            told = response.headers.get("x-audit-receipt", " ").split(" ")[1]
            assert not reason or facts.get("decision_id", told) == told
            return Answer(
                response.status,
                reason,
                facts.get("decision_id", told),
                tuple(rule["id"] for rule in facts.get("rules", ())),
                response.headers.get("www-authenticate", ""),
                response.headers.get("retry-after", ""),
            )

    async def leave(self, gate: Gate, token: str) -> None:
        """Ask, and hang up when the upstream has been reached."""

        async def asking() -> None:
            async with self.open(gate, token) as response:
                await response.read()

        await _leave(asking(), gate)


@dataclass(frozen=True)
class OverGrpc:
    name: str = "tfserving.grpc"
    door: str = "tfserving.grpc"
    records_as: str = "tfserving.grpc"
    reaches: str = "Predict"
    down: str = "unavailable"
    hangs: str = "deadline_exceeded"
    denied_status: int | str = "PERMISSION_DENIED"
    strangers_status: int | str = "UNAUTHENTICATED"
    unrecorded_status: int | str = "UNAVAILABLE"
    timeout_status: int | str = "DEADLINE_EXCEEDED"
    begins_early: bool = False

    async def ask(self, gate: Gate, token: str) -> Answer:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{gate.plane.grpc_port}") as channel:
            call = _predict(channel, token)
            try:
                assert decode_predict(await call)["probabilities"].tolist() == [[0.25, 0.75]]
            except grpc.aio.AioRpcError as error:
                told = error.trailing_metadata() or ()
                facts = {str(name): str(value) for name, value in told}
                rules = tuple(str(value).partition(" ")[0] for name, value in told if name == "x-policy-rule")
                receipt = facts.get("x-audit-receipt", " ").split(" ")[1]
                retry_after = facts.get("retry-after", "")
                return Answer(error.code().name, facts["x-reason"], receipt, rules=rules, retry_after=retry_after)
            told = await call.trailing_metadata() or ()
            return Answer("OK", receipt=str(dict(told)["x-call-id"]))

    async def leave(self, gate: Gate, token: str) -> None:
        async def asking() -> None:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{gate.plane.grpc_port}") as channel:
                await _predict(channel, token)

        await _leave(asking(), gate)


Driver = Over | OverGrpc


async def _leave(asking: Any, gate: Gate) -> None:
    task = asyncio.ensure_future(asking)
    arrived = asyncio.ensure_future(gate.world.upstream.arrived.wait())
    await asyncio.wait([task, arrived], return_when=asyncio.FIRST_COMPLETED, timeout=PATIENCE_S)
    assert not task.done(), "answered, although the upstream hangs"
    task.cancel()
    await asyncio.wait([task])


def _predict(channel: Any, token: str) -> Any:
    rows = encode_predict("risk", {"x": np.array([[1.0, 2.0]], np.float32)})
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    return channel.unary_unary(METHODS["Predict"].path)(rows, metadata=metadata)


def _document(kind: str, text: str) -> Any:
    if kind != "text/event-stream":
        assert kind in {"application/json", "application/problem+json"}, (kind, text)
        return json.loads(text)
    events = [event.rpartition("data: ")[2] for event in text.split("\n\n") if "data: " in event]
    if events[-1] == "[DONE]":
        return [json.loads(event) for event in events[:-1]]
    told = [json.loads(event) for event in events]
    assert told[-1]["type"] in {"response.completed", "message_stop"}
    return told


def openai(status: int, document: Any) -> tuple[str, Mapping[str, Any]]:
    """``{"error": {message, type, param, code}}``: what the official SDK makes its exceptions of."""
    if status == 200:
        return "", {}
    error = document["error"]
    assert error["type"] == OPENAI_TYPES.get(status, "server_error")
    assert error["message"]
    assert "param" in error
    return error["code"], error


def anthropic(status: int, document: Any) -> tuple[str, Mapping[str, Any]]:
    """``{"type": "error", "error": {type, message}}``: what the official SDK makes its exceptions of."""
    if status == 200:
        return "", {}
    assert document["type"] == "error"
    error = document["error"]
    assert error["type"] == ANTHROPIC_TYPES[status]
    assert error["message"]
    return error["code"], error


def tfserving(status: int, document: Any) -> tuple[str, Mapping[str, Any]]:
    if status == 200:
        return "", {}
    assert document["error"]
    return document["reason"], document


def problem(status: int, document: Any) -> tuple[str, Mapping[str, Any]]:
    """RFC 9457."""
    if status == 200:
        return "", {}
    assert document["status"] == status
    assert document["type"].startswith("urn:controlplane:")
    assert document["title"]
    return document["reason"], document


def hub(status: int, document: Any) -> tuple[str, Mapping[str, Any]]:
    """The Hugging Face hub's: what its client shows is in ``error``."""
    if status == 200:
        return "", {}
    assert document["error"]
    return document["reason"], document


def mcp(status: int, document: Any) -> tuple[str, Mapping[str, Any]]:
    """A refused tool call is a result; everything else that is refused is a JSON-RPC error."""
    if "error" in document:
        assert document["jsonrpc"] == "2.0"
        error = document["error"]
        assert error["code"] == (JSON_RPC_DENIED if status == 200 else status * 1000 + 1)
        return error["data"]["reason"], error["data"]
    assert status == 200
    assert document["id"] == 7
    result = document["result"]
    if not result.get("isError"):
        return "", {}
    facts = result["_meta"]["io.agent-controlplane/decision"]
    assert facts["reason"] in result["content"][0]["text"]
    return facts["reason"], facts


def modern_mcp(status: int, document: Any) -> tuple[str, Mapping[str, Any]]:
    assert "error" in document or document["result"]["resultType"] == "complete"
    return mcp(status, document)


MESSAGES = [{"role": "user", "content": "hi"}]
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
TOOL = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": "now", "arguments": {}}}
MODERN_TOOL = {**TOOL, "params": {"name": "now", "arguments": {}, "_meta": META}}
BOTH = {"accept": "application/json, text/event-stream"}
LEGACY_HEADERS = {**BOTH, "mcp-protocol-version": "2025-11-25"}
MODERN_HEADERS = {**BOTH, "mcp-protocol-version": MODERN, "mcp-method": "tools/call", "mcp-name": "now"}
FETCHED: dict[str, Any] = {"down": "unreachable", "hangs": "timeout", "begins_early": True}
OF_RPC: dict[str, Any] = {"down": "unavailable", "hangs": "deadline_exceeded"}


def _openai(name: str, path: str, **body: Any) -> Over:
    """Under another path than its first, a door still asks the server under the first."""
    aliases = {"/rerank": "/v1/rerank", "/score": "/v1/score"}
    return Over(
        name,
        name.partition(", ")[0],
        "POST",
        path,
        anthropic if name.startswith("anthropic") else openai,
        reaches=aliases.get(path, path),
        body={"model": "tiny", **body},
        begins_early=bool(body.get("stream")),
    )


def _mcp(name: str, read: Any, body: Any, headers: Mapping[str, str], denied_status: int) -> Over:
    return Over(name, "mcp", "POST", "/mcp/clock", read, "/mcp", body, headers, denied_status=denied_status, **FETCHED)


DRIVERS: list[Driver] = [
    _openai("openai.chat", CHAT, messages=MESSAGES),
    _openai("openai.chat, streamed", CHAT, messages=MESSAGES, stream=True),
    _openai("openai.completions", COMPLETIONS, prompt="hi"),
    _openai("openai.completions, streamed", COMPLETIONS, prompt="hi", stream=True),
    _openai("openai.responses", "/v1/responses", input="hi"),
    _openai("openai.responses, streamed", "/v1/responses", input="hi", stream=True),
    _openai("openai.embeddings", "/v1/embeddings", input="hi"),
    _openai("openai.rerank", "/v1/rerank", query="hi", documents=["ho"]),
    _openai("openai.rerank, as vLLM calls it", "/rerank", query="hi", documents=["ho"]),
    _openai("openai.score", "/score", queries="hi", documents=["ho"]),
    _openai("anthropic.messages", "/v1/messages", messages=MESSAGES, max_tokens=5),
    _openai("anthropic.messages, streamed", "/v1/messages", messages=MESSAGES, max_tokens=5, stream=True),
    _openai("anthropic.count_tokens", "/v1/messages/count_tokens", messages=MESSAGES),
    Over(
        "openai.models",
        "openai.models",
        "GET",
        "/v1/models",
        openai,
        is_good=lambda told: [one["id"] for one in told["data"]] == ["risk", "tiny"],
    ),
    Over(
        "models.shared, a language model",
        "models.shared",
        "GET",
        "/v1/models/tiny",
        openai,
        called="openai.model",
        is_good=lambda told: told["id"] == "tiny",
    ),
    Over(
        "models.shared, TF Serving's",
        "models.shared",
        "GET",
        "/v1/models/risk",
        tfserving,
        "GetModelStatus",
        called="tfserving.rest",
        read_stranger=openai,  # who is not known here is not told which models there are
        is_good=lambda told: told["model_version_status"][0]["state"] == "AVAILABLE",
        **OF_RPC,
    ),
    _mcp("mcp, legacy", mcp, TOOL, LEGACY_HEADERS, 200),
    _mcp("mcp, modern", modern_mcp, MODERN_TOOL, MODERN_HEADERS, 200),
    _mcp("mcp, a list", mcp, {"jsonrpc": "2.0", "id": 7, "method": "tools/list"}, LEGACY_HEADERS, 200),
    Over(
        "mcp.models, a call",
        "mcp.models",
        "POST",
        "/mcp/models",
        mcp,
        CHAT,
        {**TOOL, "params": {"name": "tiny", "arguments": {"prompt": "hi"}}},
        LEGACY_HEADERS,
        denied_status=200,
    ),
    Over(
        "mcp.models, a list",
        "mcp.models",
        "POST",
        "/mcp/models",
        mcp,
        body={"jsonrpc": "2.0", "id": 7, "method": "tools/list"},
        headers=LEGACY_HEADERS,
        denied_status=200,
    ),
    Over(
        "openai.functions, a call",
        "openai.functions",
        "POST",
        "/v1/functions/tiny",
        openai,
        CHAT,
        {"prompt": "hi"},
        is_good=lambda told: told == {"text": "hello"},
    ),
    Over("openai.functions, a list", "openai.functions", "GET", "/v1/functions", openai),
    Over("tools", "tools", "POST", "/tools/refund", problem, "/refund", {"amount": 5}, **FETCHED),
    Over(
        "feedback",
        "feedback",
        "POST",
        "/v1/feedback",
        problem,
        body={"call_id": JUDGED, "correct": True},
        is_good=lambda told: (told["model"], told["score"]) == ("tiny", 1.0),
    ),
    Over(
        "huggingface.models",
        "huggingface.models",
        "GET",
        "/huggingface/api/models",
        hub,
        is_good=lambda told: [one["id"] for one in told] == ["test/risk", "test/tiny"],
    ),
    Over(
        "huggingface.model",
        "huggingface.model",
        "GET",
        "/api/models/test/tiny",
        hub,
        is_good=lambda told: told["id"] == "test/tiny",
    ),
    Over(
        "tfserving.rest",
        "tfserving.rest",
        "POST",
        "/v1/models/risk:predict",
        tfserving,
        "Predict",
        {"instances": [[1.0, 2.0]]},
        is_good=lambda told: told == {"predictions": [[0.25, 0.75]]},
        **OF_RPC,
    ),
    OverGrpc(),
]
