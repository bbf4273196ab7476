"""What a language model was asked and what it said, read from the bytes of four protocols. Pure; keeps nothing.

Whole replies and streams come to the same. Nothing is validated: what is not there is not there, and bytes that are not
of their protocol say nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from inference.sse import read_event, split_events

CUT_OFF = frozenset({"length", "max_tokens", "max_output_tokens"})
BLOCKED = frozenset({"content_filter", "refusal"})
JSON_FORMATS = frozenset({"json_schema", "json_object"})

_decode = msgspec.json.Decoder().decode


@dataclass(slots=True)
class Spoken:
    """``tool_calls`` are (name, arguments as JSON text). ``endings`` are the reasons to stop, one for each choice."""

    parts: list[str] = field(default_factory=list)
    endings: list[str] = field(default_factory=list)
    tool_calls: list[tuple[str, str]] = field(default_factory=list)
    refused: bool = False

    @property
    def text(self) -> str:
        return "".join(self.parts)


@dataclass(slots=True)
class Asked:
    """What a request wants that an answer can be held against. ``tool_failed``: it tells of a tool's error."""

    wants_json: bool = False
    tools: frozenset[str] = frozenset()
    tool_failed: bool = False


def read_spoken(operation: str, body: bytes, *, is_stream: bool) -> Spoken | None:
    """None for an operation that does not speak, and for what cannot be read."""
    reader = _READERS.get(operation)
    if reader is None:
        return None
    spoken, streamed = Spoken(), _Streamed()
    try:
        for document in _documents(body, is_stream=is_stream):
            if isinstance(document, dict):
                reader(document, spoken, streamed)
    except (msgspec.DecodeError, TypeError, AttributeError, ValueError):
        return None
    spoken.tool_calls += [(name, "".join(pieces)) for name, pieces in streamed.calls.values()]
    return spoken


def read_asked(operation: str, body: bytes) -> Asked:
    try:
        said = _decode(body)
        if operation not in _READERS or not isinstance(said, dict):
            return Asked()
        return Asked(_wants_json(said), frozenset(_tool_names(said)), _tells_of_failure(said))
    except (msgspec.DecodeError, TypeError, AttributeError):
        return Asked()


def structured_output_failed(asked: Asked, spoken: Spoken) -> bool | None:
    """Whether the answer is not the JSON that was asked for; None where none was."""
    if not asked.wants_json or spoken.tool_calls:
        return None
    return not _is_json(spoken.text)


def tool_use_failed(asked: Asked, spoken: Spoken) -> bool | None:
    """Whether a tool was called that was not offered, or with arguments that are no JSON object, or failed before.

    None where tools play no part.
    """
    if not asked.tools and not asked.tool_failed:
        return None
    wrong = any(name not in asked.tools or not _is_json(said, dict) for name, said in spoken.tool_calls)
    return wrong or asked.tool_failed


@dataclass(slots=True)
class _Streamed:
    """Tool calls whose arguments come in pieces, by their place."""

    calls: dict[Any, tuple[str, list[str]]] = field(default_factory=dict)

    def add(self, place: Any, name: str, piece: str) -> None:
        if not isinstance(name, str) or not isinstance(piece, str):
            raise TypeError("names and arguments of tools are text")
        known = self.calls.setdefault(place, (name, []))
        known[1].append(piece)


def _documents(body: bytes, *, is_stream: bool) -> Iterator[Any]:
    if not is_stream:
        yield _decode(body)
        return
    for raw in body.split(b"\n\n") if b"\r" not in body else split_events(body):
        data = [line for line in raw.split(b"\n") if line.startswith(b"data:")]
        if len(data) == 1 and b"\r" not in raw:  # as nearly all are; reading fields one by one takes four times as long
            said = data[0][5:].lstrip()
        else:
            event = read_event(raw)
            said = b"" if event is None else event.data.encode()
        if said.startswith(b"{"):
            yield _decode(said)


