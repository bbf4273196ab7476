"""What a model server sees of a call's deadline. Everything else about the backend is in the contract."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from inference.backend import BackendRequest
from inference.tfserving.backend import TfServingBackend
from inference.tfserving.settings import TfServingSettings


@pytest.mark.parametrize("timeout_s", [3.0, 30.0])
async def test_the_server_is_given_the_deadline_of_the_call(timeout_s: float) -> None:
    seen: list[float] = []

    async def handle(body: bytes, context: Any) -> bytes:
        seen.append(context.time_remaining())
        return b""

    handler: Any = grpc.unary_unary_rpc_method_handler(handle)
    server = grpc.aio.server()
    service = grpc.method_handlers_generic_handler("tensorflow.serving.PredictionService", {"Predict": handler})
    server.add_generic_rpc_handlers((service,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    backend = TfServingBackend(TfServingSettings(target=f"127.0.0.1:{port}"))
    request = BackendRequest(call_id="c", target="risk", operation="Predict", timeout_s=timeout_s)
    async with backend.send(request):
        pass
    await backend.aclose()
    await server.stop(None)
    assert timeout_s / 2 < seen[0] <= timeout_s + 1  # gRPC rounds up on the wire
