"""Models as tools: what an agent may call is described to it by the model's own signature.

A model of TF Serving takes the inputs of its signature, a language model a prompt, an embedding model texts. The call
is one to the model, decided on ``/model/{name}`` like any other: there is no second grant to give, and none to forget.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Protocol

from controlplane.calls import Call, Principal, new_call_id
from controlplane.gateway.doors.tfserving_call import NAME, call_of
from controlplane.gateway.problems import BadRequest
from controlplane.policy.catalogue import Catalogue, ModelEntry
from inference.errors import BackendBroke
from inference.tfserving import checks, json_schema, rest, tensors, wire
from inference.tfserving.signatures import Signature

CHATS = frozenset({"chat", "text-generation"})
EMBEDS = frozenset({"embedding", "embeddings", "feature-extraction", "sentence-similarity"})
SIGNATURE = "signature_name"
Visible = Callable[[Principal, str, str], bool]

CHAT_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "prompt": {"type": "string", "description": "What the model is asked."},
        "system": {"type": "string", "description": "How it is to answer."},
        "max_tokens": {"type": "integer", "minimum": 1, "description": "Longest answer, tokens."},
    },
    "required": ["prompt"],
    "additionalProperties": False,
}
EMBED_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {"input": {"type": "array", "items": {"type": "string"}, "minItems": 1, "description": "Texts."}},
    "required": ["input"],
    "additionalProperties": False,
}


class Signatures(Protocol):
    def known(
        self, model: str, version: int | None = None, label: str | None = None
    ) -> Mapping[str, Signature] | None: ...


@dataclass(frozen=True, slots=True)
class ModelTool:
    """``name`` is one that both MCP and the OpenAI API take; ``model`` is the catalogue's."""

    name: str
    model: str
    description: str
    parameters: Mapping[str, Any]


class ModelTools:
    """``served`` are the models that have a server. A model whose signature is not known yet is no tool yet."""

    def __init__(
        self,
        catalogue: Callable[[], Catalogue],
        served: Callable[[], Collection[str]],
        signatures: Signatures,
        visible: Visible,
    ) -> None:
        self._catalogue, self._served, self._signatures, self._visible = catalogue, served, signatures, visible

    def listed(self, principal: Principal) -> list[ModelTool]:
        """What ``principal`` could be allowed to call, by name."""
        entries = self._catalogue().models
        named = {tool_name(name): entries[name] for name in sorted(self._served(), reverse=True) if name in entries}
        tools = (self._tool(name, entry) for name, entry in sorted(named.items()))
        return [one for one in tools if one is not None and self._visible(principal, "infer", f"/model/{one.model}")]

    def call_of(self, door: str, name: str, arguments: Mapping[str, Any], traceparent: str) -> Call:
        """Raises ``BadRequest``: ``invalid_arguments``, ``invalid_name``."""
        models = self._catalogue().models
        entry = next(
            (models[each] for each in sorted(self._served()) if each in models and tool_name(each) == name), None
        )
        known = self._predicts(entry.name) if entry is not None else {}
        if known and entry is not None:
            return _prediction(door, entry.name, known, arguments, traceparent)
        if entry is not None and entry.task in CHATS | EMBEDS:
            return _openai_call(door, entry, arguments, traceparent)
        return _unknown(door, name, traceparent)

    def _tool(self, name: str, entry: ModelEntry) -> ModelTool | None:
        known = self._predicts(entry.name)
        said = entry.description or f"The model {entry.name}."
        if known:
            return ModelTool(name, entry.name, said, _prediction_schema(known))
        if entry.task in CHATS:
            return ModelTool(name, entry.name, said, CHAT_SCHEMA)
        return ModelTool(name, entry.name, said, EMBED_SCHEMA) if entry.task in EMBEDS else None

    def _predicts(self, model: str) -> dict[str, Signature]:
        return json_schema.predict_signatures(self._signatures.known(model) or {})


