"""A JSON Web Key Set (RFC 7517) as keys that may verify an access token, each bound to one algorithm. Pure.

Two kinds of trouble. What makes the whole set untrustworthy refuses it: a symmetric or private key that was published,
the same ``kid`` twice. What concerns one key only leaves that key out (RFC 7517 §5): another use, an unknown type, too
small, an algorithm that is not accepted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import get_default_algorithms
from jwt.exceptions import InvalidKeyError

from controlplane.strict_json import parse_object

MIN_RSA_BITS = 2_048  # RFC 7518 §3.3
MAX_RSA_BITS = 8_192  # larger keys only make verifying slow
MIN_RSA_EXPONENT = 65_537  # NIST SP 800-56B §6.2: smaller ones only invite padding attacks
CURVE_ALGORITHMS = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512", "Ed25519": "EdDSA"}
TYPE_ALGORITHMS = {
    "EC": {"ES256", "ES384", "ES512"},
    "OKP": {"EdDSA"},
    "RSA": {"PS256", "PS384", "PS512", "RS256", "RS384", "RS512"},
}
PRIVATE_MEMBERS = {"d", "p", "q", "dp", "dq", "qi", "oth"}
FINGERPRINT_PRIMES = (11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157)

_algorithms = get_default_algorithms()

PublicKey = EllipticCurvePublicKey | Ed25519PublicKey | RSAPublicKey


class KeySetRefused(ValueError):
    """A key set that must not be used at all."""


class KeyIgnored(ValueError):
    """A key that cannot verify access tokens here."""


@dataclass(frozen=True, slots=True)
class VerificationKey:
    kid: str | None
    algorithm: str
    public: PublicKey

    def verifies(self, message: bytes, signature: bytes) -> bool:
        try:
            return bool(_algorithms[self.algorithm].verify(message, self.public, signature))
        except (InvalidSignature, ValueError):
            return False


@dataclass(frozen=True, slots=True)
class KeySet:
    """``ignored`` says of each key left out why, for the operator."""

    keys: tuple[VerificationKey, ...]
    ignored: tuple[str, ...] = ()

    def find(self, kid: str | None) -> VerificationKey | None:
        """The key a token names. One that names none is understood only when there is just one to mean."""
        if kid is None:
            return self.keys[0] if len(self.keys) == 1 else None
        return next((key for key in self.keys if key.kid == kid), None)


def parse_key_set(document: bytes, algorithms: Iterable[str], rsa_algorithm: str | None = None) -> KeySet:
    """Raises ``KeySetRefused``, also when no usable key is left."""
    try:
        members = parse_object(document).get("keys")
    except ValueError as error:
        raise KeySetRefused(f"not a key set: {error}") from error
    if not isinstance(members, list) or not all(isinstance(member, dict) for member in members):
        raise KeySetRefused("not a key set: `keys` is not a list of objects")
    _refuse_secrets(members)
    _refuse_repeated(members)
    keys, ignored, accepted = [], [], frozenset(algorithms)
    for number, member in enumerate(members):
        try:
            keys.append(_key(member, accepted, rsa_algorithm))
        except KeyIgnored as why:
            ignored.append(f"key {number} (kid {member.get('kid')!r}): {why}")
    if not keys:
        raise KeySetRefused("; ".join(["no usable key", *ignored]))
    return KeySet(tuple(keys), tuple(ignored))


def _refuse_secrets(members: list[dict[str, Any]]) -> None:
    for member in members:
        if member.get("kty") == "oct" or "k" in member or str(member.get("alg", "")).startswith("HS"):
            raise KeySetRefused("a symmetric key among the issuer's public keys")
        if PRIVATE_MEMBERS & member.keys():
            raise KeySetRefused("a private key was published; it must be treated as stolen")


def _refuse_repeated(members: list[dict[str, Any]]) -> None:
    counts = Counter(str(member["kid"]) for member in members if member.get("kid") is not None)
    repeated = sorted(kid for kid, count in counts.items() if count > 1)
    if repeated:
        raise KeySetRefused(f"kid {repeated[0]!r} names more than one key")


def _key(member: Mapping[str, Any], accepted: frozenset[str], rsa_algorithm: str | None) -> VerificationKey:
    kid = member.get("kid")
    if kid is not None and not isinstance(kid, str):
        raise KeyIgnored("kid is not a string")
    _require_verifying(member)
    algorithm = _algorithm_of(member, rsa_algorithm)
    if algorithm not in accepted:
        raise KeyIgnored(f"algorithm {algorithm} is not accepted")
    try:
        public = _algorithms[algorithm].from_jwk(dict(member))
    except (InvalidKeyError, UnsupportedAlgorithm, ValueError, LookupError, TypeError, AttributeError) as error:
        raise KeyIgnored("not a valid public key") from error
    if isinstance(public, RSAPublicKey):
        _require_strong(public)
    elif not isinstance(public, EllipticCurvePublicKey | Ed25519PublicKey):
        raise KeyIgnored("not a public key of an accepted type")
    return VerificationKey(kid, algorithm, public)


def _require_verifying(member: Mapping[str, Any]) -> None:
    """RFC 7517 §4.2 and §4.3: what a key says it is for, it is for, and nothing else."""
    if member.get("use", "sig") != "sig":
        raise KeyIgnored("not a signature key")
    operations = member.get("key_ops", ["verify"])
    if not isinstance(operations, list) or operations != ["verify"]:
        raise KeyIgnored("key_ops is not exactly verify")


def _algorithm_of(member: Mapping[str, Any], rsa_algorithm: str | None) -> str:
    """The one algorithm of a key: a curve allows one only, an RSA key has to say."""
    kind, curve, named = member.get("kty"), member.get("crv"), member.get("alg")
    if not isinstance(kind, str) or kind not in TYPE_ALGORITHMS:
        raise KeyIgnored("unknown key type")
    implied = rsa_algorithm if kind == "RSA" else CURVE_ALGORITHMS.get(str(curve))
    algorithm = implied if named is None else named
    if not isinstance(algorithm, str) or algorithm not in TYPE_ALGORITHMS[kind]:
        raise KeyIgnored("names no algorithm that fits its type")
    if kind != "RSA" and algorithm != implied:
        raise KeyIgnored(f"algorithm {algorithm} does not fit its curve")
    return algorithm


def _require_strong(public: RSAPublicKey) -> None:
    numbers = public.public_numbers()
    if not MIN_RSA_BITS <= public.key_size <= MAX_RSA_BITS:
        raise KeyIgnored(f"RSA key of {public.key_size} bits")
    if numbers.e < MIN_RSA_EXPONENT:
        raise KeyIgnored(f"RSA exponent {numbers.e}")
    if _is_roca(numbers.n):
        raise KeyIgnored("RSA key with the ROCA weakness (CVE-2017-15361)")


def _is_roca(modulus: int) -> bool:
    """Nemec et al., "The Return of Coppersmith's Attack", CCS 2017, §2.2: weak moduli are powers of 65537 modulo
    every small prime; a sound one passes all of these by chance once in some 10^8."""
    return all(modulus % prime in _powers_of_65537(prime) for prime in FINGERPRINT_PRIMES)


def _powers_of_65537(prime: int) -> set[int]:
    powers, power = set(), 1
    while power not in powers:
        powers.add(power)
        power = power * 65_537 % prime
    return powers
