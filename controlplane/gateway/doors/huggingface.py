"""The catalogue as a Hugging Face hub shows its models, so that ``HfApi(endpoint=…)`` reads ours.

Lives below ``/huggingface``: any client of a hub works with that as its endpoint. One with the gateway's bare address
works too: the operator API has the list at ``GET /api/models`` for itself, so there ``HubPaths`` looks at who asks (the
``hf_hub/`` in its agent string, or a question that only a hub understands). Neither face lends the other any right.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs

from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from controlplane.calls import Call, Principal, new_call_id
from controlplane.gateway.doors.listing import list_call
from controlplane.gateway.gateway import Admission
from controlplane.gateway.problems import BadRequest, Problem
from controlplane.policy import Catalogue, ModelEntry
from inference.backend import BackendReply
from inference.catalogue import ModelCard
from inference.errors import BackendRejected

PREFIX = "/huggingface"
LIST = "/api/models"
QUESTIONS = frozenset({"filter", "search", "author", "sort", "limit", "full", "cardData", "pipeline_tag", "expand"})
FULL = ("full", "cardData", "expand")
MAIN = "main"  # the only revision: what the catalogue says now
MOST = 1000
JSON = (("content-type", "application/json"),)
NO_SUCH_MODEL = ("not_found", "no such model")
STRANGER = "Invalid credentials in Authorization header"  # without these words the client takes 401 for "no such model"

PIPELINES: Mapping[str, Mapping[str, str] | str] = {
    "chat": "text-generation",
    "completion": "text-generation",
    "embedding": "feature-extraction",
    "rerank": "text-ranking",
    "classification": {
        "tabular": "tabular-classification",
        "image": "image-classification",
        "audio": "audio-classification",
        "text": "text-classification",
    },
    "regression": {"tabular": "tabular-regression"},
}
"""Our tasks in the hub's words, by modality where it has several; a task that is not here keeps its name."""

Live = Callable[[Principal, str], Iterable[tuple[str, float, int]]]
"""(who asks, model) → metrics seen in use: name, value, number of answers."""


def nothing_seen(principal: Principal, model: str) -> Iterable[tuple[str, float, int]]:  # noqa: ARG001  the shape
    return ()


class _HubDoor:
    """What both doors share: the hub's errors."""

    def refusal(self, request: Request, problem: Problem) -> Response:  # noqa: ARG002  protocol
        message = STRANGER if problem.status == HTTPStatus.UNAUTHORIZED else problem.detail
        headers = {"x-error-message": "".join(c if " " <= c <= "~" else "?" for c in message)}
        if problem.status == HTTPStatus.NOT_FOUND:
            headers["x-error-code"] = "RepoNotFound"
        body = {"error": message, "reason": problem.reason} | problem.facts()
        return JSONResponse(body, problem.status, headers=headers)

    def broken(self, problem: Problem) -> bytes:  # noqa: ARG002  sent whole or not at all
        return b""


class HubList(_HubDoor):
    """``GET …/api/models``: the models that policy lets this principal call or read about."""

    name = "huggingface.models"
    paths: Sequence[tuple[str, str]] = [("GET", PREFIX + LIST)]

    def __init__(
        self,
        visible: Callable[[Principal, str, str], bool],
        catalogue: Callable[[], Catalogue],
        live: Live = nothing_seen,
    ) -> None:
        self.visible, self.catalogue, self.live = visible, catalogue, live

    async def read_call(self, request: Request) -> Call:
        return list_call(self.name, request.headers.get("traceparent", ""), questions_in(request.url.query))

    def translate(self, admission: Admission, reply: BackendReply) -> BackendReply:
        chunks, principal, asked = reply.chunks, admission.principal, admission.call.arguments

        async def listed() -> AsyncGenerator[bytes]:
            async with aclosing(chunks):
                names = b"".join([chunk async for chunk in chunks]).decode().splitlines()
            found = [entry for entry in self._entries(principal, names) if answers(entry, asked)]
            found.sort(key=hub_id)
            whole = bool(asked["full"])
            told = [described(one, self.live(principal, one.name), whole=whole) for one in found[: asked["limit"]]]
            yield json.dumps(told).encode()

        return replace(reply, headers=JSON, chunks=listed())

    def _entries(self, principal: Principal, names: Iterable[str]) -> list[ModelEntry]:
        models, visible = self.catalogue().models, self.visible
        return [
            models[name]
            for name in names
            if name in models and any(visible(principal, action, f"/model/{name}") for action in ("infer", "read"))
        ]