def tool_name(model: str) -> str:
    """``model`` in the letters that every protocol takes, at most 64. Of two that come out alike, the first counts."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", model)[:64]


def answer_of(call: Call, status: int, body: bytes) -> dict[str, Any]:
    """What the model answered, as one JSON object. Raises ``BackendBroke`` for what cannot be read."""
    try:
        if call.operation == "Predict":
            response = wire.parse(wire.METHODS["Predict"].response, body)
            return dict(json.loads(rest.predict_reply(response, rest.COLUMNS)))
        said = json.loads(body)
        if status >= HTTPStatus.BAD_REQUEST:
            return {"error": said}
        if call.operation == "chat":
            return {"text": said["choices"][0]["message"]["content"] or ""}
        return {"embeddings": [one["embedding"] for one in said["data"]]}
    except (ValueError, LookupError, TypeError, RecursionError, wire.WireError, tensors.TensorError) as error:
        raise BackendBroke("untranslatable", str(error)) from error


def _prediction_schema(known: Mapping[str, Signature]) -> dict[str, Any]:
    """The default signature's inputs. Where there are others, the caller may name one and then owes its inputs."""
    chosen = known.get(wire.DEFAULT_SIGNATURE) or next(iter(known.values()))
    schema = json_schema.arguments_schema(chosen)
    if len(known) > 1:
        inputs: dict[str, Any] = {}
        for one in known.values():
            inputs |= json_schema.arguments_schema(one)["properties"]
        choice = {"type": "string", "enum": sorted(known), "description": "Which signature; each has its own inputs."}
        schema = {**schema, "properties": inputs | {SIGNATURE: choice}, "required": []}
    return schema


def _prediction(
    door: str, model: str, known: Mapping[str, Signature], arguments: Mapping[str, Any], traceparent: str
) -> Call:
    inputs = {name: value for name, value in arguments.items() if name != SIGNATURE or len(known) == 1}
    default = wire.DEFAULT_SIGNATURE if wire.DEFAULT_SIGNATURE in known else next(iter(known))
    named = arguments.get(SIGNATURE, default) if len(known) > 1 else default
    signature = known.get(named) if isinstance(named, str) else None
    if signature is None:
        raise BadRequest("invalid_arguments", f"{model} has no signature {named!r}; it has {', '.join(known)}")
    spec = wire.ModelSpec(name=model)
    try:
        body = rest.predict_request(spec, {"inputs": inputs, SIGNATURE: named}, known).SerializeToString()
        checks.check_request("Predict", body, known)
    except rest.RestError as error:
        raise BadRequest("invalid_arguments", str(error)) from None
    except checks.Misfit as misfit:
        raise BadRequest("invalid_arguments", misfit.detail) from None
    return call_of(door, "Predict", body, traceparent=traceparent)


def _unknown(door: str, name: str, traceparent: str) -> Call:
    """A call all the same: policy denies what it does not list, on record, and nobody serves it."""
    if not NAME.fullmatch(name):
        raise BadRequest("invalid_name", "no tool can have this name")
    resource = f"/model/{name}"
    return Call(
        id=new_call_id(), door=door, action="infer", resource=resource, operation="Predict", traceparent=traceparent
    )


def _openai_call(door: str, entry: ModelEntry, arguments: Mapping[str, Any], traceparent: str) -> Call:
    chats = entry.task in CHATS
    body = _chat_body(entry.name, arguments) if chats else _embed_body(entry.name, arguments)
    return Call(
        id=new_call_id(),
        door=door,
        action="infer",
        resource=f"/model/{entry.name}",
        body=json.dumps(body).encode(),
        arguments={
            "model": entry.name,
            "max_tokens": body.get("max_tokens"),
            "stream": False,
            "messages_count": len(body.get("messages", ())),
        },
        operation="chat" if chats else "embeddings",
        headers=(("content-type", "application/json"),),
        traceparent=traceparent,
    )


def _chat_body(model: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    prompt, system, most = arguments.get("prompt"), arguments.get("system"), arguments.get("max_tokens")
    sound = isinstance(prompt, str) and (system is None or isinstance(system, str))
    sound = sound and (most is None or (type(most) is int and most >= 1))
    if not sound or arguments.keys() - CHAT_SCHEMA["properties"].keys():
        raise BadRequest("invalid_arguments", "it takes prompt, and if need be system and max_tokens")
    messages = [{"role": "system", "content": system}] if system else []
    body: dict[str, Any] = {"model": model, "messages": [*messages, {"role": "user", "content": prompt}]}
    return body if most is None else body | {"max_tokens": most}


def _embed_body(model: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    texts = arguments.get("input")
    if not isinstance(texts, list) or not texts or not all(isinstance(one, str) for one in texts) or len(arguments) > 1:
        raise BadRequest("invalid_arguments", "it takes input, a list of texts")
    return {"model": model, "input": texts}
