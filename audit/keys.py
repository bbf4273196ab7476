"""Key files: the log's signing key and the key of commitments. Fails closed on a file that others may touch."""

from __future__ import annotations

import base64
import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.checkpoint import ED25519, Signer
from audit.errors import KeyRefused

SECRET_BYTES = 32
EXPOSED = 0o027  # group may read (Kubernetes mounts secrets so) but not write; others may do nothing


def load_signer(path: Path, origin: str, *, create: bool) -> Signer:
    """The signer in ``path``; with ``create`` a new one when there is no file yet.

    The file holds the C2SP form ``PRIVATE+KEY+name+hash+key``. The public verifier key is kept in ``path``.pub.

    Raises:
        KeyRefused: absent, malformed, made for another origin, or open to other users.
    """
    if create and not path.exists():
        private = Ed25519PrivateKey.generate()
        _write_secret(path, _signing_text(Signer(origin, private), private))
    signer = _parse_signer(_read_secret(path), path, origin)
    _publish(path.with_name(path.name + ".pub"), f"{signer.verifier}\n")
    return signer


def load_commitment_key(path: Path) -> bytes:
    """32 secret bytes for ``audit.entry.commitment``; created when absent. Raises ``KeyRefused``."""
    if not path.exists():
        _write_secret(path, os.urandom(SECRET_BYTES).hex())
    try:
        secret = bytes.fromhex(_read_secret(path))
    except ValueError as error:
        raise KeyRefused(f"{path}: not a commitment key") from error
    if len(secret) != SECRET_BYTES:
        raise KeyRefused(f"{path}: not a commitment key")
    return secret


def _signing_text(signer: Signer, private: Ed25519PrivateKey) -> str:
    encoded = base64.b64encode(ED25519 + private.private_bytes_raw()).decode()
    return f"PRIVATE+KEY+{signer.verifier.name}+{signer.verifier.key_id.hex()}+{encoded}"


def _parse_signer(text: str, path: Path, origin: str) -> Signer:
    try:
        private, key, name, key_id, encoded = text.split("+", 4)
        raw = base64.b64decode(encoded, validate=True)
        signer = Signer(name, Ed25519PrivateKey.from_private_bytes(raw[1:]))
    except ValueError as error:
        raise KeyRefused(f"{path}: not a signing key") from error
    if (private, key, raw[:1], key_id) != ("PRIVATE", "KEY", ED25519, signer.verifier.key_id.hex()):
        raise KeyRefused(f"{path}: not a signing key")
    if name != origin:
        raise KeyRefused(f"{path}: key of {name}, but the ledger's origin is {origin}")
    return signer


def _read_secret(path: Path) -> str:
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & EXPOSED:
                raise KeyRefused(f"{path}: readable by others or writable by its group; chmod 600")
            return file.read().decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise KeyRefused(f"{path}: {error}") from error


def _write_secret(path: Path, text: str) -> None:
    """Durable on return, mode 0600, never over an existing file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except FileExistsError:
        return  # someone was first; what they wrote is read next
    except OSError as error:
        raise KeyRefused(f"{path}: {error}") from error


def _publish(path: Path, text: str) -> None:
    """A convenience for auditors: the key directory may well be read-only, and then the file is theirs to keep."""
    try:
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
    except OSError:
        return
