"""What two parsers could read differently is refused before anything is decided."""

from __future__ import annotations

import json

import pytest

from controlplane.gateway.doors.openai_body import MODEL_CHARS, read_fields
from controlplane.gateway.problems import BadRequest


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"small","model":"large"}',
        b'{"model":"small","\\u006dodel":"large"}',
        b'{ "model": "small", "messages": [{"model": 1}], "model": "large" }',
        b'{"model":"small","max_tokens":5,"max_tokens":50000}',
        b'{"model":"small","stream":false,"stream":true}',
        b'{"model":"small","x":1,"x":1}',
        b'{"model":"small","Model":"large"}',
        b'{"model":"small","max_tokens":5,"MAX_TOKENS":50000}',
        '{"model":"small","\u017ftream":true,"stream":false}'.encode(),
        '{"model":"small","max_tokens":5,"max_to\u212aens":50000}'.encode(),
    ],
)
def test_a_field_that_stands_twice_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest) as caught:
        read_fields(body)
    assert (caught.value.reason, caught.value.status) == ("ambiguous_body", 400)


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        ("chat", b'{"model":"small","Max_Tokens":50000}'),
        ("chat", b'{"model":"small","N":50}'),
        ("chat", b'{"model":"small","Cache_Salt":"x"}'),
        ("embeddings", b'{"model":"small","Input":["a","b"]}'),
        ("responses", b'{"model":"small","input":"a","Store":true}'),
        ("messages", b'{"model":"small","\\u004dessages":[]}'),
    ],
)
def test_a_field_that_we_look_for_in_another_case_is_refused(operation: str, body: bytes) -> None:
    """Go's and .NET's parsers would take it; we would decide as if it were not there."""
    with pytest.raises(BadRequest) as caught:
        read_fields(body, operation)
    assert (caught.value.reason, caught.value.status) == ("ambiguous_body", 400)


def test_a_field_of_which_we_know_nothing_may_be_written_as_it_likes() -> None:
    assert read_fields(b'{"model":"small","safetySettings":[]}').model == "small"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"model":7}',
        b'{"model":""}',
        b'{"model":"' + b"x" * (MODEL_CHARS + 1) + b'"}',
        b'{"model":"\xff"}',
        b'{"model":"a","messages":["\xff"]}',
        b'{"model":"a","\xff":1}',
        b'{"model":"\\ud800"}',
        '{"model":"a"}'.encode("utf-16"),
        b'\xef\xbb\xbf{"model":"a"}',
        b'{"model":"a"} {"model":"b"}',
        b'{"model":"a","x":NaN}',
        b'{"model":"a","stream":1}',
        b'{"model":"a","max_tokens":0}',
        b'{"model":"a","max_tokens":-1}',
        b'{"model":"a","max_completion_tokens":-1}',
        b'{"model":"a","max_tokens":1e3}',
        b'{"model":"a","max_tokens":"5"}',
        b'{"model":"a","max_tokens":' + b"9" * 400 + b"}",
        b'{"model":"a","max_tokens":' + b"9" * 5000 + b"}",
        b'{"model":"a","messages":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        b'{"model":"a","messages":{}}',
    ],
)
def test_what_is_no_request_is_refused_with_the_reason(body: bytes) -> None:
    with pytest.raises(BadRequest) as caught:
        read_fields(body)
    assert (caught.value.reason, caught.value.status) == ("invalid_body", 400)


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": "), (" ,\n", "\t: ")])
def test_every_spacing_is_read_alike(separators: tuple[str, str]) -> None:
    document = {"model": "tiny", "messages": [{"role": "user", "role2": "é"}], "max_tokens": 5, "über": {"a": [1, 2]}}
    for ascii_only in (True, False):
        fields = read_fields(json.dumps(document, separators=separators, ensure_ascii=ascii_only).encode())
        assert fields.arguments == {"model": "tiny", "max_tokens": 5, "stream": False, "messages_count": 1}


@pytest.mark.parametrize(
    ("caps", "cap"),
    [
        ("", None),
        (',"max_tokens":5', 5),
        (',"max_completion_tokens":7', 7),
        (',"max_tokens":5,"max_completion_tokens":70000', 70000),
        (',"max_tokens":70000,"max_completion_tokens":7', 70000),
        (',"max_tokens":null,"max_completion_tokens":7', 7),
    ],
)
def test_policy_sees_the_larger_cap_whichever_the_server_takes(caps: str, cap: int | None) -> None:
    assert read_fields(f'{{"model":"a"{caps}}}'.encode()).arguments["max_tokens"] == cap
