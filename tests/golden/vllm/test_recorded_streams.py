"""Streams as a real vLLM 0.32.0 wrote them, on their way through: recorded, so that every run meets them.

``*_counted`` is what the gateway asks for, the other what a caller gets who asks a server directly.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from inference.backend import Usage
from inference.openai_http.outgoing import Outgoing
from inference.openai_http.stream import ReplyStream
from inference.sse import EventParser

HERE = Path(__file__).parent
OF_THE_MOMENT = ("created", "id", "system_fingerprint")
"""The fingerprint stands in the last event of all, which is the count that nobody but us asked for."""


def through(operation: str, recorded: str, *, size: int) -> tuple[bytes, Usage]:
    body, usage = (HERE / recorded).read_bytes(), Usage()
    stream = ReplyStream(usage, operation, Outgoing(b"", hides_usage=True, hides_running=True), limit_bytes=2**20)
    passed = b"".join(stream.feed(body[at : at + size]) for at in range(0, len(body), size))
    return passed + stream.end(), usage


def documents(body: bytes) -> list[Any]:
    told = [event.data for event in EventParser().feed(body)]
    assert told.pop() == "[DONE]"
    found = [json.loads(data) for data in told]
    return [{key: value for key, value in each.items() if key not in OF_THE_MOMENT} for each in found]


@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
@pytest.mark.parametrize("operation", ["chat", "completions"])
def test_who_asked_for_no_count_gets_the_stream_that_he_would_get_directly(operation: str, size: int) -> None:
    passed, usage = through(operation, f"{operation}_counted.sse", size=size)
    assert b'"usage"' not in passed
    assert [each["choices"][0]["index"] for each in documents(passed)]
    assert documents(passed) == documents((HERE / f"{operation}.sse").read_bytes())
    assert usage.output_tokens == 4
    assert usage.input_tokens


@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
@pytest.mark.parametrize("operation", ["responses", "messages"])
def test_what_carries_its_own_count_passes_to_the_byte(operation: str, size: int) -> None:
    passed, usage = through(operation, f"{operation}.sse", size=size)
    assert passed == (HERE / f"{operation}.sse").read_bytes()
    assert usage.output_tokens == 4
    assert usage.input_tokens
