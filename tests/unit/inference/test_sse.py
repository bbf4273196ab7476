"""Event streams: the fields as the WHATWG text has them, and any chunking gives the same events."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.sse import Event, EventParser, EventTooLong, WholeEvents, split_events


def events(stream: bytes) -> list[Event]:
    return EventParser().feed(stream)


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"data: a\n\n", [Event("a")]),
        (b"data:a\r\n\r\n", [Event("a")]),
        (b"data: a\r\r", [Event("a")]),
        (b"data: a\ndata: b\ndata\n\n", [Event("a\nb\n")]),
        (b"data:  two spaces\n\n", [Event(" two spaces")]),
        (b": awake\n\ndata: a\n\n", [Event("a")]),
        (b"event: x\nid: 7\nretry: 10\ndata: a\n\n", [Event("a", "x", "7", 10)]),
        (b"id: a\0b\nretry: soon\ndata: a\n\n", [Event("a")]),
        (b"event: x\n\ndata: a\n\n", [Event("a")]),
        (b"\xef\xbb\xbfdata: a\n\n", [Event("a")]),
        (b"data: a\n\n\xef\xbb\xbfdata: b\n\n", [Event("a")]),
        (b"data: a\n\n\n\n\ndata: b\n\n", [Event("a"), Event("b")]),
        (b"data: a\n\ndata: never ended\n", [Event("a")]),
        (b"data: \xff\n\n", [Event("\ufffd")]),
        (b"unknown: a\ndataa: b\n\n", []),
        (b"", []),
    ],
)
def test_fields_are_read_as_the_standard_says(stream: bytes, expected: list[Event]) -> None:
    assert events(stream) == expected


LINES = st.lists(
    st.sampled_from(
        [b"data: a", b"data", b"data: b: c", b": comment", b"event: e", b"id: 1", b"retry: 5", b"", b"", b"", b"x"]
    ),
    max_size=20,
)
ENDS = st.sampled_from([b"\n", b"\r", b"\r\n"])


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    return draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + b"".join(line + draw(ENDS) for line in draw(LINES))


@st.composite
def chunked_streams(draw: st.DrawFn) -> list[bytes]:
    stream = draw(streams())
    cuts = sorted(draw(st.sets(st.integers(0, len(stream)), max_size=12)))
    return [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]


def one_by_one(stream: bytes) -> list[bytes]:
    return [bytes([byte]) for byte in stream]


@given(chunked_streams())
def test_any_chunking_gives_the_same_events(chunks: list[bytes]) -> None:
    stream = b"".join(chunks)
    parser, slow = EventParser(), EventParser()
    assert [event for chunk in chunks for event in parser.feed(chunk)] == events(stream)
    assert [event for byte in one_by_one(stream) for event in slow.feed(byte)] == events(stream)


@given(chunked_streams())
def test_no_byte_is_lost_or_changed(chunks: list[bytes]) -> None:
    whole = WholeEvents()
    let_out = [whole.feed(chunk) for chunk in chunks]
    assert b"".join(let_out) + whole.rest == b"".join(chunks)
    assert all(b"".join(split_events(run)) == run for run in let_out)
    assert all(run.endswith((b"\n", b"\r")) for run in let_out if run)


@given(streams())
def test_unix_ends_give_the_same_events_as_any_ends(stream: bytes) -> None:
    assert events(stream.replace(b"\r\n", b"\n").replace(b"\r", b"\n")) == events(stream)


def test_event_that_never_ends_is_refused_at_the_limit() -> None:
    whole = WholeEvents(limit_bytes=10)
    assert whole.feed(b"data: 4567") == b""
    with pytest.raises(EventTooLong):
        whole.feed(b"8")


def test_long_events_pass_while_each_is_within_the_limit() -> None:
    whole = WholeEvents(limit_bytes=10)
    assert whole.feed(b"data: 1234567890\n\ndata: 1") == b"data: 1234567890\n\n"
