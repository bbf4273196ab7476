"""Self-healing as people see it: what each playbook would do or did, and how often it may still."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from audit import new_event_id
from controlplane.console.playbook_views import PlaybookShown
from controlplane.console.words import span
from tests.unit.console.rooms import Rooms
from tests.unit.console.test_more_pages import signed_in
from tests.unit.console.world import World, world

WAKE = PlaybookShown(
    id="wake.risk",
    model="risk",
    when="replica_away",
    for_s=60.0,
    do="restart",
    program="/usr/local/bin/wake",
    dry_run=False,
    per_day=3,
    left=0,
    pause_s=900.0,
    lasting={"tfs/10.0.0.4:8500": 95.0},
    last_at_ms=1_763_733_600_000,
    last_subject="tfs/10.0.0.4:8500",
    last_result="command_timeout",
)


async def ran(console: World, outcome: str | None, **changes: Any) -> None:
    event_id = new_event_id()
    said = {"id": "wake.risk", "model": "risk", "subject": "tfs/10.0.0.4:8500", "when": "replica_away"}
    said |= {"do": "restart", "dry_run": 0} | changes
    await console.ledger.append("playbook.run", {"playbook": said}, event_id=event_id)
    if outcome is not None:
        done = {"run": event_id, "id": said["id"], "outcome": outcome}
        await console.ledger.append("playbook.done", {"playbook": done})


async def test_a_playbook_is_shown_with_its_fault_its_limit_and_its_last_result(tmp_path: Path) -> None:
    rooms = Rooms(tmp_path)
    rooms.playbooks.known = [WAKE]
    async with world(tmp_path, rooms) as console:
        page = (await (await signed_in(console)).get("/console/playbooks")).text
        for said in ("wake.risk", "one of its replicas is away", "/usr/local/bin/wake", "0 of 3", "command timeout"):
            assert said in page, said
        (one,) = (await console.client("reader-token").get("/api/playbooks")).json()["playbooks"]
        assert (one["left"], one["last_result"], one["lasting"]) == (0, "command_timeout", {"tfs/10.0.0.4:8500": 95.0})


@pytest.mark.parametrize(
    ("outcome", "changes", "said"),
    [
        ("done", {}, "done"),
        ("command_failed", {}, "command failed"),
        (None, {"dry_run": 1}, "dry run"),
        (None, {}, "not known to have ended"),
    ],
)
async def test_a_run_on_record_is_shown_with_its_result(
    tmp_path: Path, outcome: str | None, changes: dict[str, Any], said: str
) -> None:
    async with world(tmp_path, Rooms(tmp_path)) as console:
        await ran(console, outcome, **changes)
        page = (await (await signed_in(console)).get("/console/playbooks")).text
        assert said in page.split("On record")[1]


async def test_whoever_may_not_read_playbooks_reads_none(tmp_path: Path) -> None:
    async with world(tmp_path, Rooms(tmp_path)) as console:
        assert (await console.client("nobody-token").get("/api/playbooks")).status_code == 403
        assert (await console.client().get("/api/playbooks")).status_code == 401


def test_spans_of_time_are_read_as_people_say_them() -> None:
    assert [span(seconds) for seconds in (0.5, 45, 60, 900, 5400, 176_400)] == [
        "0.5 s",
        "45 s",
        "1 min",
        "15 min",
        "1.5 h",
        "2 d",
    ]
