"""What the agents of the demo do, each through the client that its world already uses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import grpc
import numpy as np
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from numpy.typing import NDArray

from inference.tfserving.predict import decode_predict, encode_predict
from inference.tfserving.wire import METHODS


@dataclass(frozen=True)
class Answer:
    """``status`` 0 means that it worked; otherwise the protocol's own status, and ``text`` says why."""

    status: int | str
    text: str
    call_id: str = ""
    served_by: str = ""
    rung: str = "primary"
    classes: tuple[int, ...] = ()


class GrpcAgent:
    """A TF Serving client: nothing changed but the address and the token."""

    def __init__(self, address: str, token: str) -> None:
        self.channel = grpc.aio.insecure_channel(address)
        self.call = self.channel.unary_unary(METHODS["Predict"].path)
        self.metadata = (("authorization", f"Bearer {token}"),)

    async def predict(self, rows: NDArray[np.float64], model: str = "risk") -> Answer:
        request = encode_predict(model, {"x": rows.astype(np.float32)})
        call = self.call(request, metadata=self.metadata, timeout=60)
        try:
            outputs = decode_predict(await call)
        except grpc.aio.AioRpcError as error:
            told = dict(error.trailing_metadata() or ())
            return Answer(error.code().name, f"{error.details()} {told.get('x-policy-rule', '')}")
        told = dict(await call.trailing_metadata())
        return Answer(
            0,
            "",
            call_id=told["x-call-id"],
            served_by=told["x-served-by"],
            rung=told.get("x-degraded", "primary"),
            classes=tuple(int(each) for each in outputs["probabilities"].argmax(axis=1)),
        )

    async def close(self) -> None:
        await self.channel.close()


class HttpAgent:
    """Plain JSON over HTTP with a bearer token."""

    def __init__(self, url: str, token: str, session: aiohttp.ClientSession) -> None:
        self.url, self.session = url, session
        self.headers = {"authorization": f"Bearer {token}"}

    async def post(self, path: str, document: Any) -> tuple[int, dict[str, Any]]:
        async with self.session.post(self.url + path, json=document, headers=self.headers) as reply:
            return reply.status, json.loads(await reply.read() or b"{}")

    async def get(self, path: str) -> tuple[int, Any]:
        async with self.session.get(self.url + path, headers=self.headers) as reply:
            return reply.status, json.loads(await reply.read() or b"{}")

    async def label(self, call_id: str, labels: Sequence[int]) -> None:
        """Tell what really came of a prediction."""
        outcomes = [{"call_id": call_id, "row": row, "label": int(label)} for row, label in enumerate(labels)]
        status, said = await self.post("/v1/outcomes", {"outcomes": outcomes})
        if status not in (200, 202):
            raise RuntimeError(f"labels were refused: {said}")


async def mcp_tools_and_time(url: str, token: str) -> tuple[list[str], str, str]:
    """Tools listed, the current time, and what a refused call says: the official MCP SDK, unmodified."""
    import httpx2  # noqa: PLC0415  the SDK's own HTTP client

    async with (
        httpx2.AsyncClient(headers={"authorization": f"Bearer {token}"}, timeout=30) as http,
        Client(streamable_http_client(f"{url}/mcp/time", http_client=http)) as client,
    ):
        listed = [tool.name for tool in (await client.list_tools()).tools]
        now = await client.call_tool("get_current_time", {"timezone": "Europe/Oslo"})
        wish = {"source_timezone": "UTC", "time": "12:00", "target_timezone": "Asia/Tokyo"}
        refused = await client.call_tool("convert_time", wish)
        return listed, _text(now), _text(refused)


def _text(result: Any) -> str:
    return " ".join(part.text for part in result.content if part.type == "text")
