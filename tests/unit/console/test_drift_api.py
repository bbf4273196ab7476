"""Evidence and reports over the API: who may hand them in, what of them is recorded, and how a report is served."""

from __future__ import annotations

import base64
import gzip
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from controlplane.console.drift import unpacked
from controlplane.console.ports import ChangeRefused, ModelView
from controlplane.drift_desk import DriftDesk
from tests.unit.console.rooms import Rooms
from tests.unit.console.world import world

PAGE = b"<!doctype html><html><body>a report</body></html>"
EVIDENCE = {
    "version": 1,
    "at_ms": 1_763_700_000_000,
    "detectors": [
        {
            "detector": "inputs_50",
            "evidence": 41.5,
            "threshold": 4e4,
            "arl_rows": 2e6,
            "tolerated": 0.02,
            "crossings": 0,
        }
    ],
}


def report(**changes: Any) -> dict[str, Any]:
    return {
        "version": 1,
        "cause": "alarm",
        "columns": 2,
        "of_columns": 7,
        "drifted": 1,
        "scores_milli": {"income": 812, "age <b>": 4},
        "html_gzip_base64": base64.b64encode(gzip.compress(PAGE)).decode(),
    } | changes


async def test_a_report_is_recorded_kept_and_served_as_a_stranger(tmp_path: Path) -> None:
    async with world(tmp_path, Rooms(tmp_path)) as console:
        console.models.known["team/risk"] = ModelView(name="team/risk")
        answer = await console.client("monitor-token").post("/api/drift/team/risk/reports", json=report())
        assert answer.status_code == 200, answer.text
        (record,) = console.ledger.read(kinds=["drift.report"])
        said = record.body["report"]
        assert (said["model"], said["cause"], said["by"]) == ("team/risk", "alarm", "service:monitor")
        assert said["scores"] == [
            {"column": "income", "score_milli": 812},
            {"column": "age <b>", "score_milli": 4},
        ]
        reader = console.client("reader-token")
        (kept,) = (await reader.get("/api/drift/team/risk")).json()["reports"]
        assert (kept["id"], kept["sha256"]) == (record.event_id, said["sha256"])
        page = await reader.get(f"/api/drift/team/risk/reports/{kept['id']}")
        assert page.content == PAGE
        policy = page.headers["content-security-policy"]
        assert policy.startswith("sandbox allow-scripts; default-src 'none'")
        assert "allow-same-origin" not in policy
        assert page.headers["x-content-type-options"] == "nosniff"


async def test_every_other_answer_keeps_the_console_policy(tmp_path: Path) -> None:
    async with world(tmp_path, Rooms(tmp_path)) as console:
        for path in ("/console/login", "/api/drift/risk", "/api/drift/risk/reports/none"):
            answer = await console.client("reader-token").get(path)
            assert answer.headers["content-security-policy"].startswith("default-src 'self'"), path
            assert answer.headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize(
    ("method", "path", "token", "status"),
    [
        ("POST", "/evidence", "", 401),
        ("POST", "/evidence", "reader-token", 403),
        ("POST", "/reports", "", 401),
        ("POST", "/reports", "reader-token", 403),
        ("GET", "", "nobody-token", 403),
        ("GET", "/reports/e1", "", 401),
        ("GET", "/reports/e1", "nobody-token", 403),
    ],
)
async def test_who_may_not_is_refused_before_anything_is_read(
    tmp_path: Path, method: str, path: str, token: str, status: int
) -> None:
    async with world(tmp_path, Rooms(tmp_path)) as console:
        answer = await console.client(token).request(method, f"/api/drift/risk{path}", content=b"{")
        assert answer.status_code == status
        assert console.ledger.read(kinds=["drift.report"]) == []


async def test_evidence_is_kept_over_time_and_the_newest_is_told(tmp_path: Path) -> None:
    async with world(tmp_path, Rooms(tmp_path)) as console:
        monitor = console.client("monitor-token")
        for at_ms in (1_000, 2_000):
            said = await monitor.post("/api/drift/risk/evidence", json=EVIDENCE | {"at_ms": at_ms})
            assert said.json() == {"kept": 1}
        told = (await monitor.get("/api/drift/risk")).json()
        assert (told["at_ms"], len(told["detectors"])) == (2_000, 1)
        assert told["detectors"][0]["evidence"] == 41.5
        infinite = EVIDENCE | {"detectors": [EVIDENCE["detectors"][0] | {"threshold": 0}]}  # type: ignore[index]
        assert (await monitor.post("/api/drift/risk/evidence", json=infinite)).status_code == 422


async def test_not_recorded_therefore_not_kept(tmp_path: Path) -> None:
    async with world(tmp_path, Rooms(tmp_path)) as console:
        console.is_ledger_down = True
        answer = await console.client("monitor-token").post("/api/drift/risk/reports", json=report())
        assert answer.status_code == 503
        assert (await console.client("reader-token").get("/api/drift/risk")).json()["reports"] == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda _: "not base64!",
        lambda packed: base64.b64encode(b"no gzip").decode(),
        lambda packed: base64.b64encode(packed[:-9]).decode(),
        lambda packed: base64.b64encode(packed + b"more").decode(),
        lambda packed: base64.b64encode(gzip.compress(bytes(65 * 2**20))).decode(),
    ],
    ids=["letters", "no gzip", "cut off", "more behind", "a bomb"],
)
def test_a_page_that_is_none_is_refused(spoil: Callable[[bytes], str]) -> None:
    with pytest.raises(ChangeRefused):
        unpacked(spoil(gzip.compress(PAGE)))


async def test_a_broken_shelf_is_an_empty_page_and_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rooms = Rooms(tmp_path)
    async with world(tmp_path, rooms) as console:
        assert isinstance(rooms.desk, DriftDesk)
        rooms.desk.close()
        with pytest.raises(sqlite3.ProgrammingError):
            rooms.desk._shelf.reports("risk")
        monitor = console.client("monitor-token")
        assert (await monitor.post("/api/drift/risk/evidence", json=EVIDENCE)).status_code == 200
        assert (await monitor.post("/api/drift/risk/reports", json=report())).status_code == 200
        assert (await monitor.get("/api/drift/risk")).json()["reports"] == []
        assert len(console.ledger.read(kinds=["drift.report"])) == 1
