"""Bodies, usage and errors of the OpenAI protocol, as pure functions of bytes."""

from __future__ import annotations

import json

import pytest

from inference.backend import Usage
from inference.errors import BackendBroke, BackendUnavailable
from inference.openai_http.stream import ReplyStream
from inference.openai_http.wire import error_message, fault_of, note_usage, outgoing_of


def asked(body: bytes, operation: str = "chat", **more: str) -> tuple[dict, bool]:
    outgoing = outgoing_of(body, operation, streams=True, **more)
    return json.loads(outgoing.body), outgoing.hides_usage


def test_usage_is_asked_for_and_the_rest_keeps_every_byte() -> None:
    body = b' {"model" : "m",\t"messages":[ ],"stream":true,"x":1e0}\n'
    outgoing = outgoing_of(body, "chat", streams=True)
    assert outgoing.body == body.replace(b"{", b'{"stream_options":{"include_usage":true},', 1)
    assert outgoing.hides_usage


@pytest.mark.parametrize("operation", ["responses", "embeddings"])
def test_operations_without_stream_options_keep_their_body(operation: str) -> None:
    body = b'{"model": "m", "stream": true}'
    assert outgoing_of(body, operation, streams=True).body is body


@pytest.mark.parametrize("options", [{"include_usage": True}, {"include_usage": True, "continuous_usage_stats": True}])
def test_callers_own_wish_for_usage_is_left_alone(options: dict) -> None:
    body = json.dumps({"model": "m", "stream_options": options}).encode()
    outgoing = outgoing_of(body, "chat", streams=True)
    assert (outgoing.body, outgoing.hides_usage) == (body, False)


@pytest.mark.parametrize("options", [None, {}, {"include_usage": False}, {"continuous_usage_stats": True}])
def test_empty_or_declining_options_are_asked_anew(options: dict | None) -> None:
    fields, hides = asked(json.dumps({"model": "m", "stream_options": options}).encode())
    assert (fields, hides) == ({"model": "m", "stream_options": {"include_usage": True}}, True)


def test_other_stream_options_survive() -> None:
    fields, _ = asked(b'{"stream_options": {"include_obfuscation": false}}')
    assert fields["stream_options"] == {"include_obfuscation": False, "include_usage": True}


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff", b'{"stream_options": 5}', b""])
def test_nonsense_is_the_servers_to_refuse(body: bytes) -> None:
    outgoing = outgoing_of(body, "chat", streams=True)
    assert (outgoing.body, outgoing.hides_usage) == (body, False)


def test_empty_object_stays_json() -> None:
    assert asked(b"{}") == ({"stream_options": {"include_usage": True}}, True)


def test_model_is_renamed_and_nothing_else() -> None:
    outgoing = outgoing_of(b'{"model": "ours", "input": [1.10, "a"]}', "embeddings", streams=False, model="theirs")
    assert outgoing.body == b'{"model":"theirs","input":[1.10, "a"]}'
    assert asked(b'{"model": "ours"}', model="theirs")[0]["model"] == "theirs"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"usage":{"prompt_tokens":3,"completion_tokens":2}}', Usage(3, 2, None)),
        (b'{"usage":{"prompt_tokens":3,"prompt_tokens_details":{"cached_tokens":0}}}', Usage(3, None, 0)),
        (
            b'{"usage":{"input_tokens":3,"output_tokens":0,"input_tokens_details":{"cached_tokens":1}}}',
            Usage(3, 0, 1),
        ),
        (b'{"usage":{"prompt_tokens":"many"}}', Usage()),
        (b'{"choices":[]}', Usage()),
        (b"not json", Usage()),
    ],
)
def test_usage_is_what_the_backend_counted(body: bytes, expected: Usage) -> None:
    usage = Usage()
    note_usage(body, usage)
    assert usage == expected


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error":{"message":"too long","type":"BadRequestError","param":null,"code":400}}', "too long"),
        (b'{"error":"Unauthorized"}', "Unauthorized"),
        (b'{"detail":"Not Found"}', "Not Found"),
        (b'{"detail":[{"loc":["body"]}]}', '[{"loc":["body"]}]'),
        (b"[]", ""),
        (b"<html>", ""),
        (b'{"error":"' + b"x" * 900 + b'"}', "x" * 500),
    ],
)
def test_words_of_an_error_are_found_in_every_shape(body: bytes, message: str) -> None:
    assert error_message(body) == message


