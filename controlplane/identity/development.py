"""An issuer for development: a key in a directory, and tokens signed with it.

Its name says what it is. Nothing here guards who may ask for a token, so no gateway that matters may believe it.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from jwt.algorithms import ECAlgorithm

DEVELOPMENT_ISSUER = "urn:controlplane:development-issuer"
DEVELOPMENT_AUDIENCE = "urn:controlplane:gateway"
KEY_FILE, JWKS_FILE, KID = "development-key.pem", "development-jwks.json", "development"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What a token is to say. ``actors`` are the ``act`` chain, the current actor first."""

    subject: str
    tenant: str
    kind: str = "agent"
    actors: Sequence[str] = ()
    scope: str = ""
    claims: Mapping[str, Any] = field(default_factory=dict)


class DevelopmentIssuer:
    """Makes its key on first use: private part readable by its owner alone, public part as a key set beside it."""

    def __init__(self, directory: Path, *, audience: str = DEVELOPMENT_AUDIENCE) -> None:
        self.issuer, self.audience = DEVELOPMENT_ISSUER, audience
        self.jwks_file = directory / JWKS_FILE
        self._key = _load_or_create(directory)
        self.jwks_file.write_text(json.dumps(_key_set(self._key), indent=2) + "\n", "utf-8")

    def issue(self, grant: Grant, *, ttl_s: float = 3_600, now_s: float | None = None) -> str:
        issued_s = int(time.time() if now_s is None else now_s)
        claims: dict[str, Any] = {
            **grant.claims,
            "iss": self.issuer,
            "aud": self.audience,
            "sub": grant.subject,
            "client_id": "controlplane-token",
            "jti": str(uuid.uuid4()),
            "iat": issued_s,
            "exp": issued_s + int(ttl_s),
            "tenant": grant.tenant,
            "kind": grant.kind,
        }
        if grant.scope:
            claims["scope"] = grant.scope
        if grant.actors:
            claims["act"] = _nested(grant.actors)
        return jwt.encode(claims, self._key, "ES256", headers={"typ": "at+jwt", "kid": KID})


def _nested(actors: Sequence[str]) -> dict[str, Any]:
    act: dict[str, Any] = {}
    for actor in reversed(actors):
        act = {"sub": actor, "act": act} if act else {"sub": actor}
    return act


def _load_or_create(directory: Path) -> ec.EllipticCurvePrivateKey:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / KEY_FILE
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return _load(path)
    key = ec.generate_private_key(ec.SECP256R1())
    with os.fdopen(descriptor, "wb") as file:
        file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return key


def _load(path: Path) -> ec.EllipticCurvePrivateKey:
    if path.stat().st_mode & 0o077:
        raise PermissionError(f"{path} must be readable by its owner alone (chmod 600)")
    key = load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError(f"{path} is not an elliptic curve key")
    return key


def _key_set(key: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
    public = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    public = {name: value for name, value in public.items() if name in {"kty", "crv", "x", "y"}}
    return {"keys": [{**public, "kid": KID, "alg": "ES256", "use": "sig"}]}
