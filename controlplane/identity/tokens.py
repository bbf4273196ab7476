"""The checks of one JWT access token (RFC 9068, RFC 8725 and its revision). Pure: keys and time come in.

In this order: form, header, key, signature, and only then the claims; nothing unsigned is ever interpreted.
``jku``, ``jwk``, ``x5u`` and ``x5c`` are not looked at: a token does not choose the key it is checked with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from controlplane.calls import Principal
from controlplane.identity.base64url import decode_base64url
from controlplane.identity.errors import Unauthenticated
from controlplane.identity.keys import VerificationKey
from controlplane.identity.settings import IdentitySettings
from controlplane.strict_json import parse_object

TYPES = frozenset({"at+jwt", "application/at+jwt"})  # RFC 9068 §4; media types compare without case
REQUIRED = ("iss", "exp", "aud", "sub", "client_id", "iat", "jti")  # RFC 9068 §2.2
PROTOCOL_CLAIMS = frozenset({*REQUIRED, "nbf", "act", "may_act", "cnf"})
KINDS = frozenset({"agent", "user", "service"})
MAX_NAME_CHARACTERS = 256
LAST_DATE = 253_402_300_799  # 9999-12-31T23:59:59Z; beyond it is nonsense, not a date


@dataclass(frozen=True, slots=True)
class CompactToken:
    """A JWS in compact serialization (RFC 7515 §7.1), taken apart and not yet believed."""

    kid: str | None
    algorithm: str
    signing_input: bytes
    payload: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class VerifiedToken:
    """``principal`` as proven; ``starts_s`` and ``ends_s`` (Unix seconds) bound when it may be believed."""

    principal: Principal
    starts_s: float
    ends_s: float

    def require_current(self, now_s: float, leeway_s: float) -> None:
        if now_s >= self.ends_s + leeway_s:
            raise Unauthenticated("expired")
        if now_s < self.starts_s - leeway_s:
            raise Unauthenticated("not_yet_valid")


def parse(token: str, settings: IdentitySettings) -> CompactToken:
    parts = token.split(".")
    if len(parts) != 3 or not all(parts[:2]):  # noqa: PLR2004  header, payload, signature
        raise Unauthenticated("malformed")
    try:
        header = parse_object(decode_base64url(parts[0]))
        payload, signature = decode_base64url(parts[1]), decode_base64url(parts[2])
    except ValueError:
        raise Unauthenticated("malformed") from None
    kid, algorithm = _check_header(header, settings)
    return CompactToken(kid, algorithm, f"{parts[0]}.{parts[1]}".encode("ascii"), payload, signature)


def _check_header(header: Mapping[str, Any], settings: IdentitySettings) -> tuple[str | None, str]:
    algorithm, kind, kid = header.get("alg"), header.get("typ"), header.get("kid")
    if not isinstance(algorithm, str) or not (kid is None or isinstance(kid, str)):
        raise Unauthenticated("malformed")
    if algorithm not in settings.algorithms:
        raise Unauthenticated("algorithm_refused")
    if "crit" in header or "b64" in header:  # RFC 7515 §4.1.11: we understand no extension, so none can be critical
        raise Unauthenticated("critical_header")
    if not isinstance(kind, str) or kind.lower() not in TYPES:
        raise Unauthenticated("wrong_type")
    return kid, algorithm


def verify(token: CompactToken, key: VerificationKey | None, settings: IdentitySettings) -> VerifiedToken:
    """Raises ``Unauthenticated``. Whether the token is current is left to ``VerifiedToken.require_current``."""
    if key is None:
        raise Unauthenticated("unknown_key")
    if key.algorithm != token.algorithm:  # the key's algorithm decides, never the token's
        raise Unauthenticated("algorithm_refused")
    if not key.verifies(token.signing_input, token.signature):
        raise Unauthenticated("bad_signature")
    try:
        claims = parse_object(token.payload)
    except ValueError:
        raise Unauthenticated("malformed") from None
    return _believe(claims, settings)


def _believe(claims: Mapping[str, Any], settings: IdentitySettings) -> VerifiedToken:
    if any(claims.get(name) is None for name in REQUIRED):
        raise Unauthenticated("missing_claim")
    if claims["iss"] != settings.issuer:
        raise Unauthenticated("wrong_issuer")
    _check_audience(claims["aud"], settings.audience)
    issued_s, ends_s = _date(claims["iat"]), _date(claims["exp"])
    starts_s = max(issued_s, _date(claims.get("nbf", issued_s)))
    if ends_s - issued_s > settings.max_lifetime_s:
        raise Unauthenticated("lifetime_too_long")
    return VerifiedToken(_principal(claims, settings), starts_s, ends_s)


def _check_audience(claimed: Any, audience: str) -> None:
    members = claimed if isinstance(claimed, list) else [claimed]
    if audience not in [member for member in members if isinstance(member, str)]:
        raise Unauthenticated("wrong_audience")


def _principal(claims: Mapping[str, Any], settings: IdentitySettings) -> Principal:
    tenant = claims.get(settings.tenant_claim)
    if tenant is None and not (tenant := settings.default_tenant):
        raise Unauthenticated("missing_claim")
    kind = claims.get(settings.kind_claim, settings.default_kind)
    if not isinstance(kind, str) or kind not in KINDS:
        raise Unauthenticated("bad_claim")
    return Principal(
        subject=_name(claims["sub"]),
        tenant=_name(tenant),
        kind=kind,
        chain=actors(claims.get("act"), settings),
        client_id=_name(claims["client_id"]),
        issuer=settings.issuer,
        token_id=_name(claims["jti"]),
        expires_at_s=int(_date(claims["exp"])),
        scopes=_scopes(claims.get(settings.scope_claim, "")),
        claims=_for_policy(claims, settings),
    )


def actors(act: Any, settings: IdentitySettings) -> tuple[str, ...]:
    """RFC 8693 §4.1: the outermost ``act`` is the current actor, nested ones acted before it."""
    chain: list[str] = []
    while act is not None:
        if not isinstance(act, dict) or act.get("iss", settings.issuer) != settings.issuer:
            raise Unauthenticated("bad_claim")  # another issuer's "alice" is not ours
        if len(chain) == settings.max_chain:
            raise Unauthenticated("chain_too_long")
        chain.append(_name(act.get("sub")))
        act = act.get("act")
    return tuple(chain)


def _for_policy(claims: Mapping[str, Any], settings: IdentitySettings) -> dict[str, Any]:
    if settings.policy_claims is not None:
        return {name: claims[name] for name in sorted(settings.policy_claims) if name in claims}
    spoken_for = {*PROTOCOL_CLAIMS, settings.tenant_claim, settings.kind_claim, settings.scope_claim}
    return {name: value for name, value in claims.items() if name not in spoken_for}


def _scopes(value: Any) -> frozenset[str]:
    members = value.split(" ") if isinstance(value, str) else value
    if not isinstance(members, list) or not all(isinstance(member, str) for member in members):
        raise Unauthenticated("bad_claim")
    return frozenset(member for member in members if member)


def _name(value: Any) -> str:
    """A name goes into the ledger, logs and pages: short, printable, and not empty."""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME_CHARACTERS or not value.isprintable():
        raise Unauthenticated("bad_claim")
    return value


def _date(value: Any) -> float:
    """RFC 7519 §2 NumericDate."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LAST_DATE:
        raise Unauthenticated("bad_claim")
    return float(value)
