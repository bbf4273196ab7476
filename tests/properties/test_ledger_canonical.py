"""Canonical bytes against an independent implementation of RFC 8785."""

from __future__ import annotations

import json
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from audit.entry import MAX_BYTES, MAX_INTEGER, canonical, from_canonical, from_json
from audit.errors import RecordRefused

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
KEYS = st.text(st.characters(exclude_categories=["Cs"], max_codepoint=0xFFFF), max_size=8)
LEAVES = st.none() | st.booleans() | st.integers(-MAX_INTEGER, MAX_INTEGER) | TEXT
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)


def depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


@given(st.dictionaries(KEYS, VALUES, max_size=6).filter(lambda body: depth(body) <= 8))
def test_canonical_bytes_are_those_of_rfc_8785(body: dict[str, Any]) -> None:
    assert canonical(body) == rfc8785.dumps(body)
    assert from_canonical(canonical(body)) == body


@given(st.floats())
def test_no_float_is_ever_recorded(number: float) -> None:
    for body in ({"n": number}, {"deep": {"list": [1, {"n": number}]}}):
        with pytest.raises(RecordRefused, match="not_canonical"):
            canonical(body)


@given(st.integers(min_value=MAX_INTEGER + 1) | st.integers(max_value=-MAX_INTEGER - 1))
def test_no_integer_is_recorded_that_a_reader_would_round(number: int) -> None:
    with pytest.raises(RecordRefused, match="not_canonical"):
        canonical({"list": [number]})


@given(st.text(st.characters(min_codepoint=0x10000), min_size=1, max_size=3), KEYS)
def test_keys_outside_the_basic_plane_are_refused_at_any_depth(key: str, prefix: str) -> None:
    for body in ({prefix + key: 1}, {"deep": [{"list": {prefix + key: 1}}]}):
        with pytest.raises(RecordRefused, match="not_canonical"):
            canonical(body)
    canonical({"value": key})


@given(st.dictionaries(TEXT, VALUES | st.floats(), max_size=6))
def test_bytes_are_taken_for_canonical_only_if_they_would_be_written_so(body: dict[str, Any]) -> None:
    for spaces in ((",", ":"), (", ", ": ")):
        for is_sorted in (True, False):
            for is_ascii in (True, False):
                text = json.dumps(body, separators=spaces, sort_keys=is_sorted, ensure_ascii=is_ascii)
                stored = text.encode()
                assert (from_canonical(stored) is not None) == (written(body) == stored), stored


def written(body: dict[str, Any]) -> bytes | None:
    try:
        return canonical(body)
    except RecordRefused:
        return None


@pytest.mark.parametrize(
    "stored",
    [
        b"",
        b"[]",
        b'{"a":1.0}',
        b'{"a":1e3}',
        b'{"a":-0}',
        b'{"a":1,"a":1}',
        b'{"a":"\\ud800"}',
        b'{"a":"\xff"}',
        b'{"a":' + b"[" * 9 + b"]" * 9 + b"}",
        b'{"a":"' + b"x" * MAX_BYTES + b'"}',
    ],
)
def test_what_is_never_written_is_not_canonical(stored: bytes) -> None:
    assert from_canonical(stored) is None


def test_nesting_without_end_is_not_json() -> None:
    with pytest.raises(ValueError, match="recursion"):
        from_json(b'{"a":' + b"[" * 30_000 + b"]" * 30_000 + b"}")
