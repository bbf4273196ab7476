"""What people look at is bounded: the newest stays, of each model by itself."""

from __future__ import annotations

from pathlib import Path

from controlplane.drift.shelf import FRESH_MS, STEP_MS, KeptReport, Point, Shelf


def point(at_ms: int) -> Point:
    return Point(
        version=1, at_ms=at_ms, detector="error", evidence=1.0, threshold=9.0, arl_rows=9.0, tolerated=0.1, crossings=0
    )


def kept(number: int) -> KeptReport:
    return KeptReport(
        id=f"e{number}", version=1, at_ms=number, cause="nightly", sha256="", drifted=0, columns=1, of_columns=1,
        top="", size_bytes=3,
    )  # fmt: skip


def test_the_newest_points_of_each_model_stay(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "drift.sqlite", points_kept=10)
    for at_ms in range(25):
        shelf.keep_points("risk", [point(at_ms)])
    shelf.keep_points("other", [point(99)])
    assert [each.at_ms for each in shelf.points("risk")] == list(range(15, 25))
    assert [each.at_ms for each in shelf.points("risk", since_ms=20)] == list(range(20, 25))
    assert len(shelf.points("other")) == 1


def test_older_points_are_thinned_to_the_last_of_each_step_and_the_last_hour_stays(tmp_path: Path) -> None:
    shelf, every_ms, hours = Shelf(tmp_path / "drift.sqlite"), 15_000, 4
    for at_ms in range(0, hours * FRESH_MS, every_ms):
        shelf.keep_points("risk", [point(at_ms)])
    found = [each.at_ms for each in shelf.points("risk")]
    newest = found[-1]
    fresh = [at_ms for at_ms in found if at_ms >= newest - FRESH_MS + STEP_MS]
    assert len(fresh) == (FRESH_MS - STEP_MS) // every_ms + 1
    old = [at_ms for at_ms in found if at_ms < newest - FRESH_MS - STEP_MS]
    assert old == [step * STEP_MS + STEP_MS - every_ms for step in range(len(old))]
    assert len(found) < 300


def test_the_newest_reports_of_each_model_stay_and_outlive_the_process(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "drift.sqlite", reports_kept=3)
    for number in range(5):
        shelf.keep_report("risk", kept(number), f"p{number}".encode())
    shelf.keep_report("other", kept(9), b"p9")
    shelf.keep_report("risk", kept(4), b"again")  # the same report, handed in twice
    shelf.close()
    shelf = Shelf(tmp_path / "drift.sqlite", reports_kept=3)
    assert [each.id for each in shelf.reports("risk")] == ["e4", "e3", "e2"]
    assert shelf.html("risk", "e4") == b"p4"
    assert shelf.html("risk", "e0") is None
    assert shelf.html("risk", "e9") is None, "that is another model's"
