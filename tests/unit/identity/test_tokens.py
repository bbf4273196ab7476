"""What a stranger may present, and what we say to it."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from controlplane.identity.denylist import Denylist
from controlplane.identity.errors import Unauthenticated
from controlplane.identity.identity import TokenIdentity
from tests.unit.identity.issuer import (
    AUDIENCE,
    EC_PRIVATE,
    ED_PRIVATE,
    NOW_S,
    RSA_PRIVATE,
    Clock,
    Source,
    claims,
    encoded,
    keys_of,
    public,
    settings,
    token,
)


async def identity_of(*keys: dict[str, Any], **changes: Any) -> TokenIdentity:
    chosen, clock = settings(**changes), Clock()
    held = keys_of(chosen, Source(*(keys or (public(EC_PRIVATE, "ES256"),))), clock)
    await held.refresh()
    return TokenIdentity(chosen, keys=held, denylist=Denylist(None), wall_clock=clock)


async def refusal_of(credential: str, *keys: dict[str, Any], **changes: Any) -> str:
    identity = await identity_of(*keys, **changes)
    with pytest.raises(Unauthenticated) as refused:
        await identity.authenticate(credential)
    return refused.value.reason


async def test_good_token_proves_its_principal() -> None:
    said = claims(
        kind="service",
        scope="read write",
        act={"sub": "agent:b", "act": {"sub": "user:c"}},
        clearance=3,
        nbf=int(NOW_S),
    )
    principal = await (await identity_of()).authenticate(token(said))
    assert (principal.subject, principal.tenant, principal.kind) == ("agent:analyst", "acme", "service")
    assert principal.chain == ("agent:b", "user:c")
    assert (principal.client_id, principal.token_id) == ("analyst-app", "token-1")
    assert principal.expires_at_s == NOW_S + 600
    assert principal.scopes == {"read", "write"}
    assert principal.claims == {"clearance": 3}


@pytest.mark.parametrize(
    ("private", "algorithm"),
    [(EC_PRIVATE, "ES256"), (ED_PRIVATE, "EdDSA"), (RSA_PRIVATE, "RS256"), (RSA_PRIVATE, "PS256")],
)
async def test_every_accepted_algorithm_verifies(private: Any, algorithm: str) -> None:
    identity = await identity_of(public(private, algorithm))
    principal = await identity.authenticate(token(private=private, algorithm=algorithm))
    assert principal.subject == "agent:analyst"


async def test_nothing_presented_is_not_malformed() -> None:
    assert await refusal_of("") == "no_credential"


def without_signature(said: dict[str, Any], **header: Any) -> str:
    return f"{encoded({'typ': 'at+jwt', 'kid': 'k1', **header})}.{encoded(said)}."


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE"])
async def test_unsigned_token_is_refused(name: str) -> None:
    assert await refusal_of(without_signature(claims(), alg=name)) == "algorithm_refused"


async def test_stripped_signature_is_refused() -> None:
    assert await refusal_of(without_signature(claims(), alg="ES256")) == "bad_signature"


@pytest.mark.parametrize("form", ["PEM", "DER", "JWK"])
async def test_public_key_is_no_shared_secret(form: str) -> None:
    """The classic confusion: HS256 keyed with what everybody can read."""
    info = PublicFormat.SubjectPublicKeyInfo
    secret = {
        "PEM": RSA_PRIVATE.public_key().public_bytes(Encoding.PEM, info),
        "DER": RSA_PRIVATE.public_key().public_bytes(Encoding.DER, info),
        "JWK": str(public(RSA_PRIVATE, "RS256")).encode(),
    }[form]
    unsigned = without_signature(claims(), alg="HS256")[:-1]
    forged = f"{unsigned}.{encoded(hmac.digest(secret, unsigned.encode(), hashlib.sha256))}"
    assert await refusal_of(forged, public(RSA_PRIVATE, "RS256")) == "algorithm_refused"


async def test_key_is_bound_to_its_algorithm() -> None:
    """The same RSA key signs PS256 just as well, but it was published for RS256."""
    assert (
        await refusal_of(token(private=RSA_PRIVATE, algorithm="PS256"), public(RSA_PRIVATE, "RS256"))
        == "algorithm_refused"
    )


async def test_algorithm_off_the_list_is_refused_although_the_key_fits() -> None:
    reason = await refusal_of(token(), public(ED_PRIVATE, "EdDSA"), algorithms=frozenset({"EdDSA"}))
    assert reason == "algorithm_refused"


async def test_another_key_under_a_known_name_is_a_bad_signature() -> None:
    assert await refusal_of(token(private=ec.generate_private_key(ec.SECP256R1()))) == "bad_signature"


async def test_key_of_one_name_does_not_verify_a_token_that_names_another() -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    keys = (public(EC_PRIVATE, "ES256", "k1"), public(other, "ES256", "k2"))
    assert await refusal_of(token(private=EC_PRIVATE, kid="k2"), *keys) == "bad_signature"


@pytest.mark.parametrize("kid", ["nobody", "", "k1\x00", "../../k1", "k1' OR '1'='1"])
async def test_unknown_key_is_refused(kid: str) -> None:
    assert await refusal_of(token(kid=kid)) == "unknown_key"


async def test_token_that_names_no_key_is_understood_only_when_there_is_one() -> None:
    nameless = token(kid=...)
    assert (await (await identity_of()).authenticate(nameless)).subject == "agent:analyst"
    keys = (public(EC_PRIVATE, "ES256", "k1"), public(ED_PRIVATE, "EdDSA", "k2"))
    assert await refusal_of(nameless, *keys) == "unknown_key"


@pytest.mark.parametrize("name", ["jku", "jwk", "x5u", "x5c"])
async def test_token_does_not_bring_its_own_key(name: str) -> None:
    mine = ec.generate_private_key(ec.SECP256R1())
    brought = {"jwk": public(mine, "ES256"), "x5c": ["MIIB"]}.get(name, "https://evil.example/keys")
    assert await refusal_of(token(private=mine, **{name: brought})) == "bad_signature"
    assert (await (await identity_of()).authenticate(token(**{name: brought}))).subject == "agent:analyst"


@pytest.mark.parametrize("value", [["exp"], ["b64"], [], "exp"])
async def test_critical_extension_is_refused(value: Any) -> None:
    assert await refusal_of(token(crit=value)) == "critical_header"


async def test_payload_said_to_be_unencoded_is_refused_also_when_that_is_not_said_to_be_critical() -> None:
    header = {"alg": "ES256", "typ": "at+jwt", "kid": "k1", "b64": False}
    signing_input = f"{encoded(header)}.{encoded(claims())}"
    signature = jwt.get_algorithm_by_name("ES256").sign(signing_input.encode(), EC_PRIVATE)
    assert await refusal_of(f"{signing_input}.{encoded(signature)}") == "critical_header"


@pytest.mark.parametrize("kind", ["JWT", "jwt", "dpop+jwt", "logout+jwt", "at+jwt ", ..., None, 1])
async def test_other_types_of_token_are_refused(kind: Any) -> None:
    header = {"alg": "ES256", "kid": "k1"} | ({} if kind is ... else {"typ": kind})
    signing_input = f"{encoded(header)}.{encoded(claims())}"
    signature = jwt.get_algorithm_by_name("ES256").sign(signing_input.encode(), EC_PRIVATE)
    assert await refusal_of(f"{signing_input}.{encoded(signature)}") == "wrong_type"


@pytest.mark.parametrize("kind", ["at+jwt", "AT+JWT", "application/at+jwt"])
async def test_type_is_a_media_type_and_has_no_case(kind: str) -> None:
    assert (await (await identity_of()).authenticate(token(typ=kind))).subject == "agent:analyst"


@pytest.mark.parametrize("name", ["iss", "exp", "aud", "sub", "client_id", "iat", "jti", "tenant"])
@pytest.mark.parametrize("absent", [..., None])
async def test_every_required_claim_is_required(name: str, absent: Any) -> None:
    said = claims(**{name: absent})
    signing_input = f"{encoded({'alg': 'ES256', 'typ': 'at+jwt', 'kid': 'k1'})}.{encoded(said)}"
    signature = jwt.get_algorithm_by_name("ES256").sign(signing_input.encode(), EC_PRIVATE)
    assert await refusal_of(f"{signing_input}.{encoded(signature)}") == "missing_claim"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"iss": "https://issuer.example/"}, "wrong_issuer"),
        ({"iss": "https://ISSUER.example"}, "wrong_issuer"),
        ({"aud": f"{AUDIENCE}/"}, "wrong_audience"),
        ({"aud": AUDIENCE[:-1]}, "wrong_audience"),
        ({"aud": []}, "wrong_audience"),
        ({"aud": [["nested", AUDIENCE]]}, "wrong_audience"),
        ({"aud": {AUDIENCE: 1}}, "wrong_audience"),
        ({"exp": int(NOW_S) - 30}, "expired"),
        ({"nbf": int(NOW_S) + 31}, "not_yet_valid"),
        ({"iat": int(NOW_S) + 31}, "not_yet_valid"),
        ({"exp": int(NOW_S) + 86_400}, "lifetime_too_long"),
        ({"exp": "1800000600"}, "bad_claim"),
        ({"exp": True}, "bad_claim"),
        ({"exp": 1e300}, "bad_claim"),
        ({"iat": -1}, "bad_claim"),
        ({"nbf": "soon"}, "bad_claim"),
        ({"sub": ""}, "bad_claim"),
        ({"sub": 7}, "bad_claim"),
        ({"sub": "agent:a\nadmin"}, "bad_claim"),
        ({"sub": "a" * 257}, "bad_claim"),
        ({"jti": ["token-1"]}, "bad_claim"),
        ({"tenant": {"id": "acme"}}, "bad_claim"),
        ({"tenant": ""}, "bad_claim"),
        ({"kind": "admin"}, "bad_claim"),
        ({"kind": []}, "bad_claim"),
        ({"scope": 5}, "bad_claim"),
        ({"scope": [5]}, "bad_claim"),
        ({"act": "agent:b"}, "bad_claim"),
        ({"act": {}}, "bad_claim"),
        ({"act": {"sub": "alice", "iss": "https://elsewhere.example"}}, "bad_claim"),
    ],
)
async def test_claims_that_do_not_hold_are_refused(changes: dict[str, Any], reason: str) -> None:
    signing_input = f"{encoded({'alg': 'ES256', 'typ': 'at+jwt', 'kid': 'k1'})}.{encoded(claims(**changes))}"
    signature = jwt.get_algorithm_by_name("ES256").sign(signing_input.encode(), EC_PRIVATE)
    assert await refusal_of(f"{signing_input}.{encoded(signature)}") == reason


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": int(NOW_S) - 29},
        {"nbf": int(NOW_S) + 30},
        {"iat": int(NOW_S) + 30},
        {"aud": ["https://other.example", AUDIENCE]},
        {"exp": NOW_S + 0.5},
        {"scope": ["read"]},
        {"act": {"sub": "agent:b", "iss": "https://issuer.example"}},
    ],
)
async def test_claims_that_just_hold_are_accepted(changes: dict[str, Any]) -> None:
    assert (await (await identity_of()).authenticate(token(claims(**changes)))).tenant == "acme"


def nested(depth: int) -> dict[str, Any]:
    act: dict[str, Any] = {"sub": "agent:1"}
    for number in range(2, depth + 1):
        act = {"sub": f"agent:{number}", "act": act}
    return act


async def test_chain_is_capped() -> None:
    assert len((await (await identity_of()).authenticate(token(claims(act=nested(4))))).chain) == 4
    assert await refusal_of(token(claims(act=nested(5)))) == "chain_too_long"
    assert await refusal_of(token(claims(act=nested(1))), max_chain=0) == "chain_too_long"


async def test_huge_token_is_refused_unread() -> None:
    assert await refusal_of("A" * 16_385) == "token_too_large"
    assert await refusal_of(token(claims(filler="x" * 16_384))) == "token_too_large"


async def test_json_bomb_is_only_malformed() -> None:
    header, bomb = encoded({"alg": "ES256", "typ": "at+jwt", "kid": "k1"}), b"[" * 100_000
    assert await refusal_of(f"{encoded(bomb)}.e30.AA", max_token_bytes=1_000_000) == "malformed"
    signing_input = f"{header}.{encoded(bomb)}"
    signature = jwt.get_algorithm_by_name("ES256").sign(signing_input.encode(), EC_PRIVATE)
    assert await refusal_of(f"{signing_input}.{encoded(signature)}", max_token_bytes=1_000_000) == "malformed"


REPEATED_NAME = b'{"alg":"ES256","alg":"ES256","typ":"at+jwt"}'
NOT_A_NUMBER = b'{"alg":NaN}'


def mangled() -> list[str]:
    header, payload, signature = token().split(".")
    return [
        "not a token",
        "..",
        f"{header}.{payload}",
        f"{header}.{payload}.{signature}.",
        f"{header}.{payload}.{signature}.a.b",  # an encrypted token (RFC 7516) has five parts
        f"{header}=.{payload}.{signature}",
        f" {header}.{payload}.{signature}",
        f"{header}.{payload}.{signature}\n",
        f"{header}.{payload}!.{signature}",
        f"{header}..{signature}",
        f"{encoded(b'[]')}.{payload}.{signature}",
        f"{encoded(b'{}')}.{payload}.{signature}",
        f"{encoded(REPEATED_NAME)}.{payload}.{signature}",
        f"{encoded(NOT_A_NUMBER)}.{payload}.{signature}",
        f"{encoded(bytes([0xFF, 0xFE]))}.{payload}.{signature}",
        f"{encoded({'alg': ['ES256'], 'typ': 'at+jwt'})}.{payload}.{signature}",
        f"{encoded({'alg': 'ES256', 'typ': 'at+jwt', 'kid': {'$ne': 1}})}.{payload}.{signature}",
        f"{header}.{payload}.{signature}é",
        "\ud800.a.b",
    ]


@pytest.mark.parametrize("credential", mangled())
async def test_mangled_token_is_malformed(credential: str) -> None:
    assert await refusal_of(credential) == "malformed"


async def test_repeated_claim_is_malformed_although_signed() -> None:
    payload = b'{"sub":"agent:a","sub":"agent:b"}'
    signing_input = f"{encoded({'alg': 'ES256', 'typ': 'at+jwt', 'kid': 'k1'})}.{encoded(payload)}"
    signature = jwt.get_algorithm_by_name("ES256").sign(signing_input.encode(), EC_PRIVATE)
    assert await refusal_of(f"{signing_input}.{encoded(signature)}") == "malformed"


async def test_loose_last_bits_do_not_make_a_second_spelling_of_a_token() -> None:
    good = token()
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    respelled = good[:-1] + alphabet[alphabet.index(good[-1]) | 1]  # 64 bytes leave four loose bits
    assert respelled != good
    assert await refusal_of(respelled) == "malformed"


async def test_signature_in_another_encoding_is_refused() -> None:
    """ECDSA in JOSE is r‖s (RFC 7518 §3.4), not the DER that other places use."""
    header, payload, _ = token().split(".")
    der = EC_PRIVATE.sign(f"{header}.{payload}".encode(), ec.ECDSA(hashes.SHA256()))
    assert await refusal_of(f"{header}.{payload}.{encoded(der)}") == "bad_signature"


async def test_zero_signature_is_refused() -> None:
    """CVE-2022-21449: r = s = 0 satisfied a careless verifier for every message."""
    header, payload, _ = token().split(".")
    assert await refusal_of(f"{header}.{payload}.{encoded(bytes(64))}") == "bad_signature"


async def test_policy_reads_only_the_claims_it_was_given() -> None:
    said = claims(clearance=3, purpose="research", secret="s", cnf={"jkt": "x"}, may_act={"sub": "y"})
    everything = await (await identity_of()).authenticate(token(said))
    assert everything.claims == {"clearance": 3, "purpose": "research", "secret": "s"}
    named = await (await identity_of(policy_claims=frozenset({"clearance", "absent"}))).authenticate(token(said))
    assert named.claims == {"clearance": 3}


async def test_claim_names_are_the_issuers() -> None:
    identity = await identity_of(tenant_claim="org", kind_claim="type", scope_claim="scp", default_kind="user")
    principal = await identity.authenticate(token(claims(tenant=..., org="acme", scp=["a"])))
    assert (principal.tenant, principal.kind, principal.scopes) == ("acme", "user", {"a"})
    fallback = await identity_of(default_tenant="home")
    assert (await fallback.authenticate(token(claims(tenant=...)))).tenant == "home"