@pytest.mark.parametrize("status", [200, 201, 400, 404, 409, 413, 422])
def test_answers_to_the_caller_are_no_fault(status: int) -> None:
    assert fault_of(status, {}, b"") is None


@pytest.mark.parametrize(("status", "reason"), [(500, "upstream_500"), (502, "upstream_502"), (301, "upstream_301")])
def test_failures_and_redirects_are_broken(status: int, reason: str) -> None:
    fault = fault_of(status, {}, b"")
    assert isinstance(fault, BackendBroke)
    assert fault.reason == reason


@pytest.mark.parametrize(("given", "seconds"), [("5", 5.0), ("Wed, 21 Oct 2026 07:28:00 GMT", None), ("-1", None)])
def test_retry_after_is_read_in_seconds(given: str, seconds: float | None) -> None:
    fault = fault_of(503, {"retry-after": given}, b"")
    assert isinstance(fault, BackendUnavailable)
    assert fault.retry_after_s == seconds


def stream(*, hides_usage: bool = True, ends_with_done: bool = True) -> tuple[ReplyStream, Usage]:
    usage = Usage()
    return ReplyStream(usage, hides_usage=hides_usage, ends_with_done=ends_with_done, limit_bytes=1000), usage


TOKEN = b'data: {"choices":[{"delta":{"content":"\\"usage\\": \\"error\\" [DONE]"}}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n'
DONE = b"data: [DONE]\n\n"


def test_hidden_usage_is_cut_out_of_a_run_of_events() -> None:
    passing, usage = stream()
    assert passing.feed(TOKEN + USAGE + DONE) == TOKEN + DONE
    assert passing.end() == b""
    assert usage == Usage(1, 2)


@pytest.mark.parametrize("cut", range(len(USAGE)))
def test_usage_is_found_however_it_is_cut(cut: int) -> None:
    passing, usage = stream()
    assert passing.feed(TOKEN + USAGE[:cut]) + passing.feed(USAGE[cut:] + DONE) == TOKEN + DONE
    assert usage == Usage(1, 2)


def test_usage_in_a_chunk_with_choices_is_read_and_passed() -> None:
    passing, usage = stream()
    chunk = b'data: {"choices":[{"index":0}],"usage":{"prompt_tokens":1,"completion_tokens":1}}\n\n'
    assert passing.feed(chunk) == chunk
    assert usage == Usage(1, 1)


def test_last_event_of_a_streamed_response_carries_usage() -> None:
    passing, usage = stream(ends_with_done=False)
    last = b'event: response.completed\ndata: {"response":{"usage":{"input_tokens":5,"output_tokens":6}}}\n\n'
    assert passing.feed(last) == last
    assert passing.end() == b""
    assert usage == Usage(5, 6)


@pytest.mark.parametrize("rest", [b"", b"data: {", b'data: {"a":"data: [DONE]"'])
def test_stream_without_done_is_truncated(rest: bytes) -> None:
    passing, _ = stream()
    passing.feed(TOKEN + rest)
    with pytest.raises(BackendBroke, match="without saying"):
        passing.end()


def test_half_an_event_after_done_or_without_need_of_done_is_truncated() -> None:
    passing, _ = stream(ends_with_done=False)
    passing.feed(TOKEN + b"data: {")
    with pytest.raises(BackendBroke):
        passing.end()


def test_forgotten_last_blank_line_is_forgiven() -> None:
    passing, _ = stream()
    passing.feed(TOKEN + b"data: [DONE]\n")
    assert passing.end() == b"data: [DONE]\n"


def test_error_event_of_the_server_is_an_error_after_what_came_before_it() -> None:
    passing, _ = stream()
    passing.check()
    assert passing.feed(TOKEN + b'data: {"error":{"message":"died","code":500}}\n\n' + DONE) == TOKEN
    with pytest.raises(BackendBroke, match="died") as caught:
        passing.check()
    assert caught.value.reason == "error_event"


def test_error_event_about_the_request_is_the_callers_to_read() -> None:
    passing, _ = stream()
    event = b'data: {"error":{"message":"bad grammar","code":400}}\n\n'
    assert passing.feed(event + DONE) == event + DONE
    assert passing.end() == b""
