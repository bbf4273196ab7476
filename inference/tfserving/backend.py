"""A ``Backend`` that speaks TF Serving's gRPC: serialized message in, serialized message out.

The model spec in the message is rewritten to what the request says, so that what was decided is what is called. Never
retries, and turns gRPC's own retrying off.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from inference.backend import BackendReply, BackendRequest
from inference.errors import BackendBroke, BackendError, BackendRejected, BackendTimeout, BackendUnavailable
from inference.tfserving import wire
from inference.tfserving.settings import TfServingSettings
from inference.whole import Whole

REJECTED = frozenset({"INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "OUT_OF_RANGE", "UNIMPLEMENTED"})
UNAVAILABLE = frozenset({"UNAVAILABLE", "RESOURCE_EXHAUSTED", "UNAUTHENTICATED", "PERMISSION_DENIED"})
TOO_LARGE, ANSWERED_TOO_LARGE = "message larger than max", "CLIENT: Received message larger than max"
"""gRPC's words for a message beyond a limit, its own code for which is that of a server without room."""

OPERATIONS = frozenset(wire.METHODS) - {wire.RELOAD}


class TfServingBackend:
    """One model server. The channel opens at the first call and is shared by all; ``aclose`` when done."""

    def __init__(self, settings: TfServingSettings) -> None:
        self.settings = settings
        self._channel: Any = None
        self._calls: dict[str, Any] = {}

    @asynccontextmanager
    async def send(self, request: BackendRequest) -> AsyncGenerator[BackendReply]:
        if request.operation not in OPERATIONS:
            raise BackendRejected("unsupported_operation", f"no {request.operation!r} on a TF Serving backend")
        body = _addressed(request)
        answer = await self.call(request.operation, body, request.timeout_s)
        yield BackendReply(status=200, headers=(), chunks=Whole(answer), served_by=_served_by(request, answer))

    async def call(self, operation: str, body: bytes, timeout_s: float) -> bytes:
        """One RPC with the message as it is. Cancelled with the caller. Raises ``BackendError`` and its family."""
        call = self._method(operation)(body, timeout=timeout_s)
        try:
            return bytes(await call)
        except grpc.RpcError as error:
            raise _translated(error) from error
        finally:
            call.cancel()

    async def aclose(self) -> None:
        channel, self._channel, self._calls = self._channel, None, {}
        if channel is not None:
            await channel.close()

    def _method(self, operation: str) -> Any:
        if self._channel is None:
            self._channel = _open(self.settings)
        if operation not in self._calls:
            self._calls[operation] = self._channel.unary_unary(wire.METHODS[operation].path)
        return self._calls[operation]


def _open(settings: TfServingSettings) -> Any:
    reconnect_ms = int(settings.reconnect_s * 1000)
    options = [
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", settings.max_message_bytes),
        ("grpc.enable_retries", 0),
        ("grpc.enable_http_proxy", 0),  # model servers are near; a proxy from the environment is never meant
        ("grpc.initial_reconnect_backoff_ms", min(100, reconnect_ms)),
        ("grpc.min_reconnect_backoff_ms", reconnect_ms),
        ("grpc.max_reconnect_backoff_ms", reconnect_ms),
        ("grpc.use_local_subchannel_pool", 1),  # closing one backend must not depend on another's connection
    ]
    if not settings.tls:
        return grpc.aio.insecure_channel(settings.target, options)
    roots = settings.ca_file.read_bytes() if settings.ca_file else None
    return grpc.aio.secure_channel(settings.target, grpc.ssl_channel_credentials(roots), options)


def _addressed(request: BackendRequest) -> bytes:
    """The body with the request's model, version or label in its model spec (in each of them where there are tasks).

    Where the request names neither version nor label, the body's own choice stands if it was made for that model.
    """
    version = request.version or None  # 0 is "whatever is served" here as well

    def address(spec: Any) -> None:
        same = spec.name == request.target
        own_version, own_label = wire.version_of(spec) if same else None, wire.label_of(spec) if same else None
        spec.name = request.target
        spec.ClearField("version")
        spec.ClearField("version_label")
        if version is not None or request.label is not None:
            own_version, own_label = version, None if version is not None else request.label
        if own_label is not None:
            spec.version_label = own_label
        elif own_version is not None:
            spec.version.value = own_version

    try:
        return wire.readdressed(wire.METHODS[request.operation], request.body, address)
    except wire.WireError as error:
        raise BackendRejected("invalid_argument", str(error)) from error


def _served_by(request: BackendRequest, answer: bytes) -> str:
    try:
        spec = wire.answered_spec(wire.METHODS[request.operation], answer)
    except wire.WireError as error:
        raise BackendBroke("invalid_answer", str(error)) from error
    version = None if spec is None else wire.version_of(spec)
    return request.target if version is None else f"{request.target}/{version}"


def _translated(error: grpc.RpcError) -> BackendError:
    code, detail = error.code(), error.details() or ""
    reason = code.name.lower()
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return BackendTimeout(reason, detail)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and TOO_LARGE in detail:
        is_reply = ANSWERED_TOO_LARGE in detail
        return BackendBroke("reply_too_large", detail) if is_reply else BackendRejected("request_too_large", detail)
    if code.name in REJECTED:
        return BackendRejected(reason, detail)
    if code.name in UNAVAILABLE:
        return BackendUnavailable(reason, detail)
    return BackendBroke(reason, detail)
