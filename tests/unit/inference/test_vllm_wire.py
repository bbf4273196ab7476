"""Usage, errors and streams of the OpenAI and Anthropic protocols, as pure functions of bytes."""

from __future__ import annotations

import json

import pytest

from inference.backend import Usage
from inference.errors import BackendBroke, BackendRejected, BackendUnavailable
from inference.openai_http.outgoing import Outgoing
from inference.openai_http.stream import ReplyStream
from inference.openai_http.wire import error_message, fault_of, note_usage

DEEP = b"[" * 5000 + b"]" * 5000


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"usage":{"prompt_tokens":3,"completion_tokens":2}}', Usage(3, 2, None)),
        (b'{"usage":{"prompt_tokens":3,"prompt_tokens_details":{"cached_tokens":0}}}', Usage(3, None, 0)),
        (
            b'{"usage":{"input_tokens":3,"output_tokens":0,"input_tokens_details":{"cached_tokens":1}}}',
            Usage(3, 0, 1),
        ),
        (
            b'{"usage":{"input_tokens":3,"output_tokens":4,"cache_creation_input_tokens":1,"cache_read_input_tokens":20}}',
            Usage(24, 4, 20),
        ),
        (b'{"input_tokens":13,"context_management":{"original_input_tokens":13}}', Usage()),
        (b'{"usage":{"prompt_tokens":"many"}}', Usage()),
        (b'{"usage":{"prompt_tokens":-1,"completion_tokens":2}}', Usage()),
        (b'{"usage":{"prompt_tokens":1,"completion_tokens":9223372036854775808}}', Usage()),
        (b'{"usage":{"prompt_tokens":1.0,"completion_tokens":2.5}}', Usage()),
        (b'{"error":"\xff","usage":{"prompt_tokens":1}}', Usage()),
        (b'{"usage":{"prompt_tokens":1},"deep":' + DEEP + b"}", Usage()),
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
        (b'{"error":"\xff"}', ""),
        (b'{"error":' + DEEP + b"}", ""),
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


def test_what_a_server_cannot_do_says_nothing_about_its_health() -> None:
    fault = fault_of(501, {}, b'{"error":{"message":"The model does not support Embeddings API"}}')
    assert isinstance(fault, BackendRejected)
    assert (fault.reason, fault.detail) == ("not_supported", "The model does not support Embeddings API")


@pytest.mark.parametrize(
    ("given", "seconds"), [("5", 5.0), ("Wed, 21 Oct 2026 07:28:00 GMT", None), ("-1", None), ("9" * 400, None)]
)
def test_retry_after_is_read_in_seconds(given: str, seconds: float | None) -> None:
    fault = fault_of(503, {"retry-after": given}, b"")
    assert isinstance(fault, BackendUnavailable)
    assert fault.retry_after_s == seconds


def stream(operation: str = "chat", *, hides: str = "all", says_done: bool = True) -> tuple[ReplyStream, Usage]:
    """``hides``: ``all`` usage, the ``running`` counts, or ``nothing``."""
    usage = Usage()
    outgoing = Outgoing(b"", hides_usage=hides == "all", hides_running=hides != "nothing")
    return ReplyStream(usage, operation, outgoing, limit_bytes=1000, says_done=says_done), usage


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


def running(tokens: int, index: int = 0) -> bytes:
    counted = {"prompt_tokens": 1, "total_tokens": 1 + tokens, "completion_tokens": tokens}
    chunk = {"id": "1", "choices": [{"index": index, "delta": {"content": '"usage":{}'}}], "usage": counted}
    return b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"


def uncounted(event: bytes) -> bytes:
    return event.partition(b',"usage":{"prompt')[0] + b"}\n\n"


@pytest.mark.parametrize("hides", ["all", "running"])
def test_running_usage_is_counted_and_taken_out_to_the_byte(hides: str) -> None:
    passing, usage = stream(hides=hides)
    assert passing.feed(running(1)) == uncounted(running(1))
    assert passing.feed(running(2) + running(3)) == uncounted(running(2)) + uncounted(running(3))
    assert usage == Usage(1, 3), "what is known when the caller leaves now"


def test_final_usage_is_the_callers_who_asked_for_it_alone() -> None:
    passing, usage = stream(hides="running")
    assert passing.feed(running(1) + USAGE + DONE) == uncounted(running(1)) + USAGE + DONE
    assert usage == Usage(1, 2)


def test_usage_of_every_chunk_is_the_callers_who_asked_for_it() -> None:
    passing, usage = stream(hides="nothing")
    assert passing.feed(running(1) + USAGE + DONE) == running(1) + USAGE + DONE
    assert usage == Usage(1, 2)


def test_tokens_of_several_choices_add_up_before_the_end() -> None:
    passing, usage = stream()
    for event in (running(1), running(1, 1), running(7), running(3, 1)):
        passing.feed(event)
    assert usage == Usage(1, 10)


