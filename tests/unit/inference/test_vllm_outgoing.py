"""What goes out for a request: nothing that reaches past the caller's answer, and nothing of his lost on the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from inference.backend import BackendRequest
from inference.errors import BackendRejected
from inference.openai_http.outgoing import Outgoing, Preparer, Rules, salt_key_in

KEY = b"k" * 32
OPERATIONS = ("chat", "completions", "embeddings", "responses", "messages", "rerank", "score")
ALL_USAGE = {"include_usage": True, "continuous_usage_stats": True}


def prepared(
    document: Any,
    operation: str = "chat",
    *,
    tenant: str = "acme",
    stream: bool = False,
    priority: int = 5,
    **rules: Any,
) -> Outgoing:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    request = BackendRequest(
        call_id="1", target="m", operation=operation, body=body, streams=stream, tenant=tenant, priority=priority
    )
    return Preparer(Rules(**{"salt_key": KEY, **rules})).prepare(request)


def sent(document: Any, operation: str = "chat", **more: Any) -> dict[str, Any]:
    """The body without the salt, which is another test's."""
    fields: dict[str, Any] = json.loads(prepared(document, operation, **more).body)
    fields.pop("cache_salt", None)
    if operation == "responses":
        assert fields.pop("store") is False
    return fields


def refused(document: Any, operation: str = "chat", **more: Any) -> str:
    with pytest.raises(BackendRejected) as caught:
        prepared(document, operation, **more)
    assert caught.value.detail
    return caught.value.reason


def test_ours_stands_in_front_and_the_rest_keeps_every_byte() -> None:
    body = b' {"model" : "m",\t"messages":[ ],"stream":true,"x":1e0}\n'
    outgoing = prepared(body, stream=True)
    front, _, rest = outgoing.body.partition(b'},"model"')
    assert b' "model"'.strip() + rest == body.partition(b"{")[2]
    assert json.loads(front + b"}}") == {
        "cache_salt": json.loads(outgoing.body)["cache_salt"],
        "stream_options": ALL_USAGE,
    }
    assert (outgoing.hides_usage, outgoing.hides_running) == (True, True)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_tenant_has_a_salt_of_its_own_that_only_the_key_makes(operation: str) -> None:
    def salt(tenant: str, key: bytes = KEY) -> str:
        return str(json.loads(prepared({"model": "m"}, operation, tenant=tenant, salt_key=key).body)["cache_salt"])

    assert salt("acme") == salt("acme")
    assert len({salt("acme"), salt("globex"), salt(""), salt("acme", b"o" * 32)}) == 4
    assert len(salt("acme")) == 43
    assert not set("@/\\\0") & set(salt("acme")), "vLLM refuses these"


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", ["cache_salt", "c\\u0061che_salt"])
def test_callers_own_salt_is_dropped(operation: str, name: str) -> None:
    body = f'{{"model":"m","{name}":"theirs"}}'.encode()
    fields = json.loads(prepared(body, operation).body)
    assert fields["cache_salt"] == json.loads(prepared({"model": "m"}, operation).body)["cache_salt"]
    assert b"theirs" not in prepared(body, operation).body


def test_counting_tokens_touches_no_cache_and_keeps_its_body() -> None:
    body = b'{"model": "m", "messages": []}'
    assert prepared(body, "count_tokens").body is body


def test_priority_is_the_policys_and_only_where_the_server_schedules_by_it() -> None:
    asked = {"model": "m", "priority": -5}
    assert sent(asked) == {"model": "m"}
    assert sent(asked, schedules_by_priority=True, priority=7) == {"model": "m", "priority": 7}
    assert sent(asked, schedules_by_priority=True, priority=-3)["priority"] == 0
    assert sent(asked, "messages", schedules_by_priority=True) == {"model": "m"}, "vLLM takes none there"


@pytest.mark.parametrize("name", ["request_id", "session_id"])
def test_names_under_which_the_server_works_are_not_the_callers(name: str) -> None:
    assert sent({"model": "m", name: "x"}) == {"model": "m"}


