"""The only place of this room that knows status codes: what went wrong, as RFC 9457 problem details."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from audit import AuditUnavailable
from controlplane.calls import RuleRef
from controlplane.console.ports import (
    ChangeFailed,
    ChangeRefused,
    ConsoleError,
    NotAllowed,
    NotFound,
    NotProven,
    Unavailable,
)


class Problem(BaseModel):
    """RFC 9457 problem details; ``reason`` is a stable word for machines."""

    type: str
    title: str
    status: int
    detail: str
    reason: str
    rules: list[dict[str, str]] | None = None


DESCRIBED: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": HTTPStatus(status).phrase} for status in (401, 403, 422, 503)
}
"""What every operation may answer besides its result, for the API's description."""

STATUS: dict[type[ConsoleError], tuple[int, str]] = {
    NotProven: (401, "unauthenticated"),
    NotAllowed: (403, "denied"),
    NotFound: (404, "not-found"),
    ChangeRefused: (409, "refused"),
    ChangeFailed: (502, "failed"),
    Unavailable: (503, "unavailable"),
}
RETRY_AFTER_S = 2


def problem_response(error: Exception) -> Response:
    """Known errors keep their words; an unknown one tells nothing about our insides."""
    match error:
        case ConsoleError():
            return _console_problem(error)
        case AuditUnavailable():
            return _problem(
                503, "ledger", error.reason, "not recorded, therefore not done", retry_after_s=RETRY_AFTER_S
            )
        case RequestValidationError():
            return _problem(422, "bad-request", "invalid_request", "; ".join(_complaints(error)))
        case HTTPException():
            return _problem(error.status_code, "http", f"http_{error.status_code}", str(error.detail))
        case _:
            return _problem(500, "internal", "internal", "internal error")


def _console_problem(error: ConsoleError) -> Response:
    status, kind = STATUS[type(error)]
    rules = error.rules if isinstance(error, NotAllowed) else ()
    response = _problem(status, kind, error.reason, error.detail, rules=rules)
    if isinstance(error, NotProven):
        response.headers["www-authenticate"] = error.challenge
    return response


def _complaints(error: RequestValidationError) -> list[str]:
    """Where and what, never the value: it may be anything."""
    faults = error.errors()
    if any(isinstance(each["input"], bytes) for each in faults):  # it was not even read
        return ["body: send JSON, with content-type application/json"]
    return [f"{'.'.join(str(step) for step in each['loc'])}: {each['msg']}" for each in faults]


def _problem(
    status: int, kind: str, reason: str, detail: str, *, retry_after_s: int | None = None, rules: Sequence[RuleRef] = ()
) -> Response:
    document: dict[str, Any] = {
        "type": f"urn:controlplane:{kind}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "reason": reason,
    }
    if rules:
        document["rules"] = [{"id": rule.id, "source": rule.source} for rule in rules]
    headers = {} if retry_after_s is None else {"retry-after": str(retry_after_s)}
    return JSONResponse(document, status, headers=headers, media_type="application/problem+json")
