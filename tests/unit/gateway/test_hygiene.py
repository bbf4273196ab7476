"""Requests that two parsers may read differently never reach a door."""

from __future__ import annotations

import json

import pytest

from controlplane.gateway.hygiene import Hygiene

HOST = (b"host", b"gateway")


async def through(headers, path=b"/v1/models", body=(b"{}",), limit=100):
    """The status that came back, its reason, and whether the application behind was reached and finished."""
    sent, finished = [], []
    parts = list(body)

    async def app(scope, receive, send):
        more = True
        while more:
            more = (await receive())["more_body"]
        finished.append(True)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    async def receive():
        part = parts.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "headers": headers, "path": path.decode("latin-1"), "raw_path": path}
    await Hygiene(app, body_limit_bytes=limit)(scope, receive, send)
    return sent[0]["status"], json.loads(sent[1]["body"]).get("reason"), bool(finished)


async def test_field_that_may_stand_twice_passes():
    assert await through([HOST, (b"accept", b"a"), (b"accept", b"b")]) == (200, None, True)


async def test_encoding_that_changes_nothing_passes():
    assert await through([HOST, (b"content-encoding", b"Identity ")]) == (200, None, True)


async def test_ordinary_request_passes():
    assert await through([HOST, (b"transfer-encoding", b"chunked")]) == (200, None, True)


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ([], "missing_host"),
        ([HOST, HOST], "duplicate_header"),
        ([HOST, (b"authorization", b"a"), (b"authorization", b"b")], "duplicate_header"),
        ([HOST, (b"x-api-key", b"a"), (b"x-api-key", b"b")], "duplicate_header"),
        ([HOST, (b"content-type", b"text/plain"), (b"content-type", b"application/json")], "duplicate_header"),
        ([HOST, (b"content-encoding", b"gzip"), (b"content-encoding", b"identity")], "duplicate_header"),
        ([HOST, (b"content-length", b"1"), (b"content-length", b"2")], "duplicate_header"),
        ([HOST, (b"mcp-method", b"tools/list"), (b"mcp-method", b"tools/call")], "duplicate_header"),
        ([HOST, (b"x_agent_id", b"root")], "header_with_underscore"),
        ([HOST, (b"transfer-encoding", b"gzip, chunked")], "transfer_encoding"),
        ([HOST, (b"transfer-encoding", b"gzip"), (b"transfer-encoding", b"chunked")], "transfer_encoding"),
        ([HOST, (b"transfer-encoding", b"chunked"), (b"transfer-encoding", b"gzip")], "transfer_encoding"),
        ([HOST, (b"content-encoding", b"gzip")], "content_encoding"),
        ([HOST, (b"upgrade", b"h2c"), (b"content-length", b"2")], "upgrade_with_body"),
        ([HOST, (b"upgrade", b"h2c"), (b"transfer-encoding", b"chunked")], "upgrade_with_body"),
    ],
)
async def test_ambiguous_header_is_refused(headers, reason):
    assert await through(headers) == (400, reason, False)


@pytest.mark.parametrize(
    "parameters",
    [
        b"charset=utf-7",
        b'Charset = "UTF-7"',
        b"charset=utf-8; charset=utf-7",
        b'charset="\\utf-7"',
        b"charset*=utf-8''utf-7",
        b"charset=iso-8859-1",
        b"charset=",
        b"charset" * 5000,
    ],
)
async def test_body_that_its_own_header_would_decode_differently_is_refused(parameters):
    assert await through([HOST, (b"content-type", b"application/json; " + parameters)]) == (
        400,
        "content_charset",
        False,
    )


@pytest.mark.parametrize("parameters", [b"charset=utf-8", b'charset="UTF-8"', b"Charset=utf8; profile=x", b"profile=y"])
async def test_body_in_utf_8_passes(parameters):
    assert (await through([HOST, (b"content-type", b"application/json; " + parameters)]))[0] == 200


async def test_upgrade_without_a_body_is_ignored():
    assert (await through([HOST, (b"connection", b"upgrade"), (b"upgrade", b"h2c"), (b"content-length", b"0")]))[
        0
    ] == 200


@pytest.mark.parametrize("path", [b"/public/../secret", b"/a//b", b"/tools/%2e%2e/x", b"/a/./b", b"/a%2Fb", b"/a\\b"])
async def test_ambiguous_path_is_refused(path):
    assert await through([HOST], path) == (400, "ambiguous_path", False)


@pytest.mark.parametrize("path", [b"/v1/models/risk:predict", b"/v1/models/a.b", b"/x?next=../y"])
async def test_dots_that_are_no_segments_pass(path):
    assert (await through([HOST], path))[0] == 200


async def test_declared_body_over_the_limit_is_refused_unread():
    assert await through([HOST, (b"content-length", b"101")]) == (413, "body_too_large", False)


async def test_chunked_body_over_the_limit_is_refused_while_reading():
    assert await through([HOST], body=(b"x" * 60, b"x" * 60)) == (413, "body_too_large", False)