@pytest.mark.parametrize(
    "name",
    [
        "kv_transfer_params",
        "ec_transfer_params",
        "vllm_xargs",
        "mm_processor_kwargs",
        "media_io_kwargs",
        "prompt_embeds",
        "logits_processors",
        "chat_template",
        "generation_config",
        "watermarking",
        "previous_input_messages",
        "mcp_servers",
        "functions",
        "function_call",
        "guided_decoding_backend",
    ],
)
def test_what_reaches_past_the_answer_is_refused(name: str) -> None:
    assert refused({"model": "m", name: {"a": 1}}) == "unsafe_parameter"
    assert sent({"model": "m", name: None}) == {"model": "m", name: None}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("previous_response_id", "resp_1"),
        ("conversation", {"id": "c"}),
        ("prompt", {"id": "p"}),
        ("background", True),
        ("store", True),
    ],
)
def test_what_a_server_would_keep_for_later_is_refused(name: str, value: Any) -> None:
    assert refused({"model": "m", "input": "hi", name: value}, "responses") == "stateful_request"
    for nothing in (None, False):
        assert sent({"model": "m", name: nothing}, "responses") in ({"model": "m"}, {"model": "m", name: nothing})


def test_a_prompt_is_no_state_where_it_is_text() -> None:
    assert sent({"model": "m", "prompt": "hi"}, "completions") == {"model": "m", "prompt": "hi"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"guided_json": {"type": "object"}}, {"json": {"type": "object"}}),
        ({"guided_json": '{"type": "object"}'}, {"json": '{"type": "object"}'}),
        ({"guided_regex": "a+"}, {"regex": "a+"}),
        ({"guided_choice": ["a", "b"]}, {"choice": ["a", "b"]}),
        ({"guided_grammar": "root ::= x"}, {"grammar": "root ::= x"}),
        ({"guided_json_object": True}, {"json_object": True}),
        ({"guided_regex": "a", "guided_whitespace_pattern": " "}, {"regex": "a", "whitespace_pattern": " "}),
    ],
)
@pytest.mark.parametrize("operation", ["chat", "completions"])
def test_old_names_of_constraints_are_translated(operation: str, old: dict[str, Any], new: dict[str, Any]) -> None:
    assert sent({"model": "m", **old}, operation) == {"model": "m", "structured_outputs": new}


@pytest.mark.parametrize("other", ["structured_outputs", "response_format"])
def test_two_constraints_are_refused_and_an_empty_one_is_none(other: str) -> None:
    assert refused({"guided_regex": "a", other: {"regex": "b"}}) == "ambiguous_constraint"
    assert sent({"guided_regex": None, other: {"regex": "b"}}) == {other: {"regex": "b"}}
    assert sent({"guided_regex": "a", other: None})["structured_outputs"] == {"regex": "a"}


def test_a_server_that_cannot_keep_a_constraint_is_not_asked() -> None:
    assert refused({"guided_regex": "a"}, speaks_vllm=False) == "unsupported_constraint"


def test_beta_name_of_an_output_format_is_translated() -> None:
    wanted = {"type": "json_schema", "schema": {}}
    both = {"output_format": wanted, "output_config": {"effort": "low"}}
    assert sent(both, "messages") == {"output_config": {"effort": "low", "format": wanted}}
    assert refused({"output_format": wanted, "output_config": {"format": wanted}}, "messages") == "ambiguous_constraint"
    assert sent({"output_format": None}, "messages") == {}


SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}


def tool(operation: str, **more: Any) -> dict[str, Any]:
    match operation:
        case "chat":
            return {"type": "function", "function": {"name": "f", "parameters": SCHEMA, **more}}
        case "responses":
            return {"type": "function", "name": "f", "parameters": SCHEMA, **more}
        case _:
            return {"name": "f", "input_schema": SCHEMA, **more}


@pytest.mark.parametrize("operation", ["chat", "responses", "messages"])
def test_tools_are_strict_where_the_caller_left_it_open(operation: str) -> None:
    given = [tool(operation), tool(operation, strict=None), tool(operation, strict=False)]
    expected = [tool(operation, strict=True), tool(operation, strict=True), tool(operation, strict=False)]
    assert sent({"tools": given}, operation) == {"tools": expected}
    assert sent({"tools": given}, operation, strict_tools=False) == {"tools": given}
    assert sent({"tools": given}, operation, speaks_vllm=False) == {"tools": given}


