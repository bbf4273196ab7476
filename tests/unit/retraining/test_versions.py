from __future__ import annotations

import json
from pathlib import Path

import pytest

from controlplane.retraining.versions import Versions, digest_of


@pytest.fixture
def versions(tmp_path: Path) -> Versions:
    return Versions(tmp_path, "risk")


def filled(versions: Versions) -> Path:
    place = versions.workplace()
    (place / "saved_model.pb").write_bytes(b"model")
    return place


def integers(versions: Versions) -> set[str]:
    """What a model server would take for versions."""
    return {entry.name for entry in (versions.root / versions.model).iterdir() if entry.name.isdigit()}


def test_a_candidate_is_whole_and_no_server_sees_it(versions: Versions) -> None:
    candidate = versions.accept(filled(versions), 2, {"job": "j"})
    assert {entry.name for entry in candidate.directory.iterdir()} == {"saved_model.pb", "provenance.json"}
    assert integers(versions) == set()


def test_publishing_moves_it_into_sight_at_once_and_twice_is_once(versions: Versions) -> None:
    versions.accept(filled(versions), 2, {"job": "j"})
    assert versions.publish(2) == versions.publish(2)
    assert integers(versions) == {"2"}
    assert versions.candidate(2, "j") is not None, "a resumed job finds its candidate where it lies now"


def test_a_version_that_lost_is_out_of_sight_again_and_kept(versions: Versions) -> None:
    versions.accept(filled(versions), 2, {"job": "j"})
    versions.publish(2)
    for _ in range(2):
        versions.withdraw(2)
        assert integers(versions) == set()
    assert versions.candidate(2, "j") is not None
    assert versions.next_version() == 3
    versions.withdraw(7)


def test_what_was_never_trained_cannot_be_published(versions: Versions) -> None:
    with pytest.raises(FileNotFoundError):
        versions.publish(3)


def test_a_number_is_never_given_to_two_candidates(versions: Versions) -> None:
    versions.accept(filled(versions), 2, {"job": "j"})
    with pytest.raises(FileExistsError):
        versions.accept(filled(versions), 2, {"job": "other"})
    assert versions.candidate(2, "other") is None


def test_the_next_version_counts_refused_candidates_too(versions: Versions) -> None:
    assert versions.next_version() == 1
    versions.directory(4).mkdir(parents=True)
    versions.accept(filled(versions), 7, {"job": "j"})
    assert versions.next_version() == 8


@pytest.mark.parametrize("name", ["\u00b2", "\u0663", "99999999999999999999"])
def test_folders_that_no_server_takes_for_a_version_are_none(versions: Versions, name: str) -> None:
    versions.directory(4).mkdir(parents=True)
    (versions.directory(4).parent / name).mkdir()
    assert versions.next_version() == 5


def test_a_model_server_under_another_user_can_read_a_version(versions: Versions) -> None:
    candidate = versions.accept(filled(versions), 2, {"job": "j"})
    assert candidate.directory.stat().st_mode & 0o777 == 0o755
    assert (candidate.directory / "saved_model.pb").stat().st_mode & 0o777 == 0o644


def test_leftovers_of_a_killed_trainer_go_and_candidates_stay(versions: Versions) -> None:
    left = filled(versions)
    candidate = versions.accept(filled(versions), 2, {"job": "j"})
    versions.clear_leftovers()
    assert not left.exists()
    assert json.loads((candidate.directory / "provenance.json").read_text())["job"] == "j"


def test_the_digest_of_code_knows_names_and_contents(tmp_path: Path) -> None:
    one, other = tmp_path / "a.py", tmp_path / "b.py"
    one.write_text("x")
    other.write_text("x")
    assert digest_of([one, other]) == digest_of([other, one])
    before = digest_of([one])
    one.write_text("y")
    assert len({before, digest_of([one]), digest_of([other]), digest_of([])}) == 4
