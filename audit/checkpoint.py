"""Signed tree heads: C2SP signed-note and tlog-checkpoint with one Ed25519 signature by the log. Pure.

Parsing is strict: whatever is not byte for byte what a signer writes is refused. Lines end in U+000A only
(``str.splitlines`` would accept others) and base64 must be canonical.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from audit.errors import NoteRefused

ED25519 = b"\x01"  # signature type of the C2SP signed-note specification
KEY_ID_BYTES = 4
HASH_BYTES = 32
SIGNATURE_MARK = "— "


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A verified tree head. ``text`` is the whole note, signature included."""

    origin: str
    size: int
    root: bytes
    text: str


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A log's public name and key; prints as the C2SP verifier key ``name+hash+key``."""

    name: str
    public: bytes

    @property
    def key_id(self) -> bytes:
        return sha256(self.name.encode() + b"\n" + ED25519 + self.public).digest()[:KEY_ID_BYTES]

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(ED25519 + self.public).decode()}"

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """Raises ``NoteRefused`` unless ``text`` is a well-formed Ed25519 verifier key."""
        name, _, rest = text.strip().partition("+")
        key_id, _, encoded = rest.partition("+")
        raw = _from_base64(encoded)
        key = cls(name, raw[1:])
        if not name or raw[:1] != ED25519 or len(raw) != 1 + HASH_BYTES or key.key_id.hex() != key_id:
            raise NoteRefused("not an Ed25519 verifier key")
        return key


class Signer:
    """Signs tree heads in the name of one log."""

    __slots__ = ("_private", "_signature_prefix", "verifier")

    def __init__(self, name: str, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.verifier = VerifierKey(name, private.public_key().public_bytes_raw())
        self._signature_prefix = self.verifier.key_id

    def sign(self, size: int, root: bytes) -> str:
        body = f"{self.verifier.name}\n{size}\n{base64.b64encode(root).decode()}\n"
        signature = base64.b64encode(self._signature_prefix + self._private.sign(body.encode())).decode()
        return f"{body}\n{SIGNATURE_MARK}{self.verifier.name} {signature}\n"


def open_checkpoint(note: str | bytes, verifier: VerifierKey) -> Checkpoint:
    """The tree head in ``note``, after its signature by ``verifier`` was checked.

    Raises:
        NoteRefused: malformed, not canonical, of another log, or not signed by this key.
    """
    text = _decoded(note)
    body, separator, signatures = text.rpartition("\n\n")
    if not separator or not signatures.endswith("\n"):
        raise NoteRefused("not a signed note")
    body += "\n"
    _require_signature(body.encode(), signatures[:-1].split("\n"), verifier)
    return _parsed(body, text, verifier.name)


def _decoded(note: str | bytes) -> str:
    try:
        text = note if isinstance(note, str) else note.decode()
    except UnicodeDecodeError as error:
        raise NoteRefused("not UTF-8") from error
    if any(character < " " and character != "\n" for character in text):
        raise NoteRefused("control character")
    return text


def _require_signature(body: bytes, lines: list[str], verifier: VerifierKey) -> None:
    found = False
    for line in lines:
        name, raw = _signature(line)
        if name == verifier.name and raw[:KEY_ID_BYTES] == verifier.key_id:
            try:
                Ed25519PublicKey.from_public_bytes(verifier.public).verify(raw[KEY_ID_BYTES:], body)
            except InvalidSignature as error:
                raise NoteRefused("signature does not verify") from error
            found = True
    if not found:
        raise NoteRefused("not signed by this key")


def _signature(line: str) -> tuple[str, bytes]:
    if not line.startswith(SIGNATURE_MARK):
        raise NoteRefused("not a signature line")
    name, separator, encoded = line.removeprefix(SIGNATURE_MARK).partition(" ")
    raw = _from_base64(encoded)
    if not separator or not name or "+" in name or len(raw) <= KEY_ID_BYTES:
        raise NoteRefused("not a signature line")
    return name, raw


def _parsed(body: str, text: str, origin: str) -> Checkpoint:
    lines = body.split("\n")
    if len(lines) < 4 or not all(lines[:-1]):  # noqa: PLR2004  origin, size, root, and the end of the last line
        raise NoteRefused("not a checkpoint")
    if lines[0] != origin:
        raise NoteRefused("checkpoint of another log")
    if not (lines[1].isascii() and lines[1].isdigit()) or str(int(lines[1])) != lines[1]:
        raise NoteRefused("tree size is not canonical")
    root = _from_base64(lines[2])
    if len(root) != HASH_BYTES:
        raise NoteRefused("root hash is not 32 bytes")
    return Checkpoint(origin, int(lines[1]), root, text)


def _from_base64(encoded: str) -> bytes:
    try:
        raw = base64.b64decode(encoded.encode(), validate=True)
    except (binascii.Error, ValueError) as error:
        raise NoteRefused("not base64") from error
    if base64.b64encode(raw).decode() != encoded:
        raise NoteRefused("base64 is not canonical")
    return raw
