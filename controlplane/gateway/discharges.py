"""How each obligation is met: the entries of the table in ``obligations.py``.

    max_tokens  {max}                  the model may answer with so many tokens, over all choices together
    rate_limit  {key, per_s, max}      so many calls in any window; key is subject, tenant or resource
    redact      {in: […], out: […]}    named patterns masked on the way to the backend and on the way back
    priority    {level}                how urgent the call is where it has to queue; 0 is the most urgent, 9 the least
    cache       {ttl_s, any}           the answer may be saved and given again for so long
    budget      {limits: […]}          there is money left for the call; see ``gateway/budget.py``
    require_approval  {approvers, …}   people have agreed to exactly this call; see ``gateway/approval.py``

Fails closed: what cannot be applied to a call denies it.
"""

from __future__ import annotations

import base64
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from msgspec.structs import replace

from controlplane.calls import Call, Obligation, Principal
from controlplane.gateway.obligations import Obligations, ObligationUnmet
from controlplane.gateway.redaction import (
    NOT_JSON,
    PATTERNS,
    CannotRedact,
    mask_json,
    mask_lines,
    mask_text,
    mask_value,
)
from controlplane.limits import Rate, RateLimit
from controlplane.tools.mcp_message import decoded
from inference.errors import BackendBroke

TOKEN_FIELDS = {
    "chat": ("max_tokens", "max_completion_tokens"),
    "completions": ("max_tokens",),
    "responses": ("max_output_tokens",),
    "messages": ("max_tokens",),
}
"""Where an operation states its cap; the first name is the one written when the request states none."""

CHOICE_FIELDS = ("n", "best_of")
TOKENLESS = frozenset(
    {"embeddings", "rerank", "score", "count_tokens", "models", "Predict", "Classify", "Regress", "GetModelMetadata"}
)
MIRRORS = ("mcp-name", "mcp-param-")
"""Headers in which an MCP client repeats what stands in its body, in Base64 where it must."""

ENDS_BY_ITSELF = "/mcp/"  # an MCP caller must offer to read a stream; the answer to one message still ends soon
MAX_HELD_BYTES = 8 * 1024 * 1024

Count = Annotated[int, msgspec.Meta(ge=1)]


def _reader(names: Iterable[str]) -> Callable[[bytes], Any]:
    """Reads of a body these numbers alone, each None where there is none or ``null``."""
    return msgspec.json.Decoder(msgspec.defstruct("Counts", [(name, Count | None, None) for name in names])).decode


READERS = {operation: _reader((*names, *CHOICE_FIELDS)) for operation, names in TOKEN_FIELDS.items()}
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def discharges(limit: RateLimit, monotonic: Callable[[], float] = time.monotonic) -> Obligations:
    """The whole table; ``limit`` keeps the counts."""
    return Obligations(
        before={
            "max_tokens": cap_tokens,
            "rate_limit": KeepRate(limit, monotonic),
            "redact": redact_request,
            "priority": met_later,
            "cache": met_later,
            "budget": met_later,
            "require_approval": met_later,
        },
        after={"redact": redact_reply},
    )


def met_later(principal: Principal, call: Call, obligation: Obligation) -> Call:  # noqa: ARG001  same shape for all
    """``priority`` and ``cache`` are met where the request for the backend is made (``dispatch.request_for``); a budget
    by ``Gateway.budget``, an approval by ``Gateway.approvals``, which deny when there is none.
    """
    return call