class HubModel(_HubDoor):
    """``GET …/api/models/{owner}/{model}``: one card, for a principal who may read the model."""

    name = "huggingface.model"
    paths: Sequence[tuple[str, str]] = [
        ("GET", before + LIST + model + revision)
        for before in (PREFIX, "")  # the operator API asks nothing of this kind, so here nobody is in the way
        for model in ("/{model}", "/{owner}/{model}")
        for revision in ("", "/revision/{revision}")
    ]

    def __init__(self, catalogue: Callable[[], Catalogue], live: Live = nothing_seen) -> None:
        self.catalogue, self.live = catalogue, live

    async def read_call(self, request: Request) -> Call:
        asked = request.path_params
        return Call(
            id=new_call_id(),
            door=self.name,
            action="read",
            resource=f"/model/{asked['model']}",
            arguments={"owner": asked.get("owner", ""), "revision": asked.get("revision", MAIN)},
            operation="model",
            traceparent=request.headers.get("traceparent", ""),
        )

    def translate(self, admission: Admission, reply: BackendReply) -> BackendReply:
        chunks, asked = reply.chunks, admission.call.arguments

        async def told() -> AsyncGenerator[bytes]:
            async with aclosing(chunks):
                name = b"".join([chunk async for chunk in chunks]).decode()
            entry = self.catalogue().models.get(name)
            if entry is None or asked["owner"] not in ("", entry.owner) or asked["revision"] != MAIN:
                raise BackendRejected(*NO_SUCH_MODEL)
            yield json.dumps(described(entry, self.live(admission.principal, name), whole=True)).encode()

        return replace(reply, headers=JSON, chunks=told())


