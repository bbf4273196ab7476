"""TF Serving's REST face. A request becomes the message that its gRPC face would carry, and the answer JSON again.

So there is one wire behind both doors: one digest in the ledger, one observer, one backend. Bodies and answers are as
``inference.tfserving.rest`` says; errors are ``{"error": "…"}``, and refusals add their facts beside it.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from http import HTTPStatus
from typing import Any, Protocol

from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from controlplane.calls import Call
from controlplane.gateway.doors.tfserving_call import call_of
from controlplane.gateway.edge import HttpDoor
from controlplane.gateway.gateway import Admission
from controlplane.gateway.problems import BadRequest, Problem
from inference.backend import BackendReply
from inference.errors import BackendBroke
from inference.tfserving import rest, wire
from inference.tfserving.signatures import Signature
from inference.tfserving.tensors import TensorError

VERBS = {"predict": "Predict", "classify": "Classify", "regress": "Regress"}
BARE = "/v1/models/{model}"
CHOICES = (BARE, BARE + "/versions/{version}", BARE + "/labels/{label}")
VERSION_DIGITS = len(str(1 << 63))
JSON = (("content-type", "application/json"),)


class Signatures(Protocol):
    """``DeployedSignatures``, or several of them behind one face. MUST NOT go out: nothing is decided yet."""

    def known(
        self, model: str, version: int | None = None, label: str | None = None
    ) -> Mapping[str, Signature] | None: ...


class TfServingRest:
    """Everything but ``GET /v1/models/{model}``, which two protocols share: see ``SharedModelPath``."""

    name = "tfserving.rest"
    paths: Sequence[tuple[str, str]] = [
        *(("POST", f"{choice}:{verb}") for choice in CHOICES for verb in VERBS),
        *(("GET", choice) for choice in CHOICES[1:]),
        *(("GET", f"{choice}/metadata") for choice in CHOICES),
    ]

    def __init__(self, signatures: Signatures) -> None:
        self.signatures = signatures

    async def read_call(self, request: Request) -> Call:
        spec, layout = _spec(request), ""
        operation = _operation(request)
        try:
            if operation == "Predict":
                document = rest.parse(await request.body())
                layout = rest.layout_of(document)
                known = self.signatures.known(spec.name, wire.version_of(spec), wire.label_of(spec))
                message = rest.predict_request(spec, document, known)
            elif operation in VERBS.values():
                document = rest.parse(await request.body())
                message = rest.examples_request(wire.METHODS[operation].request, spec, document)
            else:
                message = _read_request(operation, spec)
        except rest.RestError as error:
            raise BadRequest("invalid_body", str(error)) from None
        traceparent = request.headers.get("traceparent", "")
        return call_of(self.name, operation, message.SerializeToString(), traceparent=traceparent, layout=layout)

    def translate(self, admission: Admission, reply: BackendReply) -> BackendReply:
        return replace(reply, headers=JSON, chunks=_as_json(admission.call, reply.chunks))

    def refusal(self, request: Request, problem: Problem) -> Response:  # noqa: ARG002  protocol
        return JSONResponse(error_body(problem), problem.status)

    def broken(self, problem: Problem) -> bytes:
        """An answer is written in one piece, so at this point nothing of it is out and an error is whole JSON."""
        return json.dumps(error_body(problem)).encode()


class SharedModelPath:
    """``GET /v1/models/{model}``: TF Serving's status for what TF Serving serves, ``otherwise`` for everything else.

    The rule is the model's name alone, because the request says nothing of the protocol it means. Strangers always get
    ``otherwise``'s 401, so that the shape of an error does not tell them which models there are.
    """

    name = "models.shared"
    paths: Sequence[tuple[str, str]] = [("GET", BARE)]

    def __init__(self, tfserving: HttpDoor, otherwise: HttpDoor, serves: Callable[[str], bool]) -> None:
        self.tfserving, self.otherwise, self.serves = tfserving, otherwise, serves

    async def read_call(self, request: Request) -> Call:
        return await self._door(request.path_params["model"]).read_call(request)

    def translate(self, admission: Admission, reply: BackendReply) -> BackendReply:
        return (self.tfserving if admission.call.door == self.tfserving.name else self.otherwise).translate(
            admission, reply
        )

    def refusal(self, request: Request, problem: Problem) -> Response:
        stranger = problem.status == HTTPStatus.UNAUTHORIZED
        return (self.otherwise if stranger else self._door(request.path_params["model"])).refusal(request, problem)

    def broken(self, problem: Problem) -> bytes:  # noqa: ARG002  cut: neither protocol is known here
        return b""

    def _door(self, model: str) -> HttpDoor:
        return self.tfserving if self.serves(model) else self.otherwise


def error_body(problem: Problem) -> dict[str, Any]:
    """TF Serving clients read ``error``; the rest is for whoever asks why."""
    return {"error": problem.detail, "reason": problem.reason} | problem.facts()


def _spec(request: Request) -> Any:
    spec = wire.ModelSpec(name=request.path_params["model"])
    if "version" in request.path_params:
        version = _version(request.path_params["version"])
        if version:  # 0 is "whatever is served", on this wire as on the other
            spec.version.value = version
    elif "label" in request.path_params:
        spec.version_label = request.path_params["label"]
    return spec


def _version(said: str) -> int:
    """Not by a convertor of the routes: theirs breaks at numbers that Python does not read."""
    if not (said.isascii() and said.isdigit() and len(said) <= VERSION_DIGITS and int(said) < 1 << 63):
        raise BadRequest("invalid_version", "a version is a positive 64-bit integer")
    return int(said)


def _operation(request: Request) -> str:
    path = request.url.path
    if request.method == "POST":
        return VERBS[path.rpartition(":")[2]]
    return "GetModelMetadata" if path.endswith("/metadata") else "GetModelStatus"


def _read_request(operation: str, spec: Any) -> Any:
    message = wire.METHODS[operation].request()
    message.model_spec.CopyFrom(spec)
    if operation == "GetModelMetadata":
        message.metadata_field.append(wire.SIGNATURE_DEF)
    return message


async def _as_json(call: Call, chunks: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    async with aclosing(chunks):
        body = b"".join([chunk async for chunk in chunks])
    try:
        response = wire.parse(wire.METHODS[call.operation].response, body)
        if call.operation == "Predict":
            yield rest.predict_reply(response, call.arguments["layout"])
        else:
            yield rest.REPLIES[call.operation](response)
    except (rest.RestError, TensorError, wire.WireError) as error:
        raise BackendBroke("untranslatable", str(error)) from error
