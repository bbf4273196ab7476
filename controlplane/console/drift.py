"""Watched models over the API: the monitor hands in evidence and reports, people and programs read them.

A report is a page made elsewhere, with scripts of its own: it is served under a policy that gives it an origin of its
own, so that it reaches neither our cookies nor our pages nor any network.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Sequence
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from controlplane.console.drift_views import DriftView, SentReport
from controlplane.console.guard import GuardedRoute, permission
from controlplane.console.ports import ChangeRefused, NotFound
from controlplane.console.problems import DESCRIBED
from controlplane.console.wishes import Body, Recorded, principal_of, recorded
from controlplane.drift.shelf import KeptReport

RESOURCE = "/api/models"
PATH = "/api/drift/{name:path}"  # /api/models/<one>/<two> is a model's page at the hub's door
DETECTORS_AT_ONCE = 200
PAGE_BYTES = 64 * 1024 * 1024  # of a report, unpacked: 300 columns make 25 MB
FOREIGN = {
    "content-security-policy": (
        "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; "
        "style-src 'unsafe-inline'; img-src data: blob:; font-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'self'"
    ),
    "x-frame-options": "SAMEORIGIN",
    "content-encoding": "gzip",
    "vary": "cookie, authorization",
}
"""A page that we did not write: scripts yes, for its plots; an origin, a network, a form, a popup no."""

Word = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_.:-]{0,63}$")]


class Detector(Body):
    """Where a detector stands; ``tolerated`` is what its reference allows: a share, a rate, or a score."""

    detector: str = Field(min_length=1, max_length=64)
    evidence: float = Field(ge=0, allow_inf_nan=False)
    threshold: float = Field(gt=0, allow_inf_nan=False)
    arl_rows: float = Field(ge=0, allow_inf_nan=False)
    tolerated: float = Field(allow_inf_nan=False)
    crossings: int = Field(ge=0)


class Evidence(Body):
    version: int = Field(ge=0)
    at_ms: int = Field(ge=0)
    detectors: list[Detector] = Field(max_length=DETECTORS_AT_ONCE)


class NewReport(Body):
    version: int = Field(ge=0)
    cause: Word = Field(description="Why it was made: alarm, nightly or asked.")
    columns: int = Field(ge=0, le=1_000)
    of_columns: int = Field(ge=0, le=100_000)
    drifted: int = Field(ge=0, le=1_000)
    scores_milli: dict[str, Annotated[int, Field(ge=0, le=10**12)]] = Field(max_length=300)
    html_gzip_base64: str = Field(description="The page, compressed with gzip, in base64.")


class Watched(BaseModel):
    """``detectors`` as they stood when the monitor last said so."""

    model: str
    version: int | None
    at_ms: int | None
    detectors: list[Detector]
    reports: Sequence[KeptReport]


class Kept(BaseModel):
    kept: int


class DriftApi:
    def __init__(self, drift: DriftView) -> None:
        self.drift = drift

    def router(self) -> APIRouter:
        router = APIRouter(route_class=GuardedRoute, responses=DESCRIBED, tags=["drift"])
        for method, path, operation, action in (
            ("POST", "/evidence", self.take_evidence, "write"),
            ("POST", "/reports", self.take_report, "write"),
            ("GET", "/reports/{report}", self.read_report, "read"),
            ("GET", "", self.read_drift, "read"),
        ):
            router.add_api_route(
                f"{PATH}{path}",
                operation,
                methods=[method],
                openapi_extra=permission(action, RESOURCE),
                name=operation.__name__,
            )
        return router

    async def take_evidence(self, name: str, said: Evidence) -> Kept:
        """Where the detectors of a model stand, from the monitor; shown over time, decides nothing."""
        detectors = [each.model_dump() for each in said.detectors]
        await to_thread.run_sync(lambda: self.drift.take_points(name, said.version, said.at_ms, detectors))
        return Kept(kept=len(detectors))

    async def take_report(self, request: Request, name: str, said: NewReport) -> Recorded:
        """A drift report, from the monitor: its digest and scores are recorded, its page is kept for a while."""
        report = SentReport(
            version=said.version,
            cause=said.cause,
            columns=said.columns,
            of_columns=said.of_columns,
            drifted=said.drifted,
            scores=said.scores_milli,
            html_gzip=await to_thread.run_sync(unpacked, said.html_gzip_base64),
        )
        return recorded(await self.drift.take_report(name, report, principal_of(request)))

    async def read_drift(self, name: str) -> Watched:
        """How a model is doing as the monitor sees it, and the reports that are kept."""
        points = await to_thread.run_sync(self.drift.points, name)
        reports = await to_thread.run_sync(self.drift.reports, name)
        last = points[-1] if points else None
        newest = [each for each in points if last is not None and each.at_ms == last.at_ms]
        return Watched(
            model=name,
            version=last.version if last else None,
            at_ms=last.at_ms if last else None,
            detectors=[Detector.model_validate(each, from_attributes=True) for each in newest],
            reports=reports,
        )

    async def read_report(self, name: str, report: str) -> Response:
        """The page of a report, which may run its own scripts and nothing else."""
        return foreign_page(await to_thread.run_sync(self.drift.html, name, report))


def foreign_page(html_gzip: bytes | None) -> Response:
    """Raises ``NotFound`` for none."""
    if html_gzip is None:
        raise NotFound("unknown_report", "there is no such report, or it was too old to be kept")
    return Response(html_gzip, media_type="text/html; charset=utf-8", headers=FOREIGN)


def unpacked(encoded: str) -> bytes:
    """The compressed page. Raises ``ChangeRefused`` for what is none, or would be too large when unpacked."""
    try:
        packed = base64.b64decode(encoded, validate=True)
        stream = zlib.decompressobj(wbits=31)
        size = len(stream.decompress(packed, PAGE_BYTES))
    except (binascii.Error, zlib.error, ValueError):
        raise ChangeRefused("not_a_report", "the page is not gzip in base64") from None
    if not stream.eof or size >= PAGE_BYTES or stream.unused_data:
        raise ChangeRefused("not_a_report", "the page is cut off or too large")
    return packed
