"""Commitments are HMAC-SHA256. Source: RFC 4231 §4.2 to §4.4 and §4.7, and Python's own ``hmac``."""

from __future__ import annotations

import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit import Commitments

RFC_4231 = [
    (b"\x0b" * 20, b"Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
    (
        b"Jefe",
        b"what do ya want for nothing?",
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
    ),
    (b"\xaa" * 20, b"\xdd" * 50, "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"),
    (
        b"\xaa" * 131,
        b"Test Using Larger Than Block-Size Key - Hash Key First",
        "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
    ),
]


@pytest.mark.parametrize(("key", "data", "mac"), RFC_4231)
def test_the_vectors_of_the_rfc(key: bytes, data: bytes, mac: str) -> None:
    assert Commitments(key)(data) == "hmac-sha256:" + mac


@given(st.binary(max_size=130), st.lists(st.binary(max_size=300), min_size=1, max_size=3))
def test_one_key_commits_to_any_data_one_after_another(key: bytes, several: list[bytes]) -> None:
    commit = Commitments(key)
    assert [commit(data) for data in several] == [
        "hmac-sha256:" + hmac.new(key, data, "sha256").hexdigest() for data in several
    ]
