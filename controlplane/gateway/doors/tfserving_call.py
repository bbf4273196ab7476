"""A TF Serving message as a ``Call``: what both of its doors say to policy and ledger about the same request."""

from __future__ import annotations

import re
from contextlib import AbstractAsyncContextManager
from typing import Any

from controlplane.calls import Call, new_call_id
from controlplane.gateway.gateway import Admission
from controlplane.gateway.problems import BadRequest
from inference.backend import BackendReply
from inference.errors import BackendRejected
from inference.tfserving import checks, wire

ACTIONS = {
    "Predict": "infer",
    "Classify": "infer",
    "Regress": "infer",
    "MultiInference": "infer",
    "GetModelMetadata": "read",
    "GetModelStatus": "read",
    wire.RELOAD: "write",
}
SERVED = "/api/models"
"""What a reload would change; the operator API asks policy for the same right on the same resource."""

NAME = re.compile(r"[^/\s\x00-\x1f\x7f]{1,200}")


def call_of(
    door: str,
    operation: str,
    body: bytes,
    *,
    traceparent: str = "",
    deadline_s: float | None = None,
    layout: str = "",
) -> Call:
    """Raises ``BadRequest``. Everything that policy reads comes from ``body``, which is what the server will read."""
    try:
        request = wire.parse(wire.METHODS[operation].request, body)
    except wire.WireError as error:
        raise BadRequest("invalid_body", str(error)) from None
    if operation == wire.RELOAD:
        return Call(
            id=new_call_id(), door=door, action=ACTIONS[operation], resource=SERVED, body=body, operation=operation
        )
    spec = _spec_of(operation, request)
    for word in (spec.name, wire.label_of(spec) or "-", spec.signature_name or "-"):
        if not NAME.fullmatch(word):
            raise BadRequest("invalid_model", "Missing ModelSpec, or a name in it that no model can have")
    return Call(
        id=new_call_id(),
        door=door,
        action=ACTIONS[operation],
        resource=f"/model/{spec.name}",
        body=body,
        arguments=_arguments(operation, request, spec, layout),
        operation=operation,
        version=wire.version_of(spec),
        label=wire.label_of(spec),
        traceparent=traceparent,
        deadline_s=deadline_s,
    )


class ReloadRefused:
    """A dispatch for ``/api``: who may change what is served is told how; nobody changes it by this wire.

    A reload replaces the whole configuration of a server. The gateway holds that configuration, for every replica and
    with its labels; a client that knows a part of it would unload the rest.
    """

    def send(self, admission: Admission) -> AbstractAsyncContextManager[BackendReply]:
        raise BackendRejected(
            "failed_precondition",
            f"the gateway holds the whole configuration and takes no {admission.call.operation}; change what is served "
            "through /api/models or `controlplane models`",
        )


def _spec_of(operation: str, request: Any) -> Any:
    """The one model spec that a request means."""
    if operation != "MultiInference":
        return request.model_spec
    try:
        checks.check_one_model(request.tasks)
    except checks.Misfit as misfit:
        raise BadRequest("invalid_model", misfit.detail) from None
    return request.tasks[0].model_spec


def _arguments(operation: str, request: Any, spec: Any, layout: str) -> dict[str, Any]:
    """``signature``, ``rows`` and the names of ``inputs``; ``layout`` is how a REST caller wants its answer.

    Where several are asked at once they are ``signatures``, and ``signature`` is missing: a rule that reads it denies.
    """
    arguments: dict[str, Any] = {}
    if ACTIONS[operation] == "infer":
        if operation == "MultiInference":
            names = {task.model_spec.signature_name or wire.DEFAULT_SIGNATURE for task in request.tasks}
            arguments["signatures"] = sorted(names)
        else:
            arguments["signature"] = spec.signature_name or wire.DEFAULT_SIGNATURE
        arguments |= _predict_arguments(request) if operation == "Predict" else _example_arguments(request)
    return arguments | ({"layout": layout} if layout else {})


def _predict_arguments(request: Any) -> dict[str, Any]:
    rows = [tensor.tensor_shape.dim[0].size for tensor in request.inputs.values() if tensor.tensor_shape.dim]
    return {"rows": max(rows, default=1), "inputs": sorted(request.inputs)}


def _example_arguments(request: Any) -> dict[str, Any]:
    given = request.input
    with_context = given.WhichOneof("kind") == "example_list_with_context"
    examples = (given.example_list_with_context if with_context else given.example_list).examples
    names = set(given.example_list_with_context.context.features.feature) if with_context else set()
    for example in examples:
        names |= set(example.features.feature)
    return {"rows": len(examples), "inputs": sorted(names)}
