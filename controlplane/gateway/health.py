"""What machines ask: ``/livez`` (the loop turns), ``/readyz`` (policy loaded, ledger writing), RFC 9728 metadata."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from controlplane.identity.metadata import WELL_KNOWN_PATH

Ready = Callable[[], Mapping[str, str]]
"""What keeps us from serving, by part; empty when nothing does."""


def routes(ready: Ready, metadata: Callable[[str], dict[str, Any]]) -> list[BaseRoute]:
    """``metadata`` gives the RFC 9728 document for a resource path below ours ("" for the gateway itself)."""

    async def livez(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_: Request) -> Response:
        faults = dict(ready())
        return JSONResponse({"ready": not faults, "faults": faults}, 503 if faults else 200)

    async def protected_resource(request: Request) -> Response:
        return JSONResponse(metadata(request.path_params.get("resource", "")))

    return [
        Route("/livez", livez),
        Route("/readyz", readyz),
        Route(WELL_KNOWN_PATH, protected_resource),
        Route(WELL_KNOWN_PATH + "/{resource:path}", protected_resource),
    ]
