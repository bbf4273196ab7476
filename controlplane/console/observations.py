"""The monitor's part of the API: pages of observations, what was lost of them, and gaps that it found in its sight."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from anyio import to_thread
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from controlplane.console.guard import GuardedRoute, permission
from controlplane.console.ports import Append, LedgerView, ObservationsView
from controlplane.console.problems import DESCRIBED
from controlplane.console.wishes import Body, principal_of

GAP, VERDICT = "watch.gap", "watch.verdict"
PACKED = "application/msgpack"
REMEMBERED = 500  # what is told again comes within seconds or after a restart, never after so many others
Count = Annotated[int, Field(ge=0, le=2**53 - 1)]
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.@:/+-]{1,100}$")]


class Observed(BaseModel):
    observations: list[dict[str, Any]]
    next: int
    lost: int
    boot: str


class ObservationStatus(BaseModel):
    boot: str
    newest: int
    read: int = Field(description="Sequence number up to which somebody has read.")
    unread_s: float = Field(description="Seconds since anybody asked for observations.")
    held: int
    held_bytes: int
    dropped: dict[str, int] = Field(description="Observations that nobody read before they were gone, by reason.")
    skipped: dict[str, dict[str, int]] = Field(
        description="By model and reason: what the monitor read and did not count, in the monitor's own count."
    )
    guarded: dict[str, dict[str, int]] = Field(description="By version: rows held against its reference.")


class Gap(Body):
    """A stretch in which nobody watched. ``lost`` is how many observations are missing, where that can be told."""

    key: Annotated[str, Field(min_length=1, max_length=100, description="Idempotency key: recorded once.")]
    reason: Literal["overwritten", "gateway_restarted", "monitor_away"]
    lost: Count = 0
    from_ms: Count
    to_ms: Count
    boot: Annotated[str, Field(max_length=64)] = ""


class LanguageVerdict(Body):
    """What a detector found of a language model; ``evidence`` is in whole numbers and words."""

    key: Annotated[str, Field(min_length=1, max_length=100, description="Idempotency key: recorded once.")]
    model: Word
    version: Count
    evidence: dict[Word, int | Annotated[str, Field(max_length=500)]] = Field(max_length=50)


class Noted(BaseModel):
    ledger_index: int


class Skipped(Body):
    """Since the monitor's beginning, by model and by reason."""

    skipped: dict[Word, dict[Word, Count]] = Field(max_length=1_000)


class ObservationsApi:
    def __init__(self, observations: ObservationsView, ledger: LedgerView, append: Append) -> None:
        self.observations, self.ledger, self.append = observations, ledger, append

    def router(self) -> APIRouter:
        router = APIRouter(route_class=GuardedRoute, responses=DESCRIBED, tags=["observations"])
        for method, path, operation, action, resource in (
            ("GET", "/api/observations", self.list_observations, "read", "/api/observations"),
            ("GET", "/api/observations/status", self.read_status, "read", "/api/observations"),
            ("POST", "/api/observations/gaps", self.record_gap, "write", "/api/ledger"),
            ("POST", "/api/observations/verdicts", self.record_verdict, "write", "/api/ledger"),
            ("POST", "/api/observations/skipped", self.note_skipped, "write", "/api/ledger"),
        ):
            router.add_api_route(
                path,
                operation,
                methods=[method],
                openapi_extra=permission(action, resource),
                name=operation.__name__,
                response_model=Observed if operation == self.list_observations else None,
            )
        return router

    async def list_observations(
        self,
        request: Request,
        after: Annotated[int, Query(description="Sequence number of the last one known.")] = 0,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 1_000,
    ) -> Any:
        """Predictions as they passed, labels as they came back and signals of calls; as msgpack for who accepts it."""
        if PACKED in request.headers.get("accept", ""):
            return Response(self.observations.packed(after, limit), media_type=PACKED)
        return Observed.model_validate(self.observations.page(after, limit))

    async def read_status(self) -> ObservationStatus:
        """What is held for the monitor, and what was lost on the way to it."""
        return ObservationStatus.model_validate(self.observations.status())

    async def record_gap(self, request: Request, gap: Gap) -> Noted:
        """Write down that nobody watched for a while. The same key again is recorded once."""
        return await self._once(GAP, "gap", gap, principal_of(request).subject)

    async def record_verdict(self, request: Request, verdict: LanguageVerdict) -> Noted:
        """Write down that a model which nobody retrains has moved. The same key again is recorded once."""
        return await self._once(VERDICT, "verdict", verdict, principal_of(request).subject)

    async def _once(self, kind: str, name: str, said: Gap | LanguageVerdict, by: str) -> Noted:
        def known() -> int | None:
            records = self.ledger.read(limit=REMEMBERED, newest=True, kinds=[kind])
            return next((record.index for record in records if record.body[name]["key"] == said.key), None)

        index = await to_thread.run_sync(known)
        if index is None:
            index = (await self.append(kind, {name: said.model_dump() | {"by": by}})).index
        return Noted(ledger_index=index)

    async def note_skipped(self, said: Skipped) -> ObservationStatus:
        """Show what the monitor reads and does not count. Kept until the gateway ends; nothing depends on it."""
        self.observations.note_skipped(said.skipped)
        return await self.read_status()
