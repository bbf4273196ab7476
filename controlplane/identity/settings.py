"""Whose tokens are believed, and how strictly."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, model_validator

Algorithm = Literal["ES256", "ES384", "ES512", "EdDSA", "PS256", "PS384", "PS512", "RS256", "RS384", "RS512"]
"""Asymmetric only: a shared secret cannot tell the issuer from anyone who verifies."""

RsaAlgorithm = Literal["PS256", "PS384", "PS512", "RS256", "RS384", "RS512"]


class IdentitySettings(BaseModel, frozen=True, extra="forbid"):
    issuer: str = Field(min_length=1, description="The only issuer believed; compared with `iss` byte for byte.")
    audience: str = Field(
        min_length=1, description="This gateway's resource identifier; must be `aud` or one of its members, exactly."
    )
    jwks_file: Path | None = Field(None, description="File with the issuer's JSON Web Key Set (RFC 7517).")
    jwks_url: str | None = Field(
        None, description="URL of the issuer's key set; https, or http on a loopback address. Redirects are refused."
    )
    algorithms: frozenset[Algorithm] = Field(
        frozenset({"ES256", "EdDSA", "PS256", "RS256"}), description="Signature algorithms that are accepted at all."
    )
    rsa_algorithm: RsaAlgorithm | None = Field(
        None,
        description="Algorithm of RSA keys that name none themselves (`alg` absent); without it such keys are ignored.",
    )
    leeway_s: float = Field(30.0, ge=0, le=300, description="Clock difference forgiven in exp, nbf and iat, seconds.")
    max_lifetime_s: float = Field(
        86_400.0, gt=0, description="Longest time between iat and exp that is accepted, seconds."
    )
    max_token_bytes: int = Field(16_384, ge=512, description="Longer credentials are refused unread, bytes.")
    max_chain: int = Field(4, ge=0, le=32, description="Most actors accepted in the `act` delegation chain.")
    refresh_s: float = Field(300.0, gt=0, description="Time between two readings of the key set, seconds.")
    max_stale_s: float = Field(
        3_600.0, gt=0, description="How long a key set that cannot be refreshed is still believed, seconds."
    )
    unknown_key_cooldown_s: float = Field(
        30.0, gt=0, description="Least time between two readings caused by tokens with unknown keys, seconds."
    )
    fetch_timeout_s: float = Field(5.0, gt=0, description="Longest time one reading of the key set may take, seconds.")
    max_jwks_bytes: int = Field(262_144, ge=1_024, description="Larger key sets are refused, bytes.")
    denylist_file: Path | None = Field(
        None,
        description="JSON file of revoked tokens, subjects and clients; named but unreadable, it denies everybody.",
    )
    cached_tokens: int = Field(
        10_000, ge=0, description="How many verified tokens are remembered, so that a signature is checked once."
    )
    tenant_claim: str = Field("tenant", min_length=1, description="Claim that holds the tenant.")
    default_tenant: str = Field("", description="Tenant of tokens that name none; empty: such tokens are refused.")
    kind_claim: str = Field("kind", min_length=1, description="Claim that says agent, user or service.")
    default_kind: Literal["agent", "user", "service"] = Field(
        "agent", description="Kind of principals whose token does not say."
    )
    scope_claim: str = Field("scope", min_length=1, description="Claim with the scopes, space separated or a list.")
    policy_claims: frozenset[str] | None = Field(
        None, description="Verified claims that policy may read; unset: all but those the protocol itself uses."
    )
    resource_metadata_url: str = Field(
        "", description="URL of the RFC 9728 document, named in 401 challenges; empty: the challenge names none."
    )
    scopes_supported: tuple[str, ...] = Field((), description="Scopes listed in the RFC 9728 document.")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if (self.jwks_file is None) == (self.jwks_url is None):
            raise ValueError("exactly one of jwks_file and jwks_url must be set")
        if self.jwks_url is not None and not _is_safe_url(self.jwks_url):
            raise ValueError("jwks_url must be https, or http on a loopback address")
        if not self.algorithms:
            raise ValueError("algorithms must not be empty")
        if self.max_stale_s < self.refresh_s:
            raise ValueError("max_stale_s must not be smaller than refresh_s")
        return self


def _is_safe_url(url: str) -> bool:
    parts = urlsplit(url)
    host = parts.hostname or ""
    if not host or parts.username is not None:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host))


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
