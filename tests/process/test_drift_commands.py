"""`controlplane drift` over a monitor's file: a model whose column moves, and later the truth with it."""

from __future__ import annotations

import gzip
import importlib.util
import json
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result

from controlplane.cli import main
from controlplane.drift.rows import LabelledRow, Prediction
from controlplane.drift.shelf import KeptReport, Shelf
from controlplane.drift.store import MonitorStore

CALLS, ROWS, MOVED, TURNED = 700, 10, 450, 520
START_MS = 1_763_700_000_000
MINUTE_MS = 60_000
WITHOUT_EVIDENTLY = sys._base_executable  # type: ignore[attr-defined]  # the interpreter under our own environment


def predictions() -> Iterator[tuple[Prediction, np.ndarray[Any, Any]]]:
    """Ten rows a minute from ten agents, each with the truth; ``income`` moves after MOVED, the truth after TURNED."""
    for number in range(CALLS):
        chance = np.random.default_rng(number)
        inputs = chance.normal(size=(ROWS, 3)) + np.array([2.0 if number >= MOVED else 0.0, 0, 0])
        predicted = (inputs[:, 1] > 0).astype(np.int64)
        wrong = chance.random(ROWS) < (0.5 if number >= TURNED else 0.1)
        call = Prediction(
            call_id=f"c{number}", at_ms=START_MS + number * MINUTE_MS, model="risk", version=1,
            principal=f"agent:{number % 10}", rung="primary", inputs=inputs, predicted=predicted,
        )  # fmt: skip
        yield call, predicted ^ wrong


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("monitor")
    store = MonitorStore(folder / "state/monitor.sqlite")
    with store.transaction():
        for call, truth in predictions():
            store.keep_prediction(call)
            for row in range(ROWS):
                store.keep_labelled(
                    LabelledRow(
                        call_id=call.call_id, row=row, at_ms=call.at_ms, model="risk", version=1,
                        principal=call.principal, rung="primary", inputs=call.inputs[row],
                        predicted=int(call.predicted[row]), label=int(truth[row]),
                    )
                )  # fmt: skip
        store.keep_document("course/risk", {"state": "DEGRADED", "version": 1, "episode": 2})
    store.close()
    model = {"name": "risk", "feature_names": ["income", "age", "hours"]}
    model |= {"inputs": {"rows_per_principal": 50, "reference_rows": 2_000}, "watch": {"reference_rows": 2_000}}
    path = folder / "monitor.yaml"
    path.write_text(yaml.safe_dump({"state_dir": str(folder / "state"), "models": [model]}))
    return path


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["drift", *map(str, arguments)])


def replayed(*arguments: str | Path) -> list[dict[str, Any]]:
    said = run("replay", *arguments, "--json")
    assert said.exit_code == 0, said.output
    return [json.loads(line) for line in said.output.splitlines()]


def at(number: int) -> int:
    return START_MS + number * MINUTE_MS


def test_replay_names_the_column_that_moved_and_then_the_error(config: Path) -> None:
    verdicts = replayed("risk", "--config", config)
    first = verdicts[0]
    assert first["about"].startswith("income location up")
    assert at(MOVED) <= first["at_ms"] <= at(MOVED + 45)
    assert (first["from"], first["to"]) == ("HEALTHY", "WARN")
    risk = next(each for each in verdicts if each["event"] == "risk_left_band")
    assert at(TURNED) <= risk["at_ms"] <= at(TURNED + 40)
    assert risk["to"] == "DEGRADED"
    assert "is tolerated" in risk["about"]


def test_replay_of_a_quiet_period_has_no_verdict_and_says_what_is_not_stored(config: Path) -> None:
    """The change comes 7.5 hours after the start."""
    said = run("replay", "risk", "--config", config, "--until", "2025-11-21T12:00")
    assert said.exit_code == 0, said.output
    assert "no verdict" in said.output
    assert "It would be HEALTHY." in said.output
    assert "Not replayed, because it is not stored: confidences" in said.output


