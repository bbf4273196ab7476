"""Which keys may verify, and which sets are not to be trusted at all."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from controlplane.identity.keys import KeySetRefused, _is_roca, parse_key_set
from tests.unit.identity.issuer import EC_PRIVATE, ED_PRIVATE, RSA_PRIVATE, encoded, key_set, public

ACCEPTED = ("ES256", "EdDSA", "PS256", "RS256")
GOOD = public(EC_PRIVATE, "ES256", "good")


def kids(*members: dict[str, Any], rsa_algorithm: str | None = None) -> list[str | None]:
    return [key.kid for key in parse_key_set(key_set(*members), ACCEPTED, rsa_algorithm).keys]


def number(value: int) -> str:
    return encoded(value.to_bytes((value.bit_length() + 7) // 8, "big"))


WEAK_RSA = public(rsa.generate_private_key(65_537, 1_024), "RS256", "weak")
BARE_RSA = {name: value for name, value in public(RSA_PRIVATE, "RS256", "bare").items() if name != "alg"}


@pytest.mark.parametrize(
    ("member", "why"),
    [
        (public(RSA_PRIVATE, "RS256", use="enc"), "not a signature key"),
        (public(RSA_PRIVATE, "RS256", use=None), "not a signature key"),
        (public(RSA_PRIVATE, "RS256", key_ops=["encrypt"]), "key_ops"),
        (public(RSA_PRIVATE, "RS256", key_ops=["verify", "sign"]), "key_ops"),
        (public(RSA_PRIVATE, "RS256", key_ops="verify"), "key_ops"),
        (public(RSA_PRIVATE, "RS256", alg="ES256"), "fits its type"),
        (public(RSA_PRIVATE, "RS256", alg="RSA-OAEP"), "fits its type"),
        (public(RSA_PRIVATE, "RS256", alg="RS512"), "not accepted"),
        (public(RSA_PRIVATE, "RS256", alg=7), "fits its type"),
        (public(RSA_PRIVATE, "RS256", kid=7), "kid"),
        (public(RSA_PRIVATE, "RS256", kty="XYZ"), "unknown key type"),
        (public(RSA_PRIVATE, "RS256", kty=["RSA"]), "unknown key type"),
        (public(RSA_PRIVATE, "RS256", e=number(3)), "exponent 3"),
        (public(RSA_PRIVATE, "RS256", n="!"), "not a valid public key"),
        (public(RSA_PRIVATE, "RS256", n=7), "not a valid public key"),
        (BARE_RSA, "fits its type"),
        (WEAK_RSA, "1024 bits"),
        (public(EC_PRIVATE, "ES256", alg="ES384"), "does not fit its curve"),
        (public(EC_PRIVATE, "ES256", crv="secp256k1"), "does not fit its curve"),
        (public(EC_PRIVATE, "ES256", y=encoded(bytes(32))), "not a valid public key"),
        (public(EC_PRIVATE, "ES256", crv="P-384", alg="ES384"), "not accepted"),
        (public(ED_PRIVATE, "EdDSA", crv="Ed448"), "does not fit its curve"),
        (public(ED_PRIVATE, "EdDSA", crv="X25519"), "does not fit its curve"),
        (public(ED_PRIVATE, "EdDSA", x=encoded(bytes(31))), "not a valid public key"),
    ],
)
def test_unfit_key_is_left_out_and_said_so(member: dict[str, Any], why: str) -> None:
    keys = parse_key_set(key_set(GOOD, member), ACCEPTED)
    assert [key.kid for key in keys.keys] == ["good"]
    assert why in keys.ignored[0]
    with pytest.raises(KeySetRefused, match="no usable key"):
        parse_key_set(key_set(member), ACCEPTED)


SHARED = {"kty": "oct", "kid": "shared", "k": encoded(bytes(32)), "alg": "HS256"}


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ([GOOD, SHARED], "symmetric"),
        ([GOOD, {**SHARED, "use": "enc"}], "symmetric"),
        ([GOOD, {"kty": "RSA", "alg": "HS256", "kid": "x"}], "symmetric"),
        ([GOOD, public(ED_PRIVATE, "EdDSA", "x", d="secret")], "stolen"),
        ([GOOD, public(ED_PRIVATE, "EdDSA", "good")], "more than one"),
        ([GOOD, public(ED_PRIVATE, "EdDSA", "good", use="enc")], "more than one"),
        ([GOOD, GOOD], "more than one"),
        ([], "no usable key"),
    ],
)
def test_untrustworthy_set_is_refused_as_a_whole(members: list[dict[str, Any]], why: str) -> None:
    with pytest.raises(KeySetRefused, match=why):
        parse_key_set(key_set(*members), ACCEPTED)


@pytest.mark.parametrize(
    "document",
    [b"", b"[]", b"{}", b'{"keys": {}}', b'{"keys": [1]}', b'{"keys": [], "keys": []}', b"\xff", b"[" * 9_999],
)
def test_what_is_no_key_set_is_refused(document: bytes) -> None:
    with pytest.raises(KeySetRefused):
        parse_key_set(document, ACCEPTED)


def test_curve_implies_its_algorithm_and_rsa_needs_to_be_told() -> None:
    bare_ec = {name: value for name, value in GOOD.items() if name != "alg"}
    assert kids(bare_ec) == ["good"]
    assert kids(BARE_RSA, rsa_algorithm="RS256") == ["bare"]
    key = parse_key_set(key_set(BARE_RSA), ACCEPTED, "PS256").keys[0]
    assert key.algorithm == "PS256"


def test_keys_without_use_or_with_exactly_verify_are_taken() -> None:
    bare = {name: value for name, value in GOOD.items() if name != "use"}
    assert kids(bare) == ["good"]
    assert kids({**GOOD, "key_ops": ["verify"]}) == ["good"]


def test_roca_moduli_are_recognised_and_sound_ones_are_not() -> None:
    """A weak prime is k·M + (65537^a mod M) for a product M of small primes; so is the product of two of them mod M."""
    product = 1
    for prime in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101):
        product *= prime
    for prime in (103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167):
        product *= prime
    weak = (product * 5 + pow(65_537, 77, product)) * (product * 9 * 2**1_700 + pow(65_537, 1_234, product))
    assert _is_roca(weak)
    member = public(RSA_PRIVATE, "RS256", n=number(weak))
    assert "ROCA" in parse_key_set(key_set(GOOD, member), ACCEPTED).ignored[0]
    assert not _is_roca(weak + 2)
    assert not _is_roca(RSA_PRIVATE.public_key().public_numbers().n)


def test_short_curve_key_is_not_confused_with_a_long_one() -> None:
    longer = public(ec.generate_private_key(ec.SECP384R1()), "ES384", "longer")
    with pytest.raises(KeySetRefused):
        parse_key_set(key_set({**longer, "crv": "P-256", "alg": "ES256"}), ACCEPTED)
