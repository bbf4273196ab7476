"""An issuer with memory: keys by kid, tokens as a test wants them, and a clock that moves when told."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms

from controlplane.identity.jwks import JwksKeys
from controlplane.identity.settings import IdentitySettings

NOW_S = 1_800_000_000.0
ISSUER, AUDIENCE = "https://issuer.example", "https://gateway.example"
RSA_PRIVATE = rsa.generate_private_key(65_537, 2_048)
EC_PRIVATE = ec.generate_private_key(ec.SECP256R1())
ED_PRIVATE = ed25519.Ed25519PrivateKey.generate()


class Clock:
    def __init__(self) -> None:
        self.now_s = NOW_S

    def __call__(self) -> float:
        return self.now_s


class Source:
    """What the key set's address serves: a document, or an exception to raise. Counts its readers."""

    def __init__(self, *keys: dict[str, Any]) -> None:
        self.answer: bytes | Exception = key_set(*keys)
        self.readings = 0

    async def __call__(self) -> bytes:
        self.readings += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def settings(**changes: Any) -> IdentitySettings:
    said: dict[str, Any] = {"issuer": ISSUER, "audience": AUDIENCE, "jwks_file": Path("keys.json")}
    return IdentitySettings(**(said | changes))


def key_set(*keys: dict[str, Any]) -> bytes:
    return json.dumps({"keys": keys}).encode()


def public(private: Any, algorithm: str, kid: str | None = "k1", **extra: Any) -> dict[str, Any]:
    jwk = get_default_algorithms()[algorithm].to_jwk(private.public_key(), as_dict=True)
    jwk = {name: value for name, value in jwk.items() if name in {"kty", "crv", "x", "y", "n", "e"}}
    return jwk | {"alg": algorithm, "use": "sig"} | ({} if kid is None else {"kid": kid}) | extra


def keys_of(chosen: IdentitySettings, source: Source, clock: Clock) -> JwksKeys:
    return JwksKeys(chosen, source=source, monotonic=clock)


def claims(**changes: Any) -> dict[str, Any]:
    """A good access token's claims; a change to ``...`` leaves the claim out."""
    good = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "agent:analyst",
        "client_id": "analyst-app",
        "jti": "token-1",
        "iat": int(NOW_S) - 10,
        "exp": int(NOW_S) + 600,
        "tenant": "acme",
    }
    return {name: value for name, value in (good | changes).items() if value is not ...}


def token(
    said: dict[str, Any] | None = None, *, private: Any = EC_PRIVATE, algorithm: str = "ES256", **header: Any
) -> str:
    headers = {"typ": "at+jwt", "kid": "k1"} | header
    return jwt.encode(said or claims(), private, algorithm, headers={k: v for k, v in headers.items() if v is not ...})


def encoded(value: Any) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
