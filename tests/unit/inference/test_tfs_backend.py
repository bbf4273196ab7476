"""A call's deadline and its size. Everything else about the backend is in the contract."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from inference.backend import BackendRequest
from inference.errors import BackendBroke, BackendError, BackendRejected
from inference.tfserving.backend import TfServingBackend
from inference.tfserving.settings import TfServingSettings


@asynccontextmanager
async def serving(handle: Callable[[bytes, Any], Awaitable[bytes]], **options: int) -> AsyncIterator[str]:
    handler: Any = grpc.unary_unary_rpc_method_handler(handle)
    server = grpc.aio.server(options=[(f"grpc.{name}", value) for name, value in options.items()])
    service = grpc.method_handlers_generic_handler("tensorflow.serving.PredictionService", {"Predict": handler})
    server.add_generic_rpc_handlers((service,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


@pytest.mark.parametrize("timeout_s", [3.0, 30.0])
async def test_the_server_is_given_the_deadline_of_the_call(timeout_s: float) -> None:
    seen: list[float] = []

    async def handle(body: bytes, context: Any) -> bytes:
        seen.append(context.time_remaining())
        return b""

    async with serving(handle) as target:
        backend = TfServingBackend(TfServingSettings(target=target))
        request = BackendRequest(call_id="c", target="risk", operation="Predict", timeout_s=timeout_s)
        async with backend.send(request):
            pass
        await backend.aclose()
    assert timeout_s / 2 < seen[0] <= timeout_s + 1  # gRPC rounds up on the wire


@pytest.mark.parametrize(
    ("ours", "asked", "error"),
    [
        (10_000, 100, BackendBroke("reply_too_large")),
        (10_000, 20_000, BackendRejected("request_too_large")),
        (100_000, 20_000, BackendRejected("request_too_large")),
    ],
)
async def test_a_message_that_is_too_large_is_no_sign_of_a_busy_server(
    ours: int, asked: int, error: BackendError
) -> None:
    async def handle(body: bytes, context: Any) -> bytes:
        return b"x" * 50_000

    async with serving(handle, max_receive_message_length=15_000) as target:
        backend = TfServingBackend(TfServingSettings(target=target, max_message_bytes=ours))
        with pytest.raises(type(error)) as caught:
            await backend.call("Predict", b"x" * asked, 20.0)
        await backend.aclose()
    assert caught.value.reason == error.reason
