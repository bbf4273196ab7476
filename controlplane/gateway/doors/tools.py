"""Plain HTTP tools at ``POST /tools/{name}``: the JSON object in the body is the arguments; replies pass through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from controlplane.calls import Call, new_call_id
from controlplane.gateway.gateway import Admission
from controlplane.gateway.problems import BadRequest, Problem
from controlplane.strict_json import Ambiguous, parse
from controlplane.tools.http_tool import FORWARDED
from inference.backend import BackendReply


class ToolsDoor:
    name = "tools"
    paths: Sequence[tuple[str, str]] = [("POST", "/tools/{name}")]

    async def read_call(self, request: Request) -> Call:
        body = await request.body()
        headers = request.headers
        return Call(
            id=new_call_id(),
            door=self.name,
            action="call",
            resource=f"/tool/{quote(request.path_params['name'], safe='')}",
            body=body,
            arguments=arguments_in(body),
            operation="call",
            headers=tuple((name, value) for name, value in headers.items() if name in FORWARDED),
            traceparent=headers.get("traceparent", ""),
        )

    def translate(self, admission: Admission, reply: BackendReply) -> BackendReply:  # noqa: ARG002  protocol
        return reply

    def refusal(self, request: Request, problem: Problem) -> Response:  # noqa: ARG002  protocol
        return JSONResponse(problem.as_json(), problem.status, media_type="application/problem+json")

    def broken(self, problem: Problem) -> bytes:  # noqa: ARG002  half an answer must not look whole: cut it
        return b""


def arguments_in(body: bytes) -> dict[str, Any]:
    """The arguments that policy decides on, which must be the arguments that the tool will read.

    Raises:
        BadRequest: no JSON object in UTF-8, or one that two parsers may read differently.
    """
    try:
        arguments = parse(body, in_any_case=True)
    except Ambiguous as fault:
        raise BadRequest(fault.reason, fault.detail) from None
    if not isinstance(arguments, dict):
        raise BadRequest("invalid_body", "the body must be a JSON object: the tool's arguments")
    return arguments
