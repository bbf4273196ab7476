from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.checkpoint import Signer, VerifierKey, open_checkpoint
from audit.errors import NoteRefused

SIGNER = Signer("test.local/audit", Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
ROOT = bytes(range(32))
NOTE = SIGNER.sign(1234, ROOT)


def test_a_signed_tree_head_reads_back() -> None:
    checkpoint = open_checkpoint(NOTE, SIGNER.verifier)
    assert (checkpoint.origin, checkpoint.size, checkpoint.root) == ("test.local/audit", 1234, ROOT)
    assert checkpoint.text == NOTE


def test_a_note_with_any_byte_changed_is_refused() -> None:
    note = NOTE.encode()
    for at in range(len(note)):
        for bit in range(8):
            changed = bytearray(note)
            changed[at] ^= 1 << bit
            with pytest.raises(NoteRefused):
                open_checkpoint(bytes(changed), SIGNER.verifier)


def test_a_note_with_any_byte_missing_or_doubled_is_refused() -> None:
    note = NOTE.encode()
    for at in range(len(note)):
        with pytest.raises(NoteRefused):
            open_checkpoint(note[:at] + note[at + 1 :], SIGNER.verifier)
        with pytest.raises(NoteRefused):
            open_checkpoint(note[:at] + b"\x0b" + note[at:], SIGNER.verifier)
    for extra in ("\n", " ", "x", "\n\n"):
        with pytest.raises(NoteRefused):
            open_checkpoint(NOTE + extra, SIGNER.verifier)


def test_line_ends_of_other_kinds_are_not_line_ends() -> None:
    for character in ("\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\r\n"):
        with pytest.raises(NoteRefused):
            open_checkpoint(NOTE.replace("\n", character), SIGNER.verifier)


def test_a_witness_may_add_its_line() -> None:
    witness = Signer("witness.local/w", Ed25519PrivateKey.generate())
    line = witness.sign(1234, ROOT).split("\n\n")[1]
    assert open_checkpoint(NOTE + line, SIGNER.verifier).size == 1234


@pytest.mark.parametrize("line", ["w AAAAAAA=", "— w", "—  AAAAAAA=", "— w+w AAAAAAA=", "— w AAAA", "— w AAAAAAA"])
def test_a_line_that_is_no_signature_spoils_the_note(line: str) -> None:
    assert open_checkpoint(f"{NOTE}— w AAAAAAA=\n", SIGNER.verifier).size == 1234
    with pytest.raises(NoteRefused, match=r"line|base64"):
        open_checkpoint(f"{NOTE}{line}\n", SIGNER.verifier)


@pytest.mark.parametrize("size", ["01234", "+1234", "1_234", "-1", "", "\uff11\uff12", "\u00b2"])
def test_a_size_has_one_spelling_even_under_a_good_signature(size: str) -> None:
    body = f"test.local/audit\n{size}\n" + NOTE.split("\n")[2] + "\n"
    with pytest.raises(NoteRefused):
        open_checkpoint(resigned(body), SIGNER.verifier)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("test.local/audit\n1\nAAAA\n", "not 32 bytes"),
        ("test.local/audit\n1\n", "not a checkpoint"),
        (f"test.local/audit\n1\n{NOTE.splitlines()[2]}\n\nmore\n", "not a checkpoint"),
        (f"another.local\n1\n{NOTE.splitlines()[2]}\n", "another log"),
    ],
)
def test_a_signed_note_that_is_no_checkpoint_is_refused(body: str, why: str) -> None:
    with pytest.raises(NoteRefused, match=why):
        open_checkpoint(resigned(body), SIGNER.verifier)


def test_a_control_character_is_refused_even_under_a_good_signature() -> None:
    body = NOTE.split("\n\n")[0] + "\nextension\x0bline\n"
    with pytest.raises(NoteRefused, match="control"):
        open_checkpoint(resigned(body), SIGNER.verifier)
    assert open_checkpoint(resigned(body.replace("\x0b", " ")), SIGNER.verifier).size == 1234


def test_another_log_with_the_same_name_is_another_log() -> None:
    other = Signer("test.local/audit", Ed25519PrivateKey.generate())
    with pytest.raises(NoteRefused, match="not signed by this key"):
        open_checkpoint(NOTE, other.verifier)


def test_a_verifier_key_survives_printing_and_nothing_else_parses() -> None:
    text = str(SIGNER.verifier)
    assert VerifierKey.parse(text + "\n") == SIGNER.verifier
    for at in range(len(text)):
        with pytest.raises(NoteRefused):
            VerifierKey.parse(text[:at] + chr(ord(text[at]) ^ 1) + text[at + 1 :])


def test_a_verifier_key_without_a_name_or_of_another_kind_is_none() -> None:
    public, key_id = SIGNER.verifier.public, SIGNER.verifier.key_id.hex()
    other_kind = f"test.local/audit+{key_id}+{base64.b64encode(bytes([2]) + public).decode()}"
    for text in (str(VerifierKey("", public)), str(VerifierKey("log", public[1:])), other_kind):
        with pytest.raises(NoteRefused, match="verifier key"):
            VerifierKey.parse(text)


def resigned(body: str) -> str:
    """``body`` with a good signature by the log's key: only the parser stands between it and belief."""
    signature = base64.b64encode(SIGNER.verifier.key_id + SIGNER._private.sign(body.encode())).decode()
    return f"{body}\n— {SIGNER.verifier.name} {signature}\n"
