"""What a caller may not say to a model server, and what he may say only in other words. A table and its reading; pure.

vLLM takes over a hundred fields at the top of a request and ignores what it does not know. Some reach past the caller's
own answer: into other tenants' cache entries, the server's memory, its extensions, hosts beside it. Those are refused,
with the reason. Old names of constraints it drops without a word, so that the text comes unconstrained: those are
translated, or refused where there is no translation.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from inference.errors import BackendRejected

Fields = dict[str, msgspec.Raw]

NULLS = frozenset({b"null", b"false"})

OURS = frozenset({"cache_salt", "priority", "request_id", "session_id"})
"""Said by the gateway or by nobody: whose prefixes are shared, who goes first, under which name the server works."""

REFUSED: Mapping[str, str] = {
    "kv_transfer_params": "it moves cache entries between servers",
    "ec_transfer_params": "it moves cache entries between servers",
    "vllm_xargs": "it speaks to the server's extensions",
    "mm_processor_kwargs": "it changes how much memory the server takes for media",
    "media_io_kwargs": "it changes how the server fetches media",
    "prompt_embeds": "it makes the server load tensors",
    "logits_processors": "it names code for the server to run",
    "chat_template": "it is a program for the server to run",
    "watermarking": "whether answers are marked is the operator's to say",
    "generation_config": "it says the same as other fields in words that nobody decides on",
    "previous_input_messages": "it stands in for a conversation that the server keeps",
    "mcp_servers": "the server would call tools that nobody has decided on",
    "functions": "servers ignore it; use tools",
    "function_call": "servers ignore it; use tool_choice",
    "guided_decoding_backend": "which engine enforces a constraint is the server's to choose",
}

STATEFUL: Mapping[str, str] = {
    "background": "the answer would be fetched later",
    "container": "it names something that the server keeps",
    "conversation": "it names something that the server keeps",
    "previous_response_id": "it names something that the server keeps",
    "prompt": "it names something that the server keeps",
    "store": "the server would keep the answer",
}
"""Of responses and messages. What one tenant leaves with a server, another could fetch: the server knows no tenants."""

GUIDED: Mapping[str, str] = {
    "guided_json": "json",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
    "guided_json_object": "json_object",
    "guided_whitespace_pattern": "whitespace_pattern",
    "structural_tag": "structural_tag",
}
"""Names up to vLLM 0.11, and the member of ``structured_outputs`` that each became."""

CONSTRAINTS = ("structured_outputs", "response_format", "text")
KEPT_BY_SERVER = frozenset({"responses", "messages", "count_tokens"})
CALLERS_TOOLS = frozenset({"function", "custom", "local_shell", "apply_patch", "namespace"})
"""Tools of ``responses`` that the caller runs. All others (search, code, MCP) a server would run, past any decision."""

SCHEMA_OF = {"chat": "parameters", "responses": "parameters", "messages": "input_schema"}
TABLED = OURS | REFUSED.keys() | GUIDED.keys()

_read_object = msgspec.json.Decoder(Fields).decode
_read_tools = msgspec.json.Decoder(list[Fields]).decode
_TRUE = msgspec.Raw(b"true")


def looked_at(operation: str) -> frozenset[str]:
    """The names that make a request of ``operation`` more than a body to pass on."""
    names = TABLED | {"tools"} if operation in SCHEMA_OF else TABLED
    if operation in KEPT_BY_SERVER:
        names |= STATEFUL.keys()
    return names | {"output_format"} if operation == "messages" else names


def refuse(fields: Fields, operation: str) -> None:
    """Raises ``BackendRejected``: ``unsafe_parameter`` or ``stateful_request``."""
    for name in REFUSED.keys() & fields.keys():
        if bytes(fields[name]) != b"null":
            raise BackendRejected("unsafe_parameter", f"{name} is not passed on: {REFUSED[name]}")
    if operation not in KEPT_BY_SERVER:
        return
    for name in STATEFUL.keys() & fields.keys():
        if bytes(fields[name]) not in NULLS:
            raise BackendRejected("stateful_request", f"{name} is not supported here: {STATEFUL[name]}")


def translate_guided(fields: Fields, *, speaks_vllm: bool) -> None:
    """Old names of constraints to ``structured_outputs``, in place. Raises ``BackendRejected``."""
    given = {name: fields.pop(name) for name in GUIDED.keys() & fields.keys()}
    given = {name: raw for name, raw in given.items() if bytes(raw) not in NULLS}
    if not given:
        return
    names = ", ".join(sorted(given))
    if not speaks_vllm:
        raise BackendRejected("unsupported_constraint", f"{names}: this server knows only response_format")
    if any(name in fields and bytes(fields[name]) != b"null" for name in CONSTRAINTS):
        raise BackendRejected("ambiguous_constraint", f"{names} beside another constraint: say it once")
    constraint = {GUIDED[name]: raw for name, raw in given.items()}
    fields["structured_outputs"] = msgspec.Raw(msgspec.json.encode(constraint))


def translate_output_format(fields: Fields) -> None:
    """The beta name of ``output_config.format`` in messages, in place. Raises ``BackendRejected``."""
    given = fields.pop("output_format")
    if bytes(given) == b"null":
        return
    config = _object_in(fields.get("output_config"))
    if "format" in config:
        raise BackendRejected("ambiguous_constraint", "output_format beside output_config.format: say it once")
    fields["output_config"] = msgspec.Raw(msgspec.json.encode(config | {"format": given}))


def check_tools(fields: Fields) -> None:
    """Raises ``BackendRejected`` (``server_side_tool``) for a tool that the server would run."""
    for tool in _tools_in(fields):
        kind = _text(tool.get("type"))
        nested = _tools_in(tool) if kind == "namespace" else []
        strange = {kind} | {_text(each.get("type")) for each in nested}
        strange -= CALLERS_TOOLS
        if strange:
            raise BackendRejected("server_side_tool", f"a tool of type {min(strange)!r} would run at the model server")


def make_strict(fields: Fields, operation: str) -> None:
    """``"strict": true`` where a tool has a schema and says nothing, in place: vLLM otherwise enforces no schema."""
    schema, tools = SCHEMA_OF[operation], _tools_in(fields)
    changed = False
    for tool in tools:
        if operation == "chat":
            function = _object_in(tool.get("function"))
            if _set_strict(function, schema):
                tool["function"] = msgspec.Raw(msgspec.json.encode(function))
                changed = True
        else:
            changed |= _set_strict(tool, schema)
    if changed:
        fields["tools"] = msgspec.Raw(msgspec.json.encode(tools))


def _set_strict(function: Fields, schema: str) -> bool:
    if not bytes(function.get(schema, b"")).startswith(b"{") or bytes(function.get("strict", b"null")) != b"null":
        return False
    function["strict"] = _TRUE
    return True


def _tools_in(fields: Fields) -> list[Fields]:
    """[] for anything that is no list of objects: refusing it is the server's business."""
    try:
        return _read_tools(fields.get("tools", b"[]"))
    except msgspec.DecodeError:
        return []


def _object_in(raw: msgspec.Raw | None) -> Fields:
    try:
        return _read_object(raw) if raw is not None else {}
    except msgspec.DecodeError:
        return {}


def _text(raw: msgspec.Raw | None) -> str:
    try:
        return msgspec.json.decode(raw, type=str) if raw is not None else ""
    except msgspec.DecodeError:
        return ""