@pytest.mark.parametrize("end", ["\r\n\r\n", "\r\r", "\n\n"])
def test_running_usage_is_found_however_lines_end(end: str) -> None:
    passing, usage = stream()
    odd = b": hello" + end[: len(end) // 2].encode() + running(2).removesuffix(b"\n\n") + end.encode()
    assert b"prompt_tokens" not in passing.feed(odd)
    assert usage == Usage(1, 2)


def test_last_event_of_a_streamed_response_carries_usage() -> None:
    passing, usage = stream("responses")
    last = (
        b"event: response.completed\n"
        b'data: {"response":{"usage":{"input_tokens":5,"output_tokens":6}},"type":"response.completed"}\n\n'
    )
    assert passing.feed(last) == last
    assert passing.end() == b""
    assert usage == Usage(5, 6)


START = b'event: message_start\ndata: {"message":{"usage":{"input_tokens":5,"output_tokens":0}}}\n\n'
DELTA = b'event: message_delta\ndata: {"usage":{"input_tokens":1,"output_tokens":6,"cache_read_input_tokens":4}}\n\n'
STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'


def test_messages_know_their_input_at_the_start_and_their_output_at_the_end() -> None:
    passing, usage = stream("messages")
    assert passing.feed(START) == START
    assert usage == Usage(5, None), "of what came until now nothing is known; it is not zero"
    assert passing.feed(DELTA + STOP) == DELTA + STOP
    assert usage == Usage(5, 6, 4)
    assert passing.end() == b""


@pytest.mark.parametrize(("operation", "begun"), [("messages", START + DELTA), ("responses", b"event: response.x\n\n")])
def test_stream_without_its_last_event_is_truncated(operation: str, begun: bytes) -> None:
    passing, _ = stream(operation)
    passing.feed(begun)
    with pytest.raises(BackendBroke, match="without saying"):
        passing.end()


@pytest.mark.parametrize("rest", [b"", b"data: {", b'data: {"a":"data: [DONE]"'])
def test_stream_without_done_is_truncated(rest: bytes) -> None:
    passing, _ = stream()
    passing.feed(TOKEN + rest)
    with pytest.raises(BackendBroke, match="without saying"):
        passing.end()


FINISH = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'


def test_a_server_that_never_says_done_is_believed_when_it_gave_a_reason_to_finish() -> None:
    passing, _ = stream(says_done=False)
    assert passing.feed(TOKEN) + passing.feed(FINISH) + passing.end() == TOKEN + FINISH + DONE


@pytest.mark.parametrize("begun", [TOKEN, TOKEN + TOKEN, FINISH + b"data: {"])
def test_a_server_that_never_says_done_is_not_believed_without_a_reason(begun: bytes) -> None:
    passing, _ = stream(says_done=False)
    passing.feed(begun)
    with pytest.raises(BackendBroke):
        passing.end()


@pytest.mark.parametrize("together", [True, False])
def test_the_usage_that_we_asked_for_may_follow_the_reason_to_finish(*, together: bool) -> None:
    passing, usage = stream(says_done=False)
    for piece in (TOKEN, FINISH + USAGE) if together else (TOKEN, FINISH, USAGE):
        passing.feed(piece)
    assert passing.end() == DONE
    assert usage == Usage(1, 2)


def test_half_an_event_after_done_or_without_need_of_done_is_truncated() -> None:
    passing, _ = stream("embeddings")
    passing.feed(TOKEN + b"data: {")
    with pytest.raises(BackendBroke):
        passing.end()


def test_forgotten_last_blank_line_is_forgiven() -> None:
    passing, _ = stream()
    passing.feed(TOKEN + b"data: [DONE]\n")
    assert passing.end() == b"data: [DONE]\n"


def test_what_follows_done_in_the_same_piece_is_no_unfinished_stream() -> None:
    passing, _ = stream()
    assert passing.feed(TOKEN + DONE + b": ping\n\n") == TOKEN + DONE + b": ping\n\n"
    assert passing.end() == b""


@pytest.mark.parametrize("nested", [b'"usage":{},"q":' + DEEP, b'"error":' + DEEP, b'"usage":{"completion_tokens":-7}'])
def test_an_event_that_nobody_can_read_passes_as_it_is(nested: bytes) -> None:
    passing = ReplyStream(counted := Usage(), "chat", Outgoing(b""), limit_bytes=10**6)
    assert passing.feed(b"data: {" + nested + b"}\n\n" + DONE) == b"data: {" + nested + b"}\n\n" + DONE
    passing.check()
    assert (passing.end(), counted) == (b"", Usage())


def test_an_event_with_a_name_that_is_no_text_keeps_its_running_count() -> None:
    passing, usage = stream(hides="running")
    event = b'data: {"choices":[{"index":0}],"\xff":1,"usage":{"completion_tokens":3}}\n\n'
    assert passing.feed(event) == event
    assert usage.output_tokens == 3


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
