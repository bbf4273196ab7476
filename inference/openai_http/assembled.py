"""Plain chats and completions asked for as streams and put together here, so that what was made is always known.

vLLM says how many tokens a plain answer took only at its end: whoever hangs up before leaves no count. As a stream each
chunk carries it. A frozen server is noticed by its first token, too. The price is processor time, about 0.2 ms a token;
that is why it has to be asked for. One difference is the server's own: a forced tool call that is cut short comes back
as the call it had begun, where a plain answer has its raw text.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, asynccontextmanager
from http import HTTPStatus
from typing import Any

import msgspec
from msgspec.structs import replace

from inference.backend import BackendReply, BackendRequest
from inference.errors import BackendBroke
from inference.openai_http.wire import UNREADABLE
from inference.sse import EventParser
from inference.vllm import VllmBackend

ASSEMBLED = frozenset({"chat", "completions"})
NOT_STREAMED = (b'"use_beam_search"', b'"best_of"', b'"prompt_logprobs"', b'"return_token_ids"', b'"stream"')
"""Parts of a body that vLLM would refuse to stream or answer otherwise, or that say themselves how to answer."""

ONLY_STREAMED = frozenset({"prompt_token_ids", "token_ids"})
"""What a stream may carry although nobody asked for it."""

DONE = "[DONE]"
ASKED: Mapping[str, Any] = {
    "stream": True,
    "stream_options": {"include_usage": True, "continuous_usage_stats": True},
}
WHOLE = {"chat.completion.chunk": "chat.completion"}
EMPTY: tuple[Any, ...] = (None, [], {}, "")
MISSHAPEN = (TypeError, AttributeError, KeyError, RecursionError)
"""What JSON of another shape than the protocol's makes of reading it."""

_read = msgspec.json.Decoder(dict[str, Any]).decode
_read_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Assembled:
    """A ``Backend`` around one server. The head of a plain reply is lent when its first token is here."""

    def __init__(self, inner: VllmBackend) -> None:
        self.inner = inner

    @asynccontextmanager
    async def send(self, request: BackendRequest) -> AsyncGenerator[BackendReply]:
        streamed = as_stream(request)
        if streamed is None:
            async with self.inner.send(request) as reply:
                yield reply
            return
        async with self.inner.send(streamed) as reply:
            if reply.status != HTTPStatus.OK or not _is_stream(reply):
                yield reply  # a refusal is worded alike for both
                return
            async with aclosing(_whole(reply)) as chunks:
                headers = (*_without_length(reply), ("content-type", "application/json"))
                yield replace(reply, headers=headers, chunks=chunks)

    async def aclose(self) -> None:
        await self.inner.aclose()


def as_stream(request: BackendRequest) -> BackendRequest | None:
    """The same question as a stream; None where it must be asked as it is."""
    if request.streams or request.operation not in ASSEMBLED or any(part in request.body for part in NOT_STREAMED):
        return None
    try:
        fields = _read_fields(request.body)
    except UNREADABLE:
        return None  # whoever is asked will refuse it
    return replace(request, body=msgspec.json.encode({**fields, **ASKED}), streams=True)


class Assembly:
    """The plain answer of which these are the chunks."""

    def __init__(self) -> None:
        self._answer: dict[str, Any] = {}
        self._choices: dict[int, dict[str, Any]] = {}

    def add(self, chunk: dict[str, Any]) -> None:
        choices, usage = chunk.pop("choices", []), chunk.pop("usage", None)
        self._answer |= {name: value for name, value in chunk.items() if value is not None or name not in self._answer}
        if usage is not None and not choices:
            self._answer["usage"] = usage  # of the whole; what stands in a chunk with a choice is a running count
        for part in choices:
            choice = self._choices.setdefault(part.get("index", 0), {})
            said = {name: value for name, value in part.items() if name not in ONLY_STREAMED}
            merge(choice, {"message" if name == "delta" else name: value for name, value in said.items()})

    def whole(self) -> dict[str, Any]:
        """Raises ``BackendBroke`` when nothing was added."""
        if not self._choices:
            raise BackendBroke("truncated", "the server answered without a choice")
        kind = self._answer.get("object", "")
        choices = [self._choices[index] for index in sorted(self._choices)]
        return {**self._answer, "object": WHOLE.get(kind, kind), "choices": [_finished(each) for each in choices]}


def merge(into: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Texts grow, lists of numbered parts are merged by ``index``, other lists grow, and what is last said holds."""
    for name, value in more.items():
        known = into.get(name)
        if value is None or (name in into and value in EMPTY):
            into.setdefault(name, value)
        elif isinstance(known, dict) and isinstance(value, dict):
            merge(known, value)
        elif isinstance(known, str) and isinstance(value, str) and name not in ("role", "id", "type", "finish_reason"):
            into[name] = known + value
        elif isinstance(value, list):
            into[name] = _longer(known or [], value)
        else:
            into[name] = value


def _longer(known: list[Any], more: list[Any]) -> list[Any]:
    for part in more:
        numbered = isinstance(part, dict) and "index" in part
        same = next((one for one in known if numbered and one.get("index") == part["index"]), None)
        if same is None:
            known.append(part)
        else:
            merge(same, part)
    return known


def _finished(choice: dict[str, Any]) -> dict[str, Any]:
    """A whole message has the number of a tool call by its place and not in a field."""
    message = choice.get("message")
    for call in (message.get("tool_calls") or []) if isinstance(message, dict) else []:
        call.pop("index", None)
    return choice


async def _whole(reply: BackendReply) -> AsyncGenerator[bytes]:
    parser, assembly = EventParser(), Assembly()
    async with aclosing(reply.chunks) as chunks:
        async for piece in chunks:
            for event in parser.feed(piece):
                if event.data != DONE:
                    _add(assembly, event.data)
    try:
        answer = msgspec.json.encode(assembly.whole())
    except MISSHAPEN as error:
        raise BackendBroke("untranslatable", f"the chunks do not make one answer: {error}") from error
    yield answer


def _add(assembly: Assembly, data: str) -> None:
    try:
        assembly.add(_read(data))
    except UNREADABLE as error:
        raise BackendBroke("untranslatable", f"a chunk is not a JSON object: {error}") from error
    except MISSHAPEN as error:
        raise BackendBroke("untranslatable", f"a chunk is not such as this protocol has: {error}") from error


def _is_stream(reply: BackendReply) -> bool:
    return dict(reply.headers).get("content-type", "").lower().startswith("text/event-stream")


def _without_length(reply: BackendReply) -> tuple[tuple[str, str], ...]:
    return tuple(header for header in reply.headers if header[0] not in ("content-type", "content-length"))
