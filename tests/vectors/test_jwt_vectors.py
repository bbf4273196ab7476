"""Published examples we did not write, against the token checks. Each JSON file beside this names its source."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from controlplane.identity.base64url import decode_base64url
from controlplane.identity.errors import Unauthenticated
from controlplane.identity.keys import KeySetRefused, VerificationKey, parse_key_set
from controlplane.identity.settings import IdentitySettings
from controlplane.identity.tokens import actors, parse, verify

HERE = Path(__file__).parent
ALGORITHMS = ("ES256", "EdDSA", "RS256")
SETTINGS = IdentitySettings(issuer="joe", audience="us", jwks_file=Path("unused.json"))


def load(name: str) -> Any:
    return json.loads((HERE / name).read_text("utf-8"))


RFC7515, RFC8037 = load("jws_rfc7515.json"), load("jws_rfc8037.json")
SIGNED = [(e, v["payload"]) for v in (RFC7515, RFC8037) for e in v["examples"]]


@pytest.mark.parametrize(("example", "payload"), SIGNED, ids=[e["name"] for e, _ in SIGNED])
def test_published_signature_verifies_and_a_flipped_bit_does_not(example: dict[str, Any], payload: str) -> None:
    key = key_of(example["key"], example["algorithm"])
    signing_input, _, signature = example["token"].rpartition(".")
    good = decode_base64url(signature)
    assert decode_base64url(signing_input.partition(".")[2]).decode() == payload
    assert key.verifies(signing_input.encode(), good)
    assert not key.verifies(signing_input.encode(), bytes([good[0] ^ 1]) + good[1:])
    assert not key.verifies(signing_input.encode() + b"A", good)


@pytest.mark.parametrize("example", RFC7515["refused"], ids=lambda example: example["name"])
def test_published_tokens_without_an_asymmetric_signature_are_refused(example: dict[str, str]) -> None:
    with pytest.raises(Unauthenticated) as refused:
        parse(example["token"], SETTINGS)
    assert refused.value.reason == example["reason"]


@pytest.mark.parametrize("example", RFC7515["examples"], ids=lambda example: example["name"])
def test_published_tokens_of_no_stated_type_are_not_access_tokens(example: dict[str, str]) -> None:
    with pytest.raises(Unauthenticated, match="wrong_type"):
        parse(example["token"], SETTINGS)


def test_published_symmetric_key_spoils_any_set() -> None:
    document = json.dumps({"keys": [RFC7515["examples"][1]["key"], RFC7515["hmac_key"]]}).encode()
    with pytest.raises(KeySetRefused, match="symmetric"):
        parse_key_set(document, ALGORITHMS)


def test_published_access_token_is_accepted_with_its_spelling_of_the_type() -> None:
    vector = load("at_jwt_rfc9068.json")
    claims, private = vector["claims"], rsa.generate_private_key(65_537, 2_048)
    settings = IdentitySettings(
        issuer=claims["iss"],
        audience=claims["aud"],
        jwks_file=Path("unused.json"),
        default_tenant="example",
        max_lifetime_s=claims["exp"] - claims["iat"],
    )
    token = parse(jwt.encode(claims, private, "RS256", headers=vector["header"]), settings)
    verified = verify(token, VerificationKey(token.kid, "RS256", private.public_key()), settings)
    assert token.kid == "RjEwOwOA"
    assert verified.principal.subject == "5ba552d67"
    assert verified.principal.client_id == "s6BhdRkqt3"
    assert verified.principal.scopes == {"openid", "profile", "reademail"}


@pytest.mark.parametrize("example", load("act_rfc8693.json")["examples"], ids=lambda example: example["name"])
def test_published_delegation_reads_current_actor_first(example: dict[str, Any]) -> None:
    assert actors(example["act"], SETTINGS) == tuple(example["chain"])


def key_of(jwk: dict[str, str], algorithm: str) -> VerificationKey:
    return parse_key_set(json.dumps({"keys": [{**jwk, "alg": algorithm}]}).encode(), ALGORITHMS).keys[0]
