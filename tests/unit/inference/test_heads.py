"""The head of a request to a model server, byte by byte, and the headers of its answer."""

from __future__ import annotations

import pytest
from yarl import URL

from inference.backend import BackendRequest
from inference.openai_http.heads import Heads, answered, asking


def head(*given: tuple[str, str], base: str = "http://models:8000/v1", key: str = "", **said) -> list[str]:
    request = BackendRequest(**{"call_id": "c1", "target": "tiny", "operation": "chat", "headers": given} | said)
    text = Heads(base).of(request, key, 7).decode()
    assert text.endswith("\r\n\r\n")
    return text[:-4].split("\r\n")


def test_a_head_says_what_is_asked_of_whom_and_in_which_form() -> None:
    assert head() == [
        "POST /v1/chat/completions HTTP/1.1",
        "host: models:8000",
        "content-type: application/json",
        "accept-encoding: identity",
        "accept: */*",
        "x-request-id: c1",
        "content-length: 7",
    ]


def test_the_callers_own_words_go_along_once_each() -> None:
    lines = head(("accept", "text/event-stream"), ("user-agent", "sdk"), ("x-stainless-retry-count", "1"))
    assert lines.count("accept: text/event-stream") == 1
    assert "accept: */*" not in lines
    assert {"user-agent: sdk", "x-stainless-retry-count: 1"} < set(lines)


@pytest.mark.parametrize(
    "header",
    [
        ("authorization", "Bearer agents-own"),
        ("cookie", "a=b"),
        ("host", "elsewhere"),
        ("content-length", "0"),
        ("transfer-encoding", "chunked"),
        ("x-request-id", "mine"),
        ("user-agent", "a\r\nx-evil: 1"),
        ("traceparent", "a\nb"),
        ("accept", "a\0b"),
        ("x-stainless-a: b\r\nx-evil", "1"),
        ("x-stainless-a b", "1"),
        ("x-stainless-", "1"),
    ],
)
def test_what_may_carry_a_credential_or_break_a_line_stays_here(header: tuple[str, str]) -> None:
    assert head(header) == head()


def test_a_call_id_that_would_break_a_line_is_left_out() -> None:
    assert head(call_id="a\r\nx-evil: 1") == [line for line in head() if not line.startswith("x-request-id")]


def test_the_key_is_ours_and_a_user_in_the_url_goes_along() -> None:
    assert "authorization: Bearer k" in head(key="k")
    assert "authorization: Basic dXNlcjpwYXNz" in head(base="http://user:pass@models/v1")
    assert "host: models" in head(base="http://user:pass@models/v1")


def test_a_request_without_body_has_no_length() -> None:
    request = BackendRequest(call_id="c1", target="tiny", operation="models")
    text = Heads("http://models/v1").of(request, "", 0).decode()
    assert text.startswith("GET /v1/models HTTP/1.1\r\n")
    assert "content-length" not in text
    assert asking(URL("http://models/health")).startswith(b"GET /health HTTP/1.1\r\nhost: models\r\n")


def test_an_operation_of_another_protocol_has_no_head() -> None:
    with pytest.raises(KeyError):
        head(operation="../invocations")


def test_an_answers_headers_come_back_in_small_letters_without_those_of_the_connection() -> None:
    given = [
        (b"Content-Type", b"text/plain; charset=\xe4"),
        (b"Connection", b"close"),
        (b"SET-COOKIE", b"a=b"),
        (b"Content-Length", b"3"),
    ]
    assert answered(given, is_stream=False) == (("content-type", "text/plain; charset=ä"), ("content-length", "3"))
    assert answered(given, is_stream=True) == (("content-type", "text/plain; charset=ä"),)