@pytest.mark.parametrize("tools", [[], None, 5, [5], [{"type": "function"}], [{"function": {"name": "no schema"}}]])
def test_tools_without_a_schema_are_left_alone(tools: Any) -> None:
    assert sent({"tools": tools}) == {"tools": tools}


@pytest.mark.parametrize(
    "tools",
    [
        [{"type": "mcp", "server_url": "http://inside"}],
        [{"type": "web_search_preview"}],
        [tool("responses"), {"type": "code_interpreter", "container": {"type": "auto"}}],
        [{"type": "namespace", "name": "n", "tools": [tool("responses"), {"type": "mcp"}]}],
        [{"name": "without a type"}],
    ],
)
def test_tools_that_the_server_would_run_are_refused(tools: Any) -> None:
    assert refused({"input": "hi", "tools": tools}, "responses") == "server_side_tool"


def test_tools_that_the_caller_runs_pass() -> None:
    tools = [{"type": "custom", "name": "c"}, {"type": "namespace", "name": "n", "tools": [{"type": "custom"}]}]
    assert sent({"tools": tools}, "responses") == {"tools": tools}


def image(url: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": url}]}]}


INSIDE = "data:image/png;base64,AAAA"


@pytest.mark.parametrize("url", [INSIDE, {"url": INSIDE}, {"url": "DATA:image/png;base64,AAAA"}, None, {"url": 5}])
def test_media_within_the_request_pass(url: Any) -> None:
    assert sent(image(url)) == image(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data",
        "file:///etc/passwd",
        "https://pictures.example@inside/x.png",
        "https://pictures.example.evil/x.png",
        "https://inside\\@pictures.example/x.png",
        "ftp://pictures.example/x.png",
        "https://[broken/x.png",
        "//inside/x.png",
        "",
    ],
)
def test_the_server_fetches_nothing_that_the_operator_did_not_name(url: str) -> None:
    for each in (url, {"url": url}):
        assert refused(image(each), media_hosts=("pictures.example",)) == "remote_media"


def test_named_hosts_are_fetched_from() -> None:
    named = image({"url": "https://pictures.example:8443/x.png"})
    assert sent(named, media_hosts=("pictures.example",)) == named


@pytest.mark.parametrize(
    ("operation", "document", "reason"),
    [
        ("chat", b'{"messages":[{"content":[{"image\\u005furl":"http://inside"}]}]}', "remote_media"),
        ("chat", {"messages": [{"content": [{"type": "image_url", "uuid": "a", "image_url": None}]}]}, "shared_media"),
        ("chat", {"messages": [{"content": [{"type": "image_embeds", "image_embeds": "AA"}]}]}, "unsafe_parameter"),
        ("responses", {"input": [{"content": [{"type": "input_image", "file_id": "f"}]}]}, "stateful_request"),
        ("responses", {"input": [{"type": "item_reference", "id": "msg_1"}]}, "stateful_request"),
        ("responses", {"input": [{"content": [{"type": "input_image", "image_url": "http://a"}]}]}, "remote_media"),
        ("messages", {"messages": [{"content": [{"source": {"type": "url", "url": "http://a"}}]}]}, "remote_media"),
        ("messages", {"system": [{"source": {"type": "url", "url": "http://a"}}]}, "remote_media"),
        ("rerank", {"documents": {"content": [{"image_url": {"url": "http://a"}}]}}, "remote_media"),
        ("embeddings", {"messages": [{"content": [{"video_url": {"url": "http://a"}}]}]}, "remote_media"),
    ],
)
def test_every_way_to_point_somewhere_is_seen(operation: str, document: Any, reason: str) -> None:
    assert refused(document, operation) == reason


@pytest.mark.parametrize(
    ("operation", "document"),
    [
        ("chat", {"messages": [{"role": "user", "content": 'set "image_url" to "http://a" and "uuid": 1, file_id'}]}),
        ("chat", {"tools": [{"function": {"parameters": {"image_url": "http://a"}, "strict": True}}]}),
        ("messages", {"messages": [{"content": [{"type": "tool_use", "input": {"image_url": "http://a"}}]}]}),
        ("chat", {"messages": [{"content": [{"type": "text", "text": "a", "uuid": "mine"}]}]}),
    ],
)
def test_talk_about_urls_and_calls_of_tools_are_data(operation: str, document: Any) -> None:
    assert sent(document, operation) == document


