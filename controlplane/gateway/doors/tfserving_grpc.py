"""TF Serving's gRPC face on a port of its own: bytes in, the same gateway, bytes out.

Existing clients change the address and add ``authorization: Bearer …`` to their metadata. A client's deadline becomes
the call's; a client that cancels ends the call upstream. A reload of the configuration is decided and recorded like any
call, and refused even to those who may: see ``ReloadRefused``.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc

from controlplane.calls import Call
from controlplane.gateway.doors.tfserving_call import call_of
from controlplane.gateway.edge import Refused
from controlplane.gateway.gateway import Admission, Gateway
from controlplane.gateway.problems import Problem, problem_for
from inference.backend import FRESH_RUNGS, BackendReply
from inference.tfserving import wire

log = logging.getLogger(__name__)

Code = grpc.StatusCode
Metadata = tuple[tuple[str, str], ...]

KINDS: dict[str, grpc.StatusCode] = {
    "bad-request": Code.INVALID_ARGUMENT,
    "unauthenticated": Code.UNAUTHENTICATED,
    "identity": Code.UNAVAILABLE,
    "denied": Code.PERMISSION_DENIED,
    "step-up": Code.UNAUTHENTICATED,
    "busy": Code.RESOURCE_EXHAUSTED,
    "ledger": Code.UNAVAILABLE,
    "backend-rejected": Code.INVALID_ARGUMENT,
    "backend-timeout": Code.DEADLINE_EXCEEDED,
    "backend-unavailable": Code.UNAVAILABLE,
    "backend": Code.INTERNAL,
}
"""The kind of a problem as a status code; INTERNAL for what is not named here."""

PASSED_ON = frozenset({"invalid_argument", "not_found", "failed_precondition", "out_of_range", "unimplemented"})
"""The model server's own codes that mean the same to the caller as they meant to us."""


class TfServingGrpc:
    """The server; ``start`` returns the port that it got, ``stop`` lets running calls finish first."""

    name = "tfserving.grpc"

    def __init__(
        self,
        gateway: Gateway,
        refused: Refused,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        body_limit_bytes: int = 4 * 1024 * 1024,
    ) -> None:
        self.gateway, self.refused = gateway, refused
        self.host, self.port, self.body_limit_bytes = host, port, body_limit_bytes
        self._server: Any = None

    async def start(self) -> int:
        """Raises ``RuntimeError`` when the address cannot be bound."""
        options = [
            ("grpc.max_receive_message_length", self.body_limit_bytes),
            ("grpc.max_send_message_length", -1),  # answers are bounded where they come in, at the backend
            ("grpc.so_reuseport", 0),
        ]
        self._server = grpc.aio.server(options=options)
        self._server.add_generic_rpc_handlers(tuple(self._handlers()))
        self.port = self._server.add_insecure_port(f"{self.host}:{self.port}")
        await self._server.start()
        return self.port

    async def stop(self, grace_s: float = 0.0) -> None:
        await self._server.stop(grace_s)

    def _handlers(self) -> list[Any]:
        services: dict[str, dict[str, Any]] = {}
        for method in wire.METHODS.values():
            handler: Any = grpc.unary_unary_rpc_method_handler(self._handler(method.name))
            services.setdefault(method.service, {})[method.name] = handler
        return [grpc.method_handlers_generic_handler(service, methods) for service, methods in services.items()]

    def _handler(self, operation: str) -> Callable[[bytes, Any], Awaitable[bytes]]:
        async def handle(body: bytes, context: Any) -> bytes:
            try:
                answer, trailing = await self._governed(operation, body, context)
            except Exception as error:
                await self._refuse(problem_for(error), error, context)
                raise
            context.set_trailing_metadata(trailing)
            return answer

        return handle

    async def _governed(self, operation: str, body: bytes, context: Any) -> tuple[bytes, Metadata]:
        metadata = context.invocation_metadata() or ()

        async def read_call() -> Call:
            return call_of(
                self.name,
                operation,
                body,
                traceparent=_one(metadata, "traceparent"),
                deadline_s=_remaining_s(context),
            )

        admission = await self.gateway.admit(credential_of(metadata), read_call)
        async with self.gateway.relay(admission) as reply:
            async with aclosing(reply.chunks) as chunks:
                answer = b"".join([chunk async for chunk in chunks])
            return answer, _told(admission, reply)

    async def _refuse(self, problem: Problem, error: Exception, context: Any) -> None:
        code = status_of(problem)
        self.refused(self.name, problem)
        if problem.kind == "internal":
            log.error("unforeseen error", exc_info=error, extra={"door": self.name})
        await context.abort(code, wire.told(problem.detail), trailing_metadata=facts_of(problem))


def _remaining_s(context: Any) -> float | None:
    remaining = context.time_remaining()
    return None if remaining is None else max(0.0, remaining)


def credential_of(metadata: Any) -> str:
    """The bearer token, "" when there is none or more than one."""
    scheme, _, token = _one(metadata, "authorization").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def status_of(problem: Problem) -> grpc.StatusCode:
    if problem.kind == "backend-rejected" and problem.backend_code in PASSED_ON:
        return getattr(grpc.StatusCode, problem.backend_code.upper(), Code.INVALID_ARGUMENT)
    return KINDS.get(problem.kind, Code.INTERNAL)


def facts_of(problem: Problem) -> Metadata:
    """What a refusal can prove, as trailing metadata: reason, receipt, rules with their source, policy revision."""
    facts = [("x-reason", problem.reason)]
    if problem.receipt is not None:
        facts.append(("x-audit-receipt", f"{problem.receipt.index} {problem.receipt.event_id}"))
    if problem.decision is not None:
        facts.append(("x-policy-revision", problem.decision.revision))
        facts += [("x-policy-rule", f"{rule.id} {rule.source}") for rule in problem.decision.rules]
    if problem.retry_after_s is not None:
        facts.append(("retry-after", str(math.ceil(problem.retry_after_s))))
    return _ascii(facts)


def _told(admission: Admission, reply: BackendReply) -> Metadata:
    receipt = admission.receipt
    told = [
        ("x-call-id", receipt.event_id),
        ("x-audit-receipt", f"{receipt.index} {receipt.event_id}"),
        ("x-served-by", reply.served_by),
    ]
    if reply.rung not in FRESH_RUNGS:
        told.append(("x-degraded", reply.rung))
    if reply.age_s is not None:
        told += [("age", str(reply.age_s)), ("x-cache", "hit" if reply.rung == "cached" else "stale")]
    return _ascii(told)


def _one(metadata: Any, key: str) -> str:
    """The value of ``key``; "" when it is missing, or ambiguous because it comes more than once."""
    values = [value for name, value in metadata if name == key]
    return values[0] if len(values) == 1 and isinstance(values[0], str) else ""


def _ascii(pairs: list[tuple[str, str]]) -> Metadata:
    """gRPC refuses to send metadata that is not printable ASCII."""
    return tuple((key, "".join(c if " " <= c <= "~" else "?" for c in value)) for key, value in pairs)
