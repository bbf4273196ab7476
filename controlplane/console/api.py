"""The operator API: JSON under ``/api``, described by OpenAPI; and the pages, which are another face of the same."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, FastAPI, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import BaseRoute

from audit import MAX_INTEGER, AuditUnavailable
from controlplane.calls import Principal
from controlplane.console.adapters import AdaptersApi
from controlplane.console.agent_words import AgentWords
from controlplane.console.approval_pages import ApprovalPages
from controlplane.console.approvals import ApprovalsApi
from controlplane.console.behaviour import BehaviourApi
from controlplane.console.behaviour_pages import BehaviourPages
from controlplane.console.calls import CallHistory, CallPage, CallView, tenant_of
from controlplane.console.changes import Changes
from controlplane.console.costs import CostsApi
from controlplane.console.drift import DriftApi
from controlplane.console.frame import Frame
from controlplane.console.guard import Guard, GuardedRoute, permission
from controlplane.console.headers import SafeHeaders
from controlplane.console.ledger_pages import LedgerPages
from controlplane.console.model_pages import ModelPages
from controlplane.console.observations import ObservationsApi
from controlplane.console.operating_pages import OperatingPages
from controlplane.console.pages import Pages
from controlplane.console.playbook_pages import PlaybookPages
from controlplane.console.playbooks import PlaybooksApi
from controlplane.console.ports import (
    BreakerView,
    ConsoleError,
    ConsolePorts,
    ModelView,
    NotFound,
    OutcomeLabel,
    PolicyView,
)
from controlplane.console.problems import DESCRIBED, problem_response
from controlplane.console.reviews import ReviewsApi
from controlplane.console.selection import SelectionApi
from controlplane.console.sessions import Sessions
from controlplane.console.settings import ConsoleSettings
from controlplane.console.versions import VersionsApi
from controlplane.console.wishes import Body, Change, Recorded, principal_of, recorded, wish_of

log = logging.getLogger(__name__)

OUTCOMES_PER_REQUEST = 1_000
BREAKER_NAME = r"^[A-Za-z0-9_.~@:-]+(/[A-Za-z0-9_.~@:-]+)*$"

BreakerName = Annotated[str, Path(pattern=BREAKER_NAME, max_length=200)]


class Transition(Body):
    """A move of a model's drift state, as the monitor asks for it; ``reason`` is the event that caused it."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    key: Annotated[str, Field(min_length=1, max_length=200, description="Idempotency key: recorded once.")]
    version: int
    source: str = Field(alias="from", max_length=40)
    target: str = Field(alias="to", max_length=40)
    reason: str = Field(min_length=1, max_length=40)
    evidence: dict[str, int | float | str | bool | None] = Field(default_factory=dict)
    new_version: int | None = None
    percent: int | None = Field(default=None, description="Share of the agents that a canary gets.")


class Outcome(Body):
    call_id: str = Field(max_length=64, description="Id of the call whose prediction this is about.")
    row: int = Field(ge=0, le=MAX_INTEGER, description="Row of that prediction, from 0.")
    label: int = Field(ge=-MAX_INTEGER, le=MAX_INTEGER, description="The class that it really was.")


class Outcomes(Body):
    outcomes: list[Outcome] = Field(min_length=1, max_length=OUTCOMES_PER_REQUEST)


class Breaker(BaseModel):
    name: str
    state: str
    reason: str
    holds: list[str]
    calls: int
    failed: int
    slow: int
    retry_after_s: float | None


class BreakerList(BaseModel):
    breakers: list[Breaker]


class Replica(BaseModel):
    """``versions`` are those of this model to which calls may be sent; none while it is away."""

    name: str
    versions: list[int]


class Model(BaseModel):
    name: str
    backend: str
    task: str
    versions: list[int]
    labels: dict[str, int]
    canary_percent: int
    shadow_version: int | None
    shadow_percent: int
    previous: list[int] = Field(description="What the stable label named before, the newest last.")
    replicas: list[Replica]
    fallback: list[str]
    state: str
    state_reason: str
    state_version: int | None
    state_since_ms: int | None


class ModelList(BaseModel):
    models: list[Model]


class Policy(BaseModel):
    revision: str
    rules: int
    loaded_at_s: float | None
    error: str
    error_since_s: float | None


class Head(BaseModel):
    size: int
    root: str = Field(description="Root hash, hexadecimal.")
    checkpoint: str = Field(description="The signed tree head (C2SP checkpoint).")


class Taken(BaseModel):
    accepted: int
    event_id: str
    ledger_index: int


