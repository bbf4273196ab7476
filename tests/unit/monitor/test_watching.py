"""Inputs, answers and signals on their way to the detectors: capped, resumed, told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from controlplane.drift.input_settings import InputSettings
from controlplane.drift.observed import Copied, Passed, Signals, encode
from controlplane.drift.observed import Page as PackedPage
from controlplane.drift.reference import read_reference
from controlplane.drift.rows import Prediction
from controlplane.drift.signals import text_signals
from controlplane.drift.store import MonitorStore
from controlplane.monitor.client import Page
from controlplane.monitor.packed import decoded
from controlplane.monitor.settings import MonitorSettings, WatchedModel
from controlplane.monitor.watching import Evidence, Watching
from controlplane.retraining.ports import GatewayUnavailable

SEEN = {"timeout": 0.0, "schema": 0.0, "latency": 0.01}
FINE = "The invoice of March is in the folder that you named, and the total of it is 240 euros."
REFUSAL = "I'm sorry, but I can't help with that request."


@dataclass
class Desk:
    """A gateway that remembers; ``down`` it answers nobody, ``forgetful`` its answers are lost on the way back."""

    gaps: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    verdicts: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    skipped: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    down: bool = False
    forgetful: bool = False

    def _take(self, kept: dict[str, Mapping[str, Any]], said: Mapping[str, Any]) -> None:
        if self.down:
            raise GatewayUnavailable("down")
        assert kept.setdefault(said["key"], dict(said)) == said, "one key, two records"
        if self.forgetful:
            raise GatewayUnavailable("lost on the way back")

    async def record_gap(self, gap: Mapping[str, Any]) -> None:
        self._take(self.gaps, gap)

    async def record_verdict(self, verdict: Mapping[str, Any]) -> None:
        self._take(self.verdicts, verdict)

    async def show_skipped(self, skipped: Mapping[str, Mapping[str, int]]) -> None:
        self.skipped = skipped


@dataclass
class Rig:
    """What outlives a monitor. ``found`` is all that models with a loop were accused of."""

    folder: Path
    desk: Desk = field(default_factory=Desk)
    now_s: float = 1_000.0
    calls: int = 0
    found: list[tuple[str, Evidence]] = field(default_factory=list)
    inputs: InputSettings = field(default_factory=lambda: InputSettings(reference_rows=2_000))

    def start(self) -> Watching:
        model = WatchedModel(name="risk", feature_names=("a", "b"), inputs=self.inputs)
        settings = MonitorSettings(
            models_root=self.folder / "models",
            models=(model,),
            language_models=("tiny",),
            language=InputSettings(reference_rows=1_000),
        )
        store = MonitorStore(self.folder / "monitor.sqlite")
        return Watching(settings, store, self.desk, wall_clock=lambda: self.now_s)

    @contextmanager
    def page(self, watching: Watching, lost: int = 0, boot: str = "b") -> Iterator[None]:
        self.now_s += 1
        watching.saw(Page([], 0, lost, boot), boot)
        with watching.store.transaction():
            yield
            self.found += watching.close()

    def rows(self, watching: Watching, count: int, shift: float = 0.0, wild: float | None = None) -> None:
        """Calls of four rows each from fifty agents; every seventh call is the attacker's where ``wild`` is given."""
        for _ in range(count // 4):
            self.calls += 1
            is_attack = wild is not None and self.calls % 7 == 0
            inputs = np.random.default_rng(self.calls).normal(shift, 1, (4, 2))
            principal = "attacker" if is_attack else f"agent-{self.calls % 50}"
            watching.take_rows(self.prediction(np.full((4, 2), wild) if is_attack else inputs, principal), 1, SEEN)

    def prediction(self, inputs: NDArray[np.float64], principal: str, **more: Any) -> Prediction:
        predicted = (inputs[:, 0] > 0).astype(np.int64)
        said: dict[str, Any] = {"model": "risk", "version": 1, "rung": "primary", **more}
        return Prediction(
            call_id=f"c{self.calls}",
            at_ms=0,
            principal=principal,
            inputs=inputs,
            predicted=predicted,
            confidence=1 / (1 + np.exp(-np.abs(inputs[:, 0]))),
            **said,
        )

    def speak(self, watching: Watching, count: int, refusals: float = 0.0) -> None:
        for _ in range(count):
            self.calls += 1
            refuses = np.random.default_rng(self.calls).random() < refusals
            said = {"model": "tiny", "version": 0, "rung": "primary", "principal": f"agent-{self.calls % 50}"}
            values = text_signals(REFUSAL if refuses else FINE + " x" * (self.calls % 11))
            watching.take_signals(said | {"values": values | {"timeout": 0.0, "truncated": 0.0}})


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def learn(rig: Rig, watching: Watching) -> None:
    for _ in range(8):
        with rig.page(watching):
            rig.rows(watching, 400)
    assert watching.panels["risk"].panel is not None


def test_rows_like_the_reference_accuse_nobody_and_others_do(rig: Rig) -> None:
    watching = rig.start()
    learn(rig, watching)
    for _ in range(10):
        with rig.page(watching):
            rig.rows(watching, 400)
    assert rig.found == []
    for _ in range(4):
        with rig.page(watching):
            rig.rows(watching, 400, shift=1.5)
    streams = {evidence["stream"] for _, evidence in rig.found}
    assert streams & {"a", "b", "predicted=1", "confidence"}


def test_answers_and_confidences_are_columns_beside_the_inputs(rig: Rig) -> None:
    watching = rig.start()
    learn(rig, watching)
    panel = watching.panels["risk"].panel
    assert panel is not None
    assert panel.names == ("a", "b", "predicted=1", "confidence")
    assert set(panel.signals) == {"timeout", "schema", "latency"}


def test_an_attacker_with_a_seventh_of_the_rows_is_capped_and_shown(rig: Rig) -> None:
    watching = rig.start()
    learn(rig, watching)
    panel, wild, skipped = watching.panels["risk"], [0, 0], watching.panels["risk"].skipped["over_share"]
    for _ in range(10):
        with rig.page(watching):
            rig.rows(watching, 400, wild=1e9)
            counted = np.concatenate(panel._rows)[:, 0] == 1e9
            wild[0], wild[1] = wild[0] + int(counted.sum()), wild[1] + len(counted)
    assert 0 < wild[0] <= (wild[1] + 50) / 10
    assert panel.skipped["over_share"] > skipped


def test_rows_of_another_version_or_rung_are_not_this_versions(rig: Rig) -> None:
    watching, row = rig.start(), np.zeros((3, 2))
    with rig.page(watching):
        watching.take_rows(rig.prediction(row, "one", rung="lighter"), 1, SEEN)
        watching.take_rows(rig.prediction(row, "one", version=2), 1, SEEN)
    assert dict(watching.panels["risk"].skipped) == {"lower_rung": 3, "other_version": 3}
    assert watching.panels["risk"].number == 0


def killed_within_a_page(rig: Rig, watching: Watching) -> Watching:
    """And started again; the page is not read to its end."""
    calls = rig.calls
    with pytest.raises(KeyboardInterrupt):
        die_within_a_page(rig, watching)
    rig.calls = calls
    watching.store.close()
    return rig.start()


def die_within_a_page(rig: Rig, watching: Watching) -> None:
    with rig.page(watching):
        rig.rows(watching, 200, shift=5.0)
        watching.close()
        raise KeyboardInterrupt


@pytest.mark.parametrize("killed_after", [1, 3, 9, 12])
def test_a_killed_monitor_stands_where_one_stands_that_was_not(tmp_path: Path, killed_after: int) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    steady, shaken = Rig(tmp_path / "a"), Rig(tmp_path / "b")
    watching = steady.start()
    other = shaken.start()
    for page in range(14):
        for rig, each in ((steady, watching), (shaken, other)):
            with rig.page(each):
                rig.rows(each, 400, shift=0.0 if page < 11 else 1.0)
        if page == killed_after:
            other = killed_within_a_page(shaken, other)
    assert shaken.found == steady.found != []
    assert watching.panels["risk"]._standing() == other.panels["risk"]._standing()


def test_the_reference_of_a_version_is_left_beside_it_once(rig: Rig) -> None:
    (rig.folder / "models/risk/1").mkdir(parents=True)
    learn(rig, rig.start())
    path = rig.folder / "models/risk/references/1.json"
    reference = read_reference(path.read_bytes())
    assert [column.name for column in reference.columns] == ["a", "b"]
    assert reference.rows >= 2_000
    path.write_text("the trainer's own")
    again = Rig(rig.folder / "other")
    again.folder.mkdir()
    (again.folder / "models").symlink_to(rig.folder / "models")
    learn(again, again.start())
    assert path.read_text() == "the trainer's own"


async def test_a_burst_of_refusals_is_a_verdict_in_the_ledger(rig: Rig) -> None:
    watching = rig.start()
    for _ in range(12):
        with rig.page(watching):
            rig.speak(watching, 100)
    assert not watching.verdicts
    for _ in range(4):
        with rig.page(watching):
            rig.speak(watching, 100, refusals=0.1)
    await watching.tell()
    streams = {str(each["evidence"]["stream"]) for each in rig.desk.verdicts.values()}
    assert "refusal" in streams
    assert not watching.verdicts
    assert rig.found == [], "a language model has no loop"


async def test_a_gap_is_told_until_it_is_taken_and_recorded_once(rig: Rig) -> None:
    watching = rig.start()
    with rig.page(watching):
        rig.rows(watching, 40)
    rig.now_s += 500
    with rig.page(watching, lost=12):
        rig.rows(watching, 40)
    rig.desk.forgetful = True
    await watching.tell()
    watching.store.close()
    watching, rig.desk.forgetful = rig.start(), False
    with rig.page(watching, lost=3):
        rig.rows(watching, 40)
    rig.now_s += 100
    await watching.tell()
    await watching.tell()
    gap, later = rig.desk.gaps.values()
    assert later["lost"] == 3, "what was told may be on disk already, and grows no more"
    assert (gap["reason"], gap["lost"], gap["to_ms"] - gap["from_ms"]) == ("overwritten", 12, 501_000)
    assert watching.gaps.told == []


async def test_a_gateway_that_is_down_loses_no_gap(rig: Rig) -> None:
    watching = rig.start()
    rig.desk.down = True
    with rig.page(watching, lost=1):
        rig.rows(watching, 40)
    await watching.tell()
    rig.desk.down = False
    await watching.tell()
    assert len(rig.desk.gaps) == 1


async def test_what_was_not_counted_is_shown(rig: Rig) -> None:
    watching = rig.start()
    with rig.page(watching):
        watching.take_rows(rig.prediction(np.zeros((50, 2)), "one"), 1, SEEN)
    await watching.tell()
    assert rig.desk.skipped == {"risk": {"over_share": 45}}


def test_nothing_is_watched_where_it_is_switched_off(rig: Rig) -> None:
    rig.inputs = InputSettings(enabled=False)
    watching = rig.start()
    with rig.page(watching):
        rig.rows(watching, 40)
    assert watching.panels == {}


def test_a_packed_page_is_read_as_the_one_for_people() -> None:
    passed = Passed("c1", 1, "risk", 2, "agent:one", "primary", 1500, 7, b"\x00asked", (b"ans", b"wered"))
    signals = Signals("c2", 2, "tiny", 0, "agent:one", "primary", {"timeout": 1.0})
    copied = Copied("c1", 3, "risk", 3, 1200, "", b"\x00asked", b"other")
    said = decoded("application/msgpack", encode(PackedPage([passed, signals, copied], 8, 10, 2, "b")))
    first, second, third = said["observations"]
    assert (first["seq"], first["kind"], first["request"], first["reply"]) == (
        8,
        "prediction",
        b"\x00asked",
        b"answered",
    )
    assert (second["seq"], second["kind"], second["values"]) == (9, "signals", {"timeout": 1.0})
    assert (third["kind"], third["version"], third["latency_us"], third["reply"]) == ("copy", 3, 1200, b"other")
    assert (said["next"], said["lost"], said["boot"]) == (10, 2, "b")
    for body in (b"", b"\xc1", encode(["nothing"])):
        with pytest.raises(ValueError, match=r"."):
            decoded("application/msgpack", body)
