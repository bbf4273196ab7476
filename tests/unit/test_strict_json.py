"""What two parsers could read differently is refused."""

from __future__ import annotations

import pytest

from controlplane.strict_json import Ambiguous, parse, parse_object


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"a":1,"a":2}', "duplicate_key"),
        (b'{"x":{"a":1,"\\u0061":2}}', "duplicate_key"),
        (b'{"a":"\\ud800"}', "lone_surrogate"),
        (b'{"a":NaN}', "parse_error"),
        (b'{"a":-Infinity}', "parse_error"),
        ('{"a":1}'.encode("utf-16"), "parse_error"),
        (b'\xef\xbb\xbf{"a":1}', "parse_error"),
        (b'{"a":"\xff"}', "parse_error"),
        (b"[" * 200_000, "parse_error"),
        (b'{"a":' + b"9" * 5000 + b"}", "parse_error"),
        (b"", "parse_error"),
    ],
)
def test_refused(body: bytes, reason: str) -> None:
    with pytest.raises(Ambiguous) as caught:
        parse(body)
    assert caught.value.reason == reason


@pytest.mark.parametrize("body", [b"[]", b'"a"', b"1", b"null"])
def test_what_is_no_object_is_refused_where_one_is_asked_for(body: bytes) -> None:
    with pytest.raises(Ambiguous) as caught:
        parse_object(body)
    assert caught.value.reason == "not_an_object"


@pytest.mark.parametrize("body", [b'{"a":1,"A":2}', b'[{"x":{"mask":1,"ma\xc5\xbf\xe2\x84\xaa":2}}]'])
def test_keys_that_differ_in_case_are_refused_where_they_may_be_taken_for_each_other(body: bytes) -> None:
    assert parse(body)
    with pytest.raises(Ambiguous) as caught:
        parse(body, in_any_case=True)
    assert caught.value.reason == "ambiguous_key"


def test_escapes_and_astral_characters_are_welcome() -> None:
    assert parse(b'{"a":"\\ud83d\\ude00 \xc3\xa9"}') == {"a": "😀 é"}
