"""The headers of a request to a model server, and of its answer."""

from __future__ import annotations

import pytest

from inference.backend import BackendRequest
from inference.openai_http.heads import answered, sent


def head(*given: tuple[str, str], key: str = "", call_id: str = "c1") -> dict[str, str]:
    return sent(BackendRequest(call_id=call_id, target="tiny", operation="chat", headers=given), key)


def test_a_head_says_in_which_form_and_for_which_call() -> None:
    assert head() == {"content-type": "application/json", "accept-encoding": "identity", "x-request-id": "c1"}


def test_the_callers_own_words_go_along() -> None:
    given = {"accept": "text/event-stream", "user-agent": "sdk", "x-stainless-retry-count": "1"}
    assert head(*given.items()) == head() | given


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


@pytest.mark.parametrize("header", [("content-type", "text/plain"), ("accept-encoding", "gzip")])
def test_the_form_is_ours_to_say(header: tuple[str, str]) -> None:
    assert head(header) == head()


def test_a_call_id_that_would_break_a_line_is_left_out() -> None:
    assert "x-request-id" not in head(call_id="a\r\nx-evil: 1")


def test_the_key_is_ours() -> None:
    assert head(("authorization", "Bearer agents-own"), key="k")["authorization"] == "Bearer k"


def test_an_answers_headers_come_back_in_small_letters_without_those_of_the_connection() -> None:
    given = [
        (b"Content-Type", b"text/plain; charset=\xe4"),
        (b"Connection", b"close"),
        (b"SET-COOKIE", b"a=b"),
        (b"Content-Length", b"3"),
    ]
    assert answered(given, is_stream=False) == (("content-type", "text/plain; charset=ä"), ("content-length", "3"))
    assert answered(given, is_stream=True) == (("content-type", "text/plain; charset=ä"),)
