"""A human's word on a degraded model over the API: who may say it, who may hear it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.console.rooms import Rooms
from tests.unit.console.world import world

SAID = {"answer": "retrain", "reason": "the labels of last night were wrong"}


async def test_an_operator_answers_and_the_monitor_reads_it(tmp_path: Path) -> None:
    async with world(tmp_path, Rooms(tmp_path)) as console:
        silent = await console.client("monitor-token").get("/api/reviews/team/risk")
        assert silent.json() == {"id": "", "answer": "", "by": "", "reason": ""}
        done = await console.client("operator-token").post("/api/reviews/team/risk", json=SAID)
        assert done.json() == {"event_id": "r1", "ledger_index": 9}
        heard = await console.client("monitor-token").get("/api/reviews/team/risk")
        assert heard.json() == {"id": "r1", "by": "user:operator", **SAID}


@pytest.mark.parametrize("broken", [{"answer": "whatever"}, {"reason": ""}, {"more": 1}])
async def test_what_is_no_answer_is_refused_and_not_said(tmp_path: Path, broken: dict[str, object]) -> None:
    rooms = Rooms(tmp_path)
    async with world(tmp_path, rooms) as console:
        refused = await console.client("operator-token").post("/api/reviews/risk", json=SAID | broken)
        assert refused.status_code == 422
    assert rooms.reviews.said == {}
