"""What stands behind the gateway in the matrix: one HTTP server and one gRPC server that remember what reached them.

Fakes over real sockets, so that the gateway's own clients, timeouts and hang-ups are the real ones.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any, Self

import grpc
import numpy as np
from aiohttp import web

from examples.demo.parts import free_port
from inference.tfserving import wire
from inference.tfserving.tensors import write

FLOAT = 1  # TensorFlow's code of the type
CHAT_PIECES = ('{"id":"1","choices":[{"index":0,"delta":{"content":"hel"}}]}', "[DONE]")
RESPONSE_PIECES = ('{"delta":"hel","type":"response.output_text.delta"}', '{"type":"response.completed"}')
MESSAGE_PIECES = ('{"type":"content_block_delta","delta":{"text":"hel"}}', '{"type":"message_stop"}')
PIECES = {"/v1/responses": RESPONSE_PIECES, "/v1/messages": MESSAGE_PIECES}
USAGE = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
ANSWERS: dict[str, Any] = {
    "/v1/chat/completions": {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}}],
        "usage": USAGE,
    },
    "/v1/completions": {"object": "text_completion", "choices": [{"index": 0, "text": "hello"}], "usage": USAGE},
    "/v1/embeddings": {"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}]},
    "/v1/responses": {"object": "response", "output": [], "usage": {"input_tokens": 3, "output_tokens": 1}},
    "/v1/rerank": {"results": [{"index": 0, "relevance_score": 0.5}], "usage": {"prompt_tokens": 3}},
    "/v1/score": {"object": "list", "data": [{"index": 0, "score": 0.5}], "usage": {"prompt_tokens": 3}},
    "/v1/messages": {"type": "message", "content": [], "usage": {"input_tokens": 3, "output_tokens": 1}},
    "/v1/messages/count_tokens": {"input_tokens": 3},
    "/refund": {"done": True},
}


@dataclass
class Upstream:
    """``mode``: ``ok`` answers, ``hang`` never does, ``half`` sends a first piece and no second one, ``wait`` answers
    after ``go``.

    ``calls`` is what arrived for an agent, ``questions`` what the gateway asked on its own account: which versions
    there are, which signatures they have. ``left`` is set when a caller hung up before its answer was complete.
    """

    mode: str = "ok"
    calls: list[str] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    greeted: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)
    http_port: int = 0
    grpc_port: int = 0

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self._http)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.http_port = self._runner.addresses[0][1]
        self._grpc = grpc.aio.server()
        self._grpc.add_generic_rpc_handlers((_AnyMethod(self),))
        self.grpc_port = self._grpc.add_insecure_port("127.0.0.1:0")
        await self._grpc.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._grpc.stop(None)
        await self._runner.cleanup()

    async def _arrives(self, what: str) -> None:
        self.calls.append(what)
        self.arrived.set()
        if self.mode == "hang":
            await asyncio.Event().wait()
        if self.mode == "wait":
            await self.go.wait()

    async def _http(self, request: web.Request) -> web.StreamResponse:
        document = json.loads(await request.text() or "{}")
        try:
            await self._arrives(request.path)
            if document.get("stream"):
                return await self._pieces(
                    request, "text/event-stream", *map(_event, PIECES.get(request.path, CHAT_PIECES))
                )
            if self.mode == "half":
                kind = "text/event-stream" if request.path == "/mcp" else "application/json"
                return await self._pieces(request, kind, b": begun\n\n" if request.path == "/mcp" else b"{", b"}")
        except asyncio.CancelledError:
            self.left.set()
            raise
        return web.json_response(_mcp_answer(document) if request.path == "/mcp" else ANSWERS[request.path])

    async def _pieces(self, request: web.Request, kind: str, first: bytes, second: bytes) -> web.StreamResponse:
        reply = web.StreamResponse(headers={"content-type": kind})
        await reply.prepare(request)
        await reply.write(first)
        if self.mode == "half":
            await asyncio.Event().wait()
        await reply.write(second)
        await reply.write_eof()
        return reply

    async def rpc(self, operation: str) -> bytes:
        if operation == "GetModelMetadata" or (operation == "GetModelStatus" and not self.greeted.is_set()):
            self.questions.append(operation)
            self.greeted.set()
        else:
            try:
                await self._arrives(operation)
            except asyncio.CancelledError:
                self.left.set()
                raise
        return bytes(RPC_ANSWERS[operation]().SerializeToString())


class _AnyMethod(grpc.GenericRpcHandler):
    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        operation = details.method.rpartition("/")[2]

        async def handle(_body: bytes, _context: Any) -> bytes:
            return await self.upstream.rpc(operation)

        return grpc.unary_unary_rpc_method_handler(handle)


def _event(data: str) -> bytes:
    return f"data: {data}\n\n".encode()


def _mcp_answer(message: dict[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {"content": [{"type": "text", "text": "12:00"}]}
    if message["method"] == "tools/list":
        result = {"tools": [{"name": "now", "inputSchema": {"type": "object"}}]}
    return {"jsonrpc": "2.0", "id": message["id"], "result": result | {"resultType": "complete"}}


def _prediction() -> Any:
    answer = wire.PredictResponse()
    answer.model_spec.name, answer.model_spec.version.value = "risk", 1
    write(np.array([[0.25, 0.75]], np.float32), answer.outputs["probabilities"])
    return answer


def _metadata() -> Any:
    answer, signatures = wire.GetModelMetadataResponse(), wire.SignatureDefMap()
    answer.model_spec.name, answer.model_spec.version.value = "risk", 1
    signature = signatures.signature_def[wire.DEFAULT_SIGNATURE]
    signature.method_name = "tensorflow/serving/predict"
    signature.inputs["x"].dtype = FLOAT
    signature.inputs["x"].tensor_shape.unknown_rank = True
    answer.metadata[wire.SIGNATURE_DEF].value = signatures.SerializeToString()
    return answer


def _status() -> Any:
    answer = wire.GetModelStatusResponse()
    answer.model_version_status.add(version=1, state=wire.State.AVAILABLE)
    return answer


RPC_ANSWERS = {"Predict": _prediction, "GetModelMetadata": _metadata, "GetModelStatus": _status}


def closed_port() -> int:
    """A port on which nobody listens, another one each time."""
    return free_port()