def test_replay_takes_other_settings(config: Path) -> None:
    verdicts = replayed("risk", "--config", config, "--trigger", "evidently", "--window-rows", "500")
    by = {each["detector"] for each in verdicts}
    assert by == {"window", "labelled_error"}
    strict = replayed("risk", "--config", config, "--reference-rows", "6500")
    assert {each["detector"] for each in strict} == {"labelled_error"}, "what moved is among what was learnt from"
    wrong = run("replay", "risk", "--config", config, "--threshold", "7")
    assert (wrong.exit_code, "Traceback" in wrong.output) == (1, False)
    assert "drift_score_threshold" in wrong.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["replay", "nobody"], "do not name nobody"),
        (["replay", "risk", "--version", "9"], "nothing is remembered of risk/9"),
        (["report", "nobody"], "do not name nobody"),
    ],
)
def test_what_cannot_be_is_told_without_a_traceback(config: Path, arguments: list[str], said: str) -> None:
    told = run(*arguments, "--config", config)
    assert (told.exit_code, said in told.output) == (1, True), told.output


def test_without_a_monitor_there_is_nothing_to_see(tmp_path: Path) -> None:
    path = tmp_path / "monitor.yaml"
    path.write_text(yaml.safe_dump({"state_dir": str(tmp_path / "nothing")}))
    told = run("status", "--config", path)
    assert (told.exit_code, "unable to open database file" in told.output) == (1, True)
    assert not (tmp_path / "nothing").exists(), "looking makes nothing"


def test_a_file_that_keeps_no_reports_is_not_made_to(config: Path, tmp_path: Path) -> None:
    other = tmp_path / "ledger.sqlite"
    with closing(sqlite3.connect(other)) as file:
        file.execute("CREATE TABLE log (idx INTEGER)")
        file.commit()
    before = other.read_bytes()
    (tmp_path / "text").write_text("no database at all " * 50)
    for kept in (other, tmp_path / "text"):
        told = run("report", "risk", "--config", config, "--kept", kept)
        assert (told.exit_code, str(kept) in told.output) == (1, True), told.output
    assert other.read_bytes() == before


def test_a_ledger_that_is_none_is_told_without_a_traceback(config: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database at all " * 50)
    told = run("status", "--config", config, "--ledger", tmp_path / "text")
    assert (told.exit_code, "the ledger cannot be read" in told.output) == (1, True), told.output


def test_status_says_where_a_model_stands(config: Path) -> None:
    told = run("status", "--config", config)
    assert told.exit_code == 0, told.output
    assert "risk/1: DEGRADED" in told.output
    assert "remembers calls from 2025-11-21 04:40:00" in told.output
    (facts,) = [json.loads(line) for line in run("status", "--config", config, "--json").output.splitlines()]
    assert (facts["model"], facts["state"], facts["episode"]) == ("risk", "DEGRADED", 2)


def test_a_report_that_cannot_be_made_is_a_word(config: Path, tmp_path: Path) -> None:
    settings = yaml.safe_load(config.read_text()) | {"report": {"python": WITHOUT_EVIDENTLY}}
    other = tmp_path / "monitor.yaml"
    other.write_text(yaml.safe_dump(settings))
    told = run("report", "risk", "--config", other)
    assert told.exit_code == 1
    assert "no report: not_installed" in told.output


@pytest.mark.real("evidently")
@pytest.mark.skipif(importlib.util.find_spec("evidently") is None, reason="evidently is not installed (extra: drift)")
def test_a_report_names_what_moved_and_is_written(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    told = run("report", "risk", "--config", config, "--since", "2025-11-21T12:30", "--out", out)
    assert told.exit_code == 0, told.output
    assert told.output.splitlines()[2].split()[0] == "income"
    assert "<html" in out.read_text()


def test_kept_reports_are_listed_and_the_newest_is_written(config: Path, tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "drift.sqlite")
    for number in range(2):
        kept = KeptReport(
            id=f"e{number}", version=1, at_ms=START_MS + number, cause="nightly", sha256="0" * 64, drifted=1, columns=3,
            of_columns=3, top="income", size_bytes=0,
        )  # fmt: skip
        shelf.keep_report("risk", kept, gzip.compress(f"page {number}".encode()))
    shelf.close()
    out = tmp_path / "page.html"
    told = run("report", "risk", "--config", config, "--kept", tmp_path / "drift.sqlite", "--out", out)
    assert told.exit_code == 0, told.output
    assert [line.split()[-1] for line in told.output.splitlines()[:2]] == ["e1", "e0"]
    assert out.read_text() == "page 1"