class HubPaths:
    """A plain ASGI class in front of the routes: a hub's client that asks for the list is led to the hub's list."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == LIST and scope["method"] == "GET" and is_hub_client(scope):
            scope = {**scope, "path": PREFIX + LIST, "raw_path": (PREFIX + LIST).encode()}
        await self.app(scope, receive, send)


def is_hub_client(scope: Scope) -> bool:
    agent = next((value for name, value in scope["headers"] if name == b"user-agent"), b"")
    return b"hf_hub/" in agent or not QUESTIONS.isdisjoint(parse_qs(scope["query_string"].decode("latin-1")))


def questions_in(query: str) -> dict[str, Any]:
    """What is asked of the list; what a hub knows and we do not (``gated``, ``apps``, …) narrows nothing down.

    There is one order, by name, whatever ``sort`` says: nobody counts downloads or likes here. Raises ``BadRequest``.
    """
    asked = parse_qs(query)
    limit = asked.get("limit", [str(MOST)])[0]
    if not (limit.isascii() and limit.isdigit() and limit.strip("0")):
        raise BadRequest("invalid_query", "limit is a whole number above 0")
    return {
        "tags": [*asked.get("filter", []), *asked.get("pipeline_tag", [])],
        "author": asked.get("author", [""])[0],
        "search": asked.get("search", [""])[0],
        "limit": min(int(limit.lstrip("0")[:9]), MOST),  # Python reads no number of 5,000 digits
        "full": any(asked.get(name, ["false"])[0].casefold() != "false" for name in FULL),
    }


def answers(entry: ModelEntry, asked: Mapping[str, Any]) -> bool:
    tags = {tag.casefold() for tag in tags_of(entry)}
    return (
        all(tag.casefold() in tags for tag in asked["tags"])
        and asked["author"] in ("", entry.owner)
        and asked["search"].casefold() in hub_id(entry).casefold()
    )


def hub_id(entry: ModelEntry) -> str:
    return f"{entry.owner}/{entry.name}"


def pipeline_of(entry: ModelEntry) -> str:
    named = PIPELINES.get(entry.task, entry.task)
    if isinstance(named, str):
        return named
    return next((named[one] for one in entry.card.modalities if one in named), entry.task)


def tags_of(entry: ModelEntry) -> list[str]:
    card, licence = entry.card, entry.card.licence
    tags = [pipeline_of(entry), entry.task, *card.languages, *card.tags, *entry.labels]
    tags += [f"license:{licence.casefold()}"] if licence else []
    return list(dict.fromkeys(tags))


def described(entry: ModelEntry, live: Iterable[tuple[str, float, int]], *, whole: bool) -> dict[str, Any]:
    """A model as the hub's API writes one; ``whole`` with its card and metrics."""
    told: dict[str, Any] = {
        "_id": entry.name,
        "id": hub_id(entry),
        "modelId": hub_id(entry),
        "author": entry.owner,
        "private": True,
        "gated": False,
        "downloads": 0,
        "likes": 0,
        "pipeline_tag": pipeline_of(entry),
        "tags": tags_of(entry),
    }
    if whole:
        index = model_index(entry, live)
        told |= {"siblings": [], "cardData": card_data(entry) | ({"model-index": index} if index else {})}
        told |= {"model-index": index} if index else {}
    return told


def card_data(entry: ModelEntry) -> dict[str, Any]:
    card: ModelCard = entry.card
    said = {
        "language": list(card.languages),
        "license": card.licence.casefold(),
        "pipeline_tag": pipeline_of(entry),
        "tags": tags_of(entry),
        "description": entry.description,
        "model_name": entry.name,
        "task": entry.task,
        "tier": card.tier,
        "modalities": list(card.modalities),
        "context_tokens": card.context_tokens,
        "max_output_tokens": card.max_output_tokens,
        "parameters": card.parameters,
        "hardware": card.hardware.model_dump(exclude_none=True),
        "adapters": card.adapters,
        "price": entry.price.model_dump(),
    }
    return {name: value for name, value in said.items() if value not in (None, "", [], {})}


def model_index(entry: ModelEntry, live: Iterable[tuple[str, float, int]]) -> list[dict[str, Any]]:
    """What was measured before, and what was seen in use; empty where there is neither."""
    card = entry.card
    results = [
        _result(
            one.task or pipeline_of(entry), one.dataset, one.metric, one.value, args=_asides(one.n, one.measured_on)
        )
        for one in card.quality
    ]
    if card.latency is not None:
        results.append(_result(pipeline_of(entry), card.latency.measured_on, "latency_p50_ms", card.latency.p50_ms, {}))
    for metric, value, answers_seen in live:
        results.append(_result(pipeline_of(entry), "in use, your own calls", metric, value, _asides(answers_seen, "")))
    return [{"name": entry.name, "results": results}] if results else []


def _asides(n: int | None, measured_on: str) -> dict[str, Any]:
    return ({"n": n} if n else {}) | ({"measured_on": measured_on} if measured_on else {})


def _result(task: str, dataset: str, metric: str, value: float, args: Mapping[str, Any]) -> dict[str, Any]:
    slug = "".join(c if c.isalnum() else "-" for c in dataset.casefold()).strip("-")
    measured: dict[str, Any] = {"type": metric, "value": value} | ({"args": dict(args)} if args else {})
    return {"task": {"type": task}, "dataset": {"type": slug, "name": dataset}, "metrics": [measured]}
