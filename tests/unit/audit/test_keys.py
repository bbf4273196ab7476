from __future__ import annotations

from pathlib import Path

import pytest

from audit.entry import Commitments
from audit.errors import KeyRefused
from audit.keys import load_commitment_key, load_signer

ORIGIN = "test.local/audit"


def test_a_signing_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "signing.key"
    signer = load_signer(path, ORIGIN, create=True)
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_signer(path, ORIGIN, create=True).verifier == signer.verifier
    assert path.with_name("signing.key.pub").read_text() == f"{signer.verifier}\n"


def test_an_absent_key_is_not_replaced_for_a_ledger_that_exists(tmp_path: Path) -> None:
    with pytest.raises(KeyRefused):
        load_signer(tmp_path / "signing.key", ORIGIN, create=False)
    assert not (tmp_path / "signing.key").exists()


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o620, 0o666])
def test_a_key_that_others_may_touch_is_refused(tmp_path: Path, mode: int) -> None:
    for path, load in (
        (tmp_path / "signing.key", lambda path: load_signer(path, ORIGIN, create=True)),
        (tmp_path / "commitment.key", load_commitment_key),
    ):
        load(path)
        path.chmod(mode)
        with pytest.raises(KeyRefused, match="chmod 600"):
            load(path)


@pytest.mark.parametrize("text", ["", "nonsense", "PRIVATE+KEY+test.local/audit+00000000+AAAA", "a+b+c+d+e+f"])
def test_a_file_that_is_no_key_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.key"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(KeyRefused):
        load_signer(path, ORIGIN, create=True)
    with pytest.raises(KeyRefused):
        load_commitment_key(path)


@pytest.mark.parametrize(("said", "instead"), [("PRIVATE", "PUBLIC"), ("+KEY+", "+LOCK+"), ("log+", "log+0")])
def test_a_good_secret_under_another_label_is_refused(tmp_path: Path, said: str, instead: str) -> None:
    path = tmp_path / "a.key"
    load_signer(path, "log", create=True)
    path.write_text(path.read_text().replace(said, instead))
    with pytest.raises(KeyRefused, match="not a signing key"):
        load_signer(path, "log", create=False)


def test_a_key_of_another_origin_is_refused(tmp_path: Path) -> None:
    load_signer(tmp_path / "a.key", "other.local/audit", create=True)
    with pytest.raises(KeyRefused, match=r"other\.local"):
        load_signer(tmp_path / "a.key", ORIGIN, create=True)


def test_a_commitment_binds_and_tells_nothing_without_the_key(tmp_path: Path) -> None:
    key = load_commitment_key(tmp_path / "commitment.key")
    assert (tmp_path / "commitment.key").stat().st_mode & 0o777 == 0o600
    assert Commitments(key)(b"body") == Commitments(load_commitment_key(tmp_path / "commitment.key"))(b"body")
    assert Commitments(key)(b"body") != Commitments(key)(b"other")
    assert Commitments(key)(b"body") != Commitments(bytes(32))(b"body")
