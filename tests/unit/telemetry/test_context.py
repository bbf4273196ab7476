from __future__ import annotations

import pytest

from controlplane.calls import new_call_id
from controlplane.telemetry.context import forwarded, parse, place, received_in, share

GOOD = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"  # W3C trace context §3.2.4


def test_a_well_formed_traceparent_is_read() -> None:
    context = parse(GOOD)
    assert context is not None
    assert context.header() == GOOD


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "garbage",
        GOOD.upper(),
        GOOD + "-more",  # version 00 ends after the flags
        "ff" + GOOD[2:],  # forbidden version
        GOOD.replace("0af7651916cd43dd8448eb211c80319c", "0" * 32),
        GOOD.replace("b7ad6b7169203331", "0" * 16),
        GOOD + "\n",
        "01" + GOOD[2:] + "-" + "x" * 65,
    ],
)
def test_a_malformed_traceparent_is_no_context(bad: str) -> None:
    assert parse(bad) is None
    assert received_in({"traceparent": bad}) == ""


def test_a_later_version_is_read_as_far_as_we_know_it() -> None:
    context = parse("cc" + GOOD[2:] + "-what-the-future-brings")
    assert context is not None
    assert context.header() == GOOD


def test_a_traceparent_of_another_type_is_no_context() -> None:
    """``_meta`` is JSON that a stranger wrote."""
    assert received_in({"traceparent": 7}) == ""
    assert received_in({"traceparent": [GOOD]}) == ""


def test_the_child_keeps_the_trace_and_has_an_id_of_its_own() -> None:
    call_id = new_call_id()
    context = place(call_id, GOOD, sampled=False)
    assert context.parent == parse(GOOD)
    assert context.client.trace_id == context.server.trace_id == 0x0AF7651916CD43DD8448EB211C80319C
    assert len({0xB7AD6B7169203331, context.server.span_id, context.client.span_id}) == 3
    assert context.client.flags & 1 == 0
    assert context == place(call_id, GOOD, sampled=False)


def test_without_a_parent_the_trace_is_named_after_the_call() -> None:
    call_id = new_call_id()
    context = place(call_id, "", sampled=True)
    assert context.parent is None
    assert f"{context.client.trace_id:032x}" == call_id.replace("-", "")
    assert context.client.header().endswith("-03")  # sampled, and its right half is random


def test_baggage_is_dropped_and_the_rest_of_meta_stays() -> None:
    meta = {"traceparent": "theirs", "baggage": "user=root", "tracestate": "v=1", "progressToken": 7}
    assert forwarded(meta, GOOD) == {"traceparent": GOOD, "tracestate": "v=1", "progressToken": 7}


@pytest.mark.parametrize("state", ["x" * 513, "a=1\r\nevil: yes", "", 7, "ä=1"])
def test_a_strange_tracestate_is_dropped(state: object) -> None:
    assert forwarded({"tracestate": state}, GOOD) == {"traceparent": GOOD}


def test_without_a_context_nothing_of_one_goes_out() -> None:
    assert forwarded({"traceparent": GOOD, "tracestate": "v=1", "other": 1}, "") == {"other": 1}


def test_shares_are_spread_evenly() -> None:
    shares = [share(new_call_id()) for _ in range(2000)]
    assert all(0 <= each < 1 for each in shares)
    assert 0.4 < sum(each < 0.5 for each in shares) / len(shares) < 0.6
