"""Who gets the fallback for their rows, who does not, and what happens where nobody can tell."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from controlplane.drift.guard_settings import GuardSettings
from controlplane.drift.reference import ColumnReference, RowReference, write_reference
from controlplane.guarding import CHECKED_BYTES, GuardedRows, RowGuards
from inference.backend import BackendReply, BackendRequest
from inference.errors import BackendUnavailable
from inference.tfserving.predict import encode_predict
from inference.whole import Whole

REFERENCE = RowReference((ColumnReference("a", 0.0, 1.0), ColumnReference("b", None, 5.0, 0.2)), "x", 1000)
GOOD, BAD = [0.5, 4.0], [0.5, 6.0]


@dataclass
class Inner:
    asked: list[BackendRequest] = field(default_factory=list)

    @asynccontextmanager
    async def send(self, request: BackendRequest) -> AsyncGenerator[BackendReply]:
        self.asked.append(request)
        yield BackendReply(200, (), Whole(b"answer"), served_by="risk/1")


def guards(folder: Path, *, faulty: bool = True, known: bool = True) -> RowGuards:
    if known:
        write_reference(folder / "references/1.json", REFERENCE)
    made = RowGuards(GuardSettings(models=frozenset({"risk"})))
    made.learn("risk", 1, str(folder))
    made.faulty = frozenset({"risk"} if faulty else ())
    return made


def request(rows: object, target: str = "risk", operation: str = "Predict", version: int = 1) -> BackendRequest:
    body = rows if isinstance(rows, bytes) else encode_predict(target, {"x": np.array(rows, np.float32)})
    return BackendRequest(call_id="c", target=target, operation=operation, body=body, version=version)


async def is_answered(made: RowGuards, asked: BackendRequest, *, has_fallback: bool = True) -> bool:
    """Who is refused must not have been asked."""
    inner, refused = Inner(), ""
    layer = GuardedRows(inner, made, lambda _: has_fallback)
    try:
        async with layer.send(asked) as reply:
            served_by = reply.served_by
    except BackendUnavailable as error:
        refused = error.reason
    assert refused == "rows_out_of_range" if not inner.asked else served_by == "risk/1"
    return bool(inner.asked)


@pytest.mark.parametrize(
    ("rows", "answered"), [([GOOD], True), ([BAD], False), ([GOOD, BAD], False), ([[0.5, np.nan]], True)]
)
async def test_while_data_is_at_fault_one_bad_row_sends_the_whole_call_down(
    tmp_path: Path, rows: list[list[float]], answered: bool
) -> None:
    assert await is_answered(guards(tmp_path), request(rows)) is answered


async def test_otherwise_rows_are_counted_and_everybody_is_answered(tmp_path: Path) -> None:
    made = guards(tmp_path, faulty=False)
    for rows in ([GOOD], [BAD], [GOOD, BAD, BAD]):
        assert await is_answered(made, request(rows))
    assert made.counts() == {"risk/1": {"calls": 3, "rows": 5, "violating": 3, "fallen": 0}}


async def test_a_model_without_a_fallback_keeps_its_calls(tmp_path: Path) -> None:
    made = guards(tmp_path)
    assert await is_answered(made, request([BAD]), has_fallback=False)
    assert made.counts()["risk/1"]["fallen"] == 0


@pytest.mark.parametrize(
    "asked",
    [
        request([BAD], target="other"),
        request([BAD], operation="Classify"),
        request([BAD], version=2),
        request([[0.5, 6.0, 1.0]]),
        request(b"\xff\xff nonsense"),
        request(encode_predict("risk", {"y": np.array([BAD], np.float32)})),
    ],
)
async def test_what_cannot_be_held_against_a_reference_goes_on_as_it_is(tmp_path: Path, asked: BackendRequest) -> None:
    assert await is_answered(guards(tmp_path), asked)


async def test_without_a_reference_calls_go_on(tmp_path: Path) -> None:
    assert await is_answered(guards(tmp_path, known=False), request([BAD]))


async def test_of_a_very_large_request_only_the_first_rows_are_looked_at(tmp_path: Path) -> None:
    rows = np.tile(np.array(GOOD, np.float32), (CHECKED_BYTES // 8 + 10, 1))
    rows[-1] = BAD
    made = guards(tmp_path)
    assert await is_answered(made, request(encode_predict("risk", {"x": rows})))
    assert made.counts()["risk/1"]["rows"] == CHECKED_BYTES // 8
    rows[0] = BAD
    assert not await is_answered(made, request(encode_predict("risk", {"x": rows})))


def test_the_trainers_own_reference_comes_before_the_monitors(tmp_path: Path) -> None:
    other = RowReference((ColumnReference("a", 0.0, 9.0),), "y", 5)
    write_reference(tmp_path / "references/1.json", REFERENCE)
    write_reference(tmp_path / "1/assets.extra/row_reference.json", other)
    known = guards(tmp_path, known=False).known("risk", 1)
    assert known is not None
    assert known.reference == other


def test_a_folder_of_references_is_read_instead_where_one_is_named(tmp_path: Path) -> None:
    write_reference(tmp_path / "references/1.json", REFERENCE)
    made = RowGuards(GuardSettings(models=frozenset({"risk"}), folder=tmp_path / "elsewhere"))
    made.learn("risk", 1, str(tmp_path))
    assert made.known("risk", 1) is None
    write_reference(tmp_path / "elsewhere/risk/1.json", REFERENCE)
    made.learn("risk", 1, str(tmp_path))
    assert made.known("risk", 1) is not None


def test_a_file_that_is_no_reference_is_told_of_once_and_guards_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "references").mkdir()
    (tmp_path / "references/1.json").write_text("{}")
    made = RowGuards(GuardSettings(models=frozenset({"risk"})))
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            made.learn("risk", 1, str(tmp_path))
    assert made.known("risk", 1) is None
    assert len(caplog.records) == 1


def test_a_model_that_did_not_ask_is_not_even_looked_for(tmp_path: Path) -> None:
    write_reference(tmp_path / "references/1.json", REFERENCE)
    made = RowGuards(GuardSettings())
    made.learn("risk", 1, str(tmp_path))
    assert (made.counts(), "risk" in made) == ({}, False)