def _read_chat(document: dict[str, Any], spoken: Spoken, streamed: _Streamed) -> None:
    for choice in document.get("choices") or ():
        index = choice.get("index", 0)
        said = choice.get("message") or choice.get("delta") or {}
        _add_text(spoken, said.get("content"))
        spoken.refused |= bool(said.get("refusal"))
        for position, call in enumerate(said.get("tool_calls") or ()):
            function = call.get("function") or {}
            name, piece = function.get("name") or "", function.get("arguments") or ""
            streamed.add((index, call.get("index", position)), name, piece)
        _add_ending(spoken, choice.get("finish_reason"))


def _read_completions(document: dict[str, Any], spoken: Spoken, streamed: _Streamed) -> None:  # noqa: ARG001  as all
    for choice in document.get("choices") or ():
        _add_text(spoken, choice.get("text"))
        _add_ending(spoken, choice.get("finish_reason"))


def _read_responses(document: dict[str, Any], spoken: Spoken, streamed: _Streamed) -> None:
    """Of a stream only the last event counts: it holds the whole response."""
    kind = str(document.get("type") or "")
    if kind.startswith("response.") and kind not in ("response.completed", "response.incomplete", "response.failed"):
        return
    response = document.get("response") or document
    for place, item in enumerate(response.get("output") or ()):
        if item.get("type") == "function_call":
            streamed.add(place, item.get("name") or "", item.get("arguments") or "")
        for part in item.get("content") or ():
            if isinstance(part, dict):
                _add_text(spoken, part.get("text"))
                spoken.refused |= part.get("type") == "refusal"
    details = response.get("incomplete_details") or {}
    _add_ending(spoken, details.get("reason") or response.get("status"))


def _read_messages(document: dict[str, Any], spoken: Spoken, streamed: _Streamed) -> None:
    kind = document.get("type")
    if kind == "content_block_start" and (block := document.get("content_block") or {}).get("type") == "tool_use":
        streamed.add(document.get("index"), block.get("name") or "", "")
    elif kind == "content_block_delta":
        delta = document.get("delta") or {}
        _add_text(spoken, delta.get("text"))
        if document.get("index") in streamed.calls:
            streamed.add(document.get("index"), "", delta.get("partial_json") or "")
    elif kind == "message_delta":
        _add_ending(spoken, (document.get("delta") or {}).get("stop_reason"))
    elif kind == "message":
        for block in document.get("content") or ():
            _add_text(spoken, block.get("text"))
            if block.get("type") == "tool_use":
                spoken.tool_calls.append((str(block.get("name") or ""), json.dumps(block.get("input"))))
        _add_ending(spoken, document.get("stop_reason"))


_READERS: Mapping[str, Callable[[dict[str, Any], Spoken, _Streamed], None]] = {
    "chat": _read_chat,
    "completions": _read_completions,
    "responses": _read_responses,
    "messages": _read_messages,
}
SPEAKING = frozenset(_READERS)


def _add_text(spoken: Spoken, text: Any) -> None:
    if isinstance(text, str):
        spoken.parts.append(text)


def _add_ending(spoken: Spoken, reason: Any) -> None:
    if isinstance(reason, str):
        spoken.endings.append(reason)


def _wants_json(said: dict[str, Any]) -> bool:
    """The words of chat, of responses, of messages, and of vLLM, in turn."""
    wanted = [said.get("response_format"), (said.get("text") or {}).get("format")]
    wanted += [said.get("output_format"), (said.get("output_config") or {}).get("format")]
    if any(isinstance(each, dict) and each.get("type") in JSON_FORMATS for each in wanted):
        return True
    structured = said.get("structured_outputs") or {}
    return bool(said.get("guided_json") or structured.get("json") or structured.get("json_object"))


def _tool_names(said: dict[str, Any]) -> Iterator[str]:
    for tool in said.get("tools") or ():
        name = (tool.get("function") or {}).get("name") or tool.get("name")
        if isinstance(name, str):
            yield name


def _tells_of_failure(said: dict[str, Any]) -> bool:
    """Messages have a word for a tool that failed; the others tell it in their own words, which are not read."""
    messages = said.get("messages") or ()
    content = messages[-1].get("content") if messages and isinstance(messages[-1], dict) else None
    return isinstance(content, list) and any(
        isinstance(part, dict) and part.get("is_error") is True for part in content
    )


def _is_json(text: str, kind: type = object) -> bool:
    try:
        return isinstance(_decode(text), kind)
    except msgspec.DecodeError:
        return False