def build(
    ports: ConsolePorts,
    settings: ConsoleSettings | None = None,
    *,
    monotonic: Callable[[], float] = time.monotonic,
) -> FastAPI:
    """API and pages as one ASGI application, to be mounted at the root."""
    settings = settings or ConsoleSettings()
    app = FastAPI(
        title="Agent control plane",
        summary="Operator API: what was called, what was decided, what may be changed.",
        version="1",
        openapi_url="/api/openapi.json",
        docs_url=None,  # the usual pages load scripts from elsewhere; ours is at /api/docs
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.guard = guard = Guard(ports.authorize, Sessions(settings, monotonic))
    changes = Changes(ports.append, ports.breakers, ports.models)
    app.include_router(Api(ports, changes).router())
    app.include_router(VersionsApi(changes).router())
    app.include_router(ObservationsApi(ports.observations, ports.ledger, ports.append).router())
    if ports.reviews is not None:
        app.include_router(ReviewsApi(ports.reviews).router())
    if ports.selection is not None:
        app.include_router(SelectionApi(ports.selection).router())
    if ports.adapters is not None:
        app.include_router(AdaptersApi(ports.adapters, changes).router())
    if ports.costs is not None:
        app.include_router(CostsApi(ports.costs, ports.sees).router())
    if ports.drift is not None:
        app.include_router(DriftApi(ports.drift).router())
    if ports.behaviour is not None:
        app.include_router(BehaviourApi(AgentWords(ports.behaviour, changes, ports.sees)).router())
    if ports.playbooks is not None:
        app.include_router(PlaybooksApi(ports.playbooks).router())
    if ports.approvals is not None:
        app.include_router(ApprovalsApi(ports.approvals).router())
    app.router.routes.extend(_pages(ports, changes, guard, settings, app.openapi))
    for known in (ConsoleError, AuditUnavailable, RequestValidationError, HTTPException):
        app.add_exception_handler(known, _answer_problem)
    app.add_exception_handler(Exception, _answer_unforeseen)
    app.add_middleware(SafeHeaders)
    return app


def _pages(
    ports: ConsolePorts, changes: Changes, guard: Guard, settings: ConsoleSettings, describe: Callable[[], Any]
) -> list[BaseRoute]:
    links = {"/console": "Overview", "/console/models": "Models", "/console/reviews": "Reviews"}
    links |= {"/console/approvals": "Approvals"} if ports.approvals is not None else {}
    links |= {"/console/adaptation": "Adaptation"} if ports.adaptation is not None else {}
    links |= {"/console/playbooks": "Playbooks"} if ports.playbooks is not None else {}
    links |= {"/console/behaviour": "Behaviour"} if ports.behaviour is not None else {}
    links |= {"/console/costs": "Costs"} if ports.costs is not None else {}
    frame = Frame(ports.authorize, guard, settings, links | {"/console/calls": "Calls"})
    rooms = (LedgerPages(ports, frame), ModelPages(ports, frame), OperatingPages(ports, frame, changes))
    main = Pages(ports, changes, frame, settings, describe)
    routes = [route for room in (*rooms, main) for route in room.routes()]
    if ports.behaviour is not None:
        words = AgentWords(ports.behaviour, changes, ports.sees)
        routes += BehaviourPages(words, ports.ledger, frame).routes()
    if ports.playbooks is not None:
        routes += PlaybookPages(ports.playbooks, ports.ledger, frame).routes()
    if ports.approvals is not None:
        routes += ApprovalPages(ports.approvals, frame).routes()
    return routes


async def _answer_problem(_: Request, error: Exception) -> Response:
    return problem_response(error)


async def _answer_unforeseen(_: Request, error: Exception) -> Response:
    log.error("unforeseen error in the console", exc_info=error)
    return problem_response(error)


class Api:
    """One method for one operation. The guard has put the principal on the request before any of them runs."""

    def __init__(self, ports: ConsolePorts, changes: Changes) -> None:
        self.ports, self.changes, self.history = ports, changes, CallHistory(ports.ledger)

    def router(self) -> APIRouter:
        router = APIRouter(route_class=GuardedRoute, responses=DESCRIBED)
        for method, path, operation, action, resource in (
            ("GET", "/api/calls", self.list_calls, "read", "/api/calls"),
            ("GET", "/api/calls/{call_id}", self.read_call, "read", "/api/calls"),
            ("GET", "/api/breakers", self.list_breakers, "read", "/api/breakers"),
            ("POST", "/api/breakers/{name:path}/hold", self.hold_breaker, "write", "/api/breakers"),
            ("POST", "/api/breakers/{name:path}/release", self.release_breaker, "write", "/api/breakers"),
            ("GET", "/api/models", self.list_models, "read", "/api/models"),
            ("POST", "/api/models/{name:path}/transitions", self.ask_transition, "write", "/api/models"),
            ("GET", "/api/policy", self.read_policy, "read", "/api/policy"),
            ("GET", "/api/ledger/head", self.read_head, "read", "/api/ledger"),
            ("POST", "/v1/outcomes", self.take_outcomes, "write", "/api/outcomes"),
        ):
            router.add_api_route(
                path,
                operation,
                methods=[method],
                openapi_extra=permission(action, resource),
                tags=[resource.rpartition("/")[2]],
                name=operation.__name__,
            )
        return router

    async def list_calls(
        self,
        request: Request,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
        before: Annotated[int | None, Query(ge=0, description="Ledger index; older calls only.")] = None,
    ) -> CallPage:
        """Calls that were admitted or refused, newest first."""
        principal = principal_of(request)
        return await to_thread.run_sync(
            lambda: self.history.page(lambda tenant: self.ports.sees(principal, tenant), limit, before)
        )

    async def read_call(self, request: Request, call_id: str) -> CallView:
        """One call: who, what, the decision with its rules, and the outcome."""
        principal = principal_of(request)
        call = await to_thread.run_sync(
            lambda: self.history.find(call_id, lambda tenant: self.ports.sees(principal, tenant))
        )
        if call is None:
            raise NotFound("unknown_call", "no such call that you may see")
        return call

    async def list_breakers(self) -> BreakerList:
        """Every circuit breaker, by name."""
        return BreakerList(breakers=[breaker_of(each) for each in self.ports.breakers.snapshot()])

    async def hold_breaker(self, request: Request, name: BreakerName, change: Change) -> Recorded:
        """Refuse every call behind this breaker until it is released."""
        return recorded(await self.changes.hold(name, wish_of(request, change)))

    async def release_breaker(self, request: Request, name: BreakerName, change: Change) -> Recorded:
        """Let go of an operator's hold; probes decide what follows. Holds of others stay."""
        return recorded(await self.changes.release(name, wish_of(request, change)))

    async def list_models(self) -> ModelList:
        """Models with versions, labels and drift state."""
        return ModelList(models=[model_of(each) for each in self.ports.models.view()])

    async def ask_transition(self, request: Request, name: str, move: Transition) -> Model:
        """Move a model's drift state: recorded, then carried out. The same key again does it again, recorded once."""
        wish = move.model_dump(by_alias=True, exclude_none=True)
        return model_of(await self.ports.models.ask(name, wish, principal_of(request)))

    async def read_policy(self) -> Policy:
        """Which policy is served, and why the files on disk are not, if they are not."""
        return policy_of(self.ports.policy_status())

    async def read_head(self) -> Head:
        """The ledger's signed tree head."""
        head = await to_thread.run_sync(self.ports.ledger.head)
        return Head(size=head.size, root=head.root.hex(), checkpoint=head.checkpoint)

    async def take_outcomes(self, request: Request, said: Outcomes) -> Taken:
        """Ground truth for predictions of one's own tenant, by call id. All are taken or none."""
        principal = principal_of(request)
        call_ids = sorted({each.call_id for each in said.outcomes})
        await to_thread.run_sync(lambda: self._require_own_calls(principal, call_ids))
        facts = {"by": principal.subject, "tenant": principal.tenant, "labels": len(said.outcomes)}
        facts |= {"calls": len(call_ids), "first_call": call_ids[0], "last_call": call_ids[-1]}
        receipt = await self.ports.append("outcomes.received", {"outcomes": facts})
        self.ports.take_outcomes([OutcomeLabel(each.call_id, each.row, each.label) for each in said.outcomes])
        return Taken(accepted=len(said.outcomes), event_id=receipt.event_id, ledger_index=receipt.index)

    def _require_own_calls(self, principal: Principal, call_ids: Sequence[str]) -> None:
        """Labels decide when a model is distrusted: nobody may speak for another tenant's predictions."""
        for call_id in call_ids:
            record = self.ports.ledger.find(call_id)
            if record is None or record.kind != "intent" or not self.ports.sees(principal, tenant_of(record)):
                raise NotFound("unknown_call", "one of the calls does not exist, or is not yours to judge")


def breaker_of(view: BreakerView) -> Breaker:
    return Breaker(
        name=view.name,
        state=str(view.state),
        reason=view.reason,
        holds=list(view.holds),
        calls=view.calls,
        failed=view.failed,
        slow=view.slow,
        retry_after_s=view.retry_after_s,
    )


def model_of(view: ModelView) -> Model:
    return Model(
        name=view.name,
        backend=view.backend,
        task=view.task,
        versions=list(view.versions),
        labels=dict(view.labels),
        canary_percent=view.canary_percent,
        shadow_version=view.shadow_version,
        shadow_percent=view.shadow_percent,
        previous=list(view.previous),
        replicas=[Replica(name=replica, versions=sorted(found)) for replica, found in view.replicas.items()],
        fallback=list(view.fallback),
        state=str(view.state),
        state_reason=view.state_reason,
        state_version=view.state_version,
        state_since_ms=view.state_since_ms,
    )


def policy_of(view: PolicyView) -> Policy:
    return Policy(
        revision=view.revision,
        rules=view.rules,
        loaded_at_s=view.loaded_at_s,
        error=view.error,
        error_since_s=view.error_since,
    )