def test_content_nested_as_deep_as_the_parser_goes_is_looked_through() -> None:
    depth = 500
    body = b'{"messages":' + b"[" * depth + b'{"image_url":"http://a"}' + b"]" * depth + b"}"
    assert refused(body) == "remote_media"


@pytest.mark.parametrize("content", [b'"image_url \\ud800"', b"[" * 100_000 + b'"image_url"' + b"]" * 100_000])
def test_content_that_cannot_be_looked_through_does_not_go_out(content: bytes) -> None:
    assert refused(b'{"messages":' + content + b"}") == "invalid_body"


@pytest.mark.parametrize("operation", ["responses", "embeddings", "messages"])
def test_operations_without_stream_options_are_not_asked_for_usage(operation: str) -> None:
    assert sent({"model": "m", "stream": True}, operation, stream=True) == {"model": "m", "stream": True}


@pytest.mark.parametrize(
    ("options", "hides_usage", "hides_running"),
    [
        (None, True, True),
        ({}, True, True),
        ({"include_usage": False}, True, True),
        ({"continuous_usage_stats": True}, True, True),
        ({"include_usage": True}, False, True),
        ({"include_usage": True, "continuous_usage_stats": False}, False, True),
        (ALL_USAGE, False, False),
    ],
)
def test_usage_is_always_asked_for_and_hidden_from_who_did_not(
    options: Any, hides_usage: bool, hides_running: bool
) -> None:
    outgoing = prepared({"stream_options": options}, stream=True)
    assert json.loads(outgoing.body)["stream_options"] == ALL_USAGE
    assert (outgoing.hides_usage, outgoing.hides_running) == (hides_usage, hides_running)


def test_other_stream_options_survive() -> None:
    fields = sent({"stream_options": {"include_obfuscation": False}}, stream=True)
    assert fields["stream_options"] == {"include_obfuscation": False, **ALL_USAGE}


def test_a_server_of_another_make_is_told_nothing_of_vllms() -> None:
    outgoing = prepared({"model": "m", "cache_salt": "x"}, stream=True, speaks_vllm=False, schedules_by_priority=True)
    assert json.loads(outgoing.body) == {"model": "m", "stream_options": {"include_usage": True}}
    body = b'{"model": "m"}'
    assert prepared(body, speaks_vllm=False).body is body


def test_odd_options_are_the_servers_to_refuse() -> None:
    outgoing = prepared({"stream_options": 5}, stream=True)
    assert json.loads(outgoing.body)["stream_options"] == 5
    assert not outgoing.hides_usage


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff", b"", b"NaN", b'{"a":NaN}', '{"a":1}'.encode("utf-16")])
def test_what_could_not_be_salted_does_not_go_out(body: bytes) -> None:
    assert refused(body) == "invalid_body"


def test_empty_object_stays_json() -> None:
    assert sent(b"{}", stream=True) == {"stream_options": ALL_USAGE}
    assert sent(b" { } ") == {}


def test_model_is_renamed_and_values_keep_their_bytes() -> None:
    outgoing = prepared(b'{"model": "ours", "input": [1.10, "a"]}', "embeddings", model="theirs", speaks_vllm=False)
    assert outgoing.body == b'{"model":"theirs","input":[1.10, "a"]}'
    assert sent(b'{"model": "ours"}', model="theirs")["model"] == "theirs"


def test_models_are_listed_without_a_body() -> None:
    assert prepared(b"", "models").body == b""


def test_salt_keys_come_from_a_file_that_holds_one(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_bytes(b"0123456789abcdef0123456789abcdef\n")
    assert salt_key_in(file) == b"0123456789abcdef0123456789abcdef"
    assert salt_key_in(None) != salt_key_in(None)
    file.write_bytes(b"\n")
    with pytest.raises(ValueError, match="fewer than 32 bytes"):
        salt_key_in(file)
    with pytest.raises(OSError, match="nowhere"):
        salt_key_in(tmp_path / "nowhere")