def cap_tokens(principal: Principal, call: Call, obligation: Obligation) -> Call:  # noqa: ARG001  same shape for all
    if call.operation in TOKENLESS:
        return call
    names = TOKEN_FIELDS.get(call.operation)
    if names is None:
        raise ObligationUnmet("max_tokens_not_applicable")
    try:
        said = READERS[call.operation](call.body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise ObligationUnmet("max_tokens_unreadable") from None
    asked = {name: number for name in names if (number := getattr(said, name)) is not None}
    choices = max(said.n or 1, said.best_of or 1) * prompts_of(call)
    cap = obligation.parameters["max"] // choices
    if cap < 1:
        raise ObligationUnmet("max_tokens_exceeded")
    if asked and max(asked.values()) <= cap:
        return call
    capped = {name: min(number, cap) for name, number in asked.items()} or {names[0]: cap}
    fields = _decode_fields(call.body)
    body = msgspec.json.encode(fields | {name: msgspec.Raw(b"%d" % number) for name, number in capped.items()})
    return replace(call, body=body, arguments={**call.arguments, "max_tokens": min(capped.values())})


def prompts_of(call: Call) -> int:
    """How many texts are to be completed: each has its own answer."""
    prompts: int = call.arguments.get("inputs_count", 1) if call.operation == "completions" else 1
    return max(prompts, 1)


@dataclass(frozen=True, slots=True)
class KeepRate:
    limit: RateLimit
    monotonic: Callable[[], float]

    def __call__(self, principal: Principal, call: Call, obligation: Obligation) -> Call:
        said = obligation.parameters
        rate = Rate(said["max"], said["per_s"])
        counter = (said.get("rule", ""), *_counted(said["key"], principal, call), rate)
        wait_s = self.limit.take(counter, rate, self.monotonic())
        if wait_s > 0:
            raise ObligationUnmet("rate_limited", retry_after_s=wait_s)
        return call


def _counted(key: str, principal: Principal, call: Call) -> tuple[str, ...]:
    match key:
        case "subject":
            return key, principal.tenant, principal.subject
        case "tenant":
            return key, principal.tenant
        case "resource":
            return key, call.resource
        case _:
            raise ObligationUnmet("unknown_rate_key")


def redact_request(principal: Principal, call: Call, obligation: Obligation) -> Call:  # noqa: ARG001  same shape for all
    inward, outward = _names(obligation.parameters, "in"), _names(obligation.parameters, "out")
    if outward and call.streams and not call.resource.startswith(ENDS_BY_ITSELF):
        raise ObligationUnmet("redact_needs_plain_reply")
    if not inward:
        return call
    headers = tuple((name, _masked_mirror(name, value, inward)) for name, value in call.headers)
    call = call if headers == call.headers else replace(call, headers=headers)
    if not call.body:
        return call
    try:
        body = mask_json(call.body, inward)
    except CannotRedact as error:
        raise ObligationUnmet(error.reason) from None
    return call if body == call.body else replace(call, body=body, arguments=mask_value(call.arguments, inward))


def _masked_mirror(name: str, value: str, inward: tuple[str, ...]) -> str:
    if not name.startswith(MIRRORS):
        return value
    said = decoded(value)
    if said is None:
        raise ObligationUnmet("redact_unreadable_header")
    masked = mask_text(said, inward)
    if masked == said:
        return value
    return masked if said == value else f"=?base64?{base64.b64encode(masked.encode()).decode()}?="


def redact_reply(call: Call, obligation: Obligation, chunks: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:  # noqa: ARG001  same shape for all
    names = _names(obligation.parameters, "out")
    return _masked(chunks, names) if names else chunks


async def _masked(chunks: AsyncGenerator[bytes], names: tuple[str, ...]) -> AsyncGenerator[bytes]:
    """The whole reply, held until its end: a number may be cut in two by any chunk's border.

    Raises ``BackendBroke``: a reply that cannot be masked is not shown.
    """
    held = bytearray()
    async with aclosing(chunks):
        async for chunk in chunks:
            held += chunk
            if len(held) > MAX_HELD_BYTES:
                raise BackendBroke("redact_reply_too_large")
    yield mask_reply(bytes(held), names)


def mask_reply(body: bytes, names: tuple[str, ...]) -> bytes:
    """JSON is masked inside its strings, other text (an event stream, a page) line by line; anything else raises."""
    try:
        return _mask(body, names)
    except CannotRedact as error:
        raise BackendBroke(error.reason) from None
    except UnicodeDecodeError:
        raise BackendBroke("redact_reply_unreadable") from None


def _mask(body: bytes, names: tuple[str, ...]) -> bytes:
    try:
        return mask_json(body, names)
    except CannotRedact as error:
        if error.reason != NOT_JSON:
            raise
        return mask_lines(body.decode("utf-8"), names).encode("utf-8")


def _names(parameters: Mapping[str, Any], way: str) -> tuple[str, ...]:
    names = tuple(parameters.get(way, ()))
    if not PATTERNS.keys() >= set(names):
        raise ObligationUnmet("unknown_pattern")
    return names
