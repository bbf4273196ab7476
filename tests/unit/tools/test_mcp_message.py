"""Parse to decide: what a message asks for, and which messages cannot be decided on."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from controlplane.tools.mcp_message import McpMessage, MessageRefused, decoded, read_message, tool_resource

META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}


def modern(method: str, name: str = "", /, **params: Any) -> tuple[bytes, dict[str, str]]:
    headers = {"mcp-protocol-version": "2026-07-28", "mcp-method": method} | ({"mcp-name": name} if name else {})
    return json.dumps(
        {"jsonrpc": "2.0", "id": 1, "method": method, "params": {"_meta": META, **params}}
    ).encode(), headers


def legacy(method: str, /, **params: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()


def refused(body: bytes, headers: dict[str, str] | None = None) -> MessageRefused:
    with pytest.raises(MessageRefused) as caught:
        read_message(body, headers or {})
    return caught.value


@pytest.mark.parametrize(
    ("method", "action"),
    [
        ("tools/list", "list"),
        ("resources/templates/list", "list"),
        ("resources/read", "read"),
        ("prompts/get", "read"),
        ("completion/complete", "read"),
        ("initialize", "connect"),
        ("server/discover", "connect"),
        ("notifications/anything", "connect"),
        ("subscriptions/listen", "connect"),
        ("tasks/get", "write"),
        ("vendor/format-disk", "write"),
        ("Tools/Call", "write"),
    ],
)
def test_each_method_asks_policy_for_one_action_on_the_server(method: str, action: str) -> None:
    message = read_message(legacy(method, uri="file:///x"), {})
    assert (message.action, message.resource("files")) == (action, "/mcp/files")


def test_old_revision_in_the_header_makes_no_modern_message() -> None:
    assert not read_message(legacy("ping"), {"mcp-protocol-version": "2025-06-18"}).is_modern


def test_a_tool_call_is_a_call_on_the_tool_with_its_arguments() -> None:
    message = read_message(legacy("tools/call", name="refund", arguments={"amount": 7}), {})
    assert message.action == "call"
    assert message.resource("shop") == "/mcp/shop/refund"
    assert message.arguments() == {"amount": 7}
    assert not message.is_modern


@pytest.mark.parametrize("name", ["a/b", "../other", "a b", "ü", "%2e"])
def test_no_tool_name_reaches_into_another_path(name: str) -> None:
    assert tool_resource("shop", name).count("/") == 3
    assert tool_resource("shop", name) != tool_resource("shop", name + "x")


def test_other_methods_show_policy_their_parameters_without_meta() -> None:
    message = read_message(legacy("resources/read", uri="file:///etc/passwd", _meta={"x": 1}), {})
    assert message.arguments() == {"uri": "file:///etc/passwd"}


def test_an_unheard_of_method_cannot_pass_itself_off_as_another() -> None:
    message = read_message(legacy("tasks/cancel", method="tasks/get", taskId="t"), {})
    assert message.arguments() == {"method": "tasks/cancel", "taskId": "t"}


def test_the_trace_context_in_meta_is_found() -> None:
    assert read_message(legacy("ping", _meta={"traceparent": "00-a-b-01"}), {}).traceparent == "00-a-b-01"


def test_a_posted_response_is_part_of_the_connection() -> None:
    message = read_message(b'{"jsonrpc":"2.0","id":7,"result":{}}', {})
    assert (message.action, message.id) == ("connect", None)


@pytest.mark.parametrize(
    ("body", "code", "reason"),
    [
        (b"[]", -32600, "batch"),
        (b'"x"', -32600, "invalid_message"),
        (b"{", -32700, "parse_error"),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call"}', -32600, "duplicate_key"),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","Method":"tools/call"}', -32600, "ambiguous_key"),
        (b'{"jsonrpc":"2.0","id":1,"method":"tools/list","Params":{"cursor":"x"}}', -32600, "ambiguous_key"),
        (b'{"jsonrpc":"2.0","id":1,"result":{},"Method":"tools/call"}', -32600, "ambiguous_key"),
        (legacy("tools/call", name="a", Name="b"), -32600, "ambiguous_key"),
        (legacy("tools/call", name="a", arguments={"amount": 1, "Amount": 5000}), -32600, "ambiguous_key"),
        (legacy("tools/call", name="a", arguments={"to": [{"iban": "x", "IBAN": "y"}]}), -32600, "ambiguous_key"),
        (legacy("tasks/get", taskid="t1"), -32600, "ambiguous_key"),
        (legacy("subscriptions/listen", Notifications={}), -32600, "ambiguous_key"),
        (legacy("subscriptions/listen", notifications={"TaskIds": ["t1"]}), -32600, "ambiguous_key"),
        (b'{"jsonrpc":"1.0","id":1,"method":"ping"}', -32600, "invalid_message"),
        (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', -32600, "invalid_message"),
        (b'{"jsonrpc":"2.0","id":true,"method":"ping"}', -32600, "invalid_message"),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}', -32600, "invalid_message"),
        (b'{"jsonrpc":"2.0","id":1}', -32600, "invalid_message"),
        (legacy("tools/call"), -32602, "invalid_params"),
        (legacy("tools/call", name="a", arguments=[1]), -32602, "invalid_params"),
    ],
)
def test_what_cannot_be_decided_on_is_refused(body: bytes, code: int, reason: str) -> None:
    error = refused(body)
    assert (error.code, error.reason, error.status) == (code, reason, 400)


def test_a_modern_message_whose_headers_agree_is_read() -> None:
    body, headers = modern("tools/call", "refund", name="refund", arguments={})
    assert read_message(body, headers).is_modern


@pytest.mark.parametrize("header", ["mcp-protocol-version", "mcp-method", "mcp-name"])
@pytest.mark.parametrize("lie", ["2025-11-25", None])
def test_a_modern_header_that_contradicts_the_body_is_refused(header: str, lie: str | None) -> None:
    body, headers = modern("tools/call", "refund", name="refund", arguments={})
    headers = {name: value for name, value in headers.items() if name != header} | ({header: lie} if lie else {})
    assert refused(body, headers).code == -32020


@pytest.mark.parametrize("revision", ["2027-01-01", "v999.0.0", "", "2024-11-06"])
def test_a_revision_we_have_not_heard_of_is_held_to_the_stricter_rules(revision: str) -> None:
    assert refused(legacy("ping"), {"mcp-protocol-version": revision}).code == -32602


def test_a_refusal_knows_whose_message_it_refuses() -> None:
    body, headers = modern("ping")
    assert refused(body, headers | {"mcp-method": "tools/call"}).id == 1
    assert refused(b"{").id is None
    assert refused(b'{"jsonrpc":"2.0","id":[1],"method":"ping"}').id is None


def test_a_task_is_named_in_the_headers_as_in_the_body() -> None:
    body, headers = modern("tasks/get", "t1", taskId="t1")
    assert read_message(body, headers).action == "write"
    assert refused(body, headers | {"mcp-name": "t2"}).code == -32020


@pytest.mark.parametrize("missing", list(META))
def test_a_modern_request_without_its_meta_is_refused(missing: str) -> None:
    body, headers = modern("ping")
    document = json.loads(body)
    del document["params"]["_meta"][missing]
    assert refused(json.dumps(document).encode(), headers).code == -32602


def test_a_modern_notification_may_leave_headers_out_but_not_lie() -> None:
    body = b'{"jsonrpc":"2.0","method":"notifications/cancelled"}'
    version = {"mcp-protocol-version": "2026-07-28"}
    assert read_message(body, version).id is None
    assert refused(body, version | {"mcp-method": "tools/call"}).code == -32020


def test_a_wrapped_header_value_is_compared_unwrapped() -> None:
    wrapped = f"=?base64?{base64.b64encode('größe'.encode()).decode()}?="
    body, headers = modern("tools/call", wrapped, name="größe")
    assert read_message(body, headers).params["name"] == "größe"
    assert decoded("=?base64?@@?=") is None


def test_a_message_knows_when_it_gets_no_answer() -> None:
    assert McpMessage(method="notifications/initialized").id is None
