"""Which calls ask the same question. Pure.

Two calls may share an answer when nothing that can change it differs: tenant, policy revision and the duties that shape
what is shown, operation, model, version, and the request body without the fields that only label it. Whatever cannot be
read with certainty has no question, and its answer is not saved.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping
from typing import Any

from controlplane.strict_json import Ambiguous, parse_object
from inference.backend import BackendRequest

MESSAGES = frozenset({"Predict", "Classify", "Regress"})
"""Serialized requests: equal bytes are an equal question, and the same input always gets the same answer."""

DRAWN = frozenset({"chat", "completions", "responses", "messages"})
"""The answer is drawn by chance unless the temperature is 0."""

LABELS: Mapping[str, frozenset[str]] = {
    "chat": frozenset({"user", "metadata", "safety_identifier", "prompt_cache_key", "cache_salt", "priority"}),
    "completions": frozenset({"user", "cache_salt", "priority"}),
    "messages": frozenset({"metadata"}),
    "responses": frozenset({"prompt_cache_key", "cache_salt", "priority"}),  # its reply repeats the other labels
    "embeddings": frozenset({"user", "priority"}),
    "rerank": frozenset({"user", "priority"}),
    "score": frozenset({"user", "priority"}),
}
"""JSON requests, by operation: the fields that only label one."""

WORLDLY = frozenset(
    {"previous_response_id", "conversation", "background", "web_search_options", "mcp_servers", "container"}
)
"""Fields by which an answer depends on more than the request."""

KNOWN_TOOLS = frozenset({"function", "custom", None})  # Anthropic's plain tools have no type
"""Kinds of tools that the caller runs. A server that runs one itself reads the world, and the world changes."""


def key_of(request: BackendRequest, version: str, secret: bytes) -> bytes | None:
    """32 bytes that stand for the question; None for a call whose answer must not be given again.

    Keyed with ``secret``: whoever reads only keys cannot find out by guessing what was asked, or by whom.
    """
    if request.reuse is None or not request.scope or not request.tenant:
        return None
    body = canonical_body(request)
    if body is None:
        return None
    digest = hmac.new(secret, digestmod="sha256")
    names = (request.tenant, request.scope, request.reuse.shaping, request.operation, request.target, version)
    for part in (*names, "stream" if request.streams else "whole"):
        digest.update(_framed(part.encode("utf-8", "surrogatepass")))
    digest.update(_framed(body))
    return digest.digest()


def canonical_body(request: BackendRequest) -> bytes | None:
    """The body without the accidents of spacing, order and labels; None when its answer is not to be saved."""
    if request.operation in MESSAGES:
        return request.body
    if request.operation not in LABELS:
        return None
    try:
        fields = parse_object(request.body)
        if request.operation in DRAWN and not _answers_alike(fields, request):
            return None
        labels = LABELS[request.operation]
        told = {name: value for name, value in fields.items() if name not in labels}
        return json.dumps(told, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    except (Ambiguous, ValueError, RecursionError):
        return None


def _answers_alike(fields: Mapping[str, Any], request: BackendRequest) -> bool:
    """Whether the request alone decides the answer, or policy does not mind that it does not."""
    if any(fields.get(name) for name in WORLDLY):
        return False
    if request.operation == "responses" and fields.get("prompt"):  # one that the server keeps and may change
        return False
    tools = fields.get("tools") or []
    if not isinstance(tools, list) or not all(
        isinstance(one, dict) and one.get("type") in KNOWN_TOOLS for one in tools
    ):
        return False
    if request.reuse is not None and request.reuse.sampled:
        return True
    temperature = fields.get("temperature")
    return isinstance(temperature, int | float) and not isinstance(temperature, bool) and temperature == 0


def _framed(part: bytes) -> bytes:
    return len(part).to_bytes(8, "big") + part
