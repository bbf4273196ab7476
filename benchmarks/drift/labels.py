"""False alarms and delays on 0/1 streams: labelled errors, and the signals of a panel. The change is at row 3,000."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np

from benchmarks.drift.peers import Peers
from benchmarks.drift.streams import Rows, coins
from controlplane.drift.bernoulli import RULES
from controlplane.drift.panel import Budget, Panel, PanelSettings, Reference

CHANGE = 3_000
BEFORE, AFTER = 0.10, (0.12, 0.15, 0.20, 0.40)
REFERENCE_LABELS = 5_000
LENGTH = 20_000


@dataclass(slots=True)
class Found:
    rule: str
    rows: int = 0
    false_alarms: int = 0
    delays: dict[float, list[float]] = field(default_factory=dict)

    @property
    def per_100k(self) -> float:
        return self.false_alarms / self.rows * 100_000 if self.rows else float("nan")

    def delay(self, after: float) -> float:
        return median(self.delays[after]) if after in self.delays else float("nan")

    def document(self) -> dict[str, Any]:
        delays = {str(after): [d if np.isfinite(d) else None for d in each] for after, each in self.delays.items()}
        return {"rule": self.rule, "rows": self.rows, "false_alarms": self.false_alarms, "delays": delays}


def whole_panel(*, error: Reference) -> Panel:
    """All signals and thirty columns share one budget: the error has the part that it has in production."""
    others = {name: coins(9, 0.001, 20_000) for name in RULES if name != "error"}
    rows = np.random.default_rng(0).normal(size=(20_000, 2))
    return Panel.enrol(["a", "b"], rows, {"error": error, **others}, PanelSettings(budget=Budget()))


def ours(*, quiet_rows: int, seeds: Sequence[int]) -> list[Found]:
    """With a reference known to be 10 % (the band is 0.11 then), and with one estimated on 5,000 labels."""
    known, learnt = Found("panel, error known"), Found("panel, error learnt on 5,000")
    for seed in seeds:
        estimated = Reference(int(coins(seed + 50_000, BEFORE, REFERENCE_LABELS).sum()), REFERENCE_LABELS)
        for found, reference in ((known, Reference(10**8, 10**9)), (learnt, estimated)):
            enrolment = whole_panel(error=reference).enrolment()
            found.rows += quiet_rows // len(seeds)
            quiet = {"error": coins(seed + 10_000, BEFORE, quiet_rows // len(seeds))}
            found.false_alarms += len(Panel.restored(enrolment).feed(signals=quiet))
            for after in AFTER:
                found.delays.setdefault(after, []).append(_delay(enrolment, "error", BEFORE, after, seed))
    return [known, learnt]


def signals(*, seeds: Sequence[int]) -> list[Found]:
    """Refusals and time-outs that were 0.1 % become 10 %, and other changes that an operator would name."""
    enrolment = whole_panel(error=Reference(500, 5_000)).enrolment()
    cases = (("refusal", 0.001, 0.10), ("timeout", 0.001, 0.05), ("tool_error", 0.001, 0.02))
    found = []
    for name, before, after in cases:
        each = Found(f"panel, {name} {before:.1%} -> {after:.0%}")
        each.delays[after] = [_delay(enrolment, name, before, after, seed) for seed in seeds]
        found.append(each)
    return found


def _delay(enrolment: bytes, name: str, before: float, after: float, seed: int) -> float:
    panel = Panel.restored(enrolment)
    panel.feed(signals={name: coins(seed, before, CHANGE)})
    verdicts = panel.feed(signals={name: coins(seed + 1_000, after, LENGTH)})
    return verdicts[0].row - CHANGE if verdicts else float("inf")


def peers(asked: Peers, *, quiet_rows: int, seeds: Sequence[int]) -> list[Found]:
    """river's detectors with their defaults, on the very same streams."""
    found: dict[str, Found] = {}
    streams: list[tuple[float | None, Rows]] = []
    for seed in seeds:
        streams.append((None, coins(seed + 10_000, BEFORE, quiet_rows // len(seeds))))
        for rate in AFTER:
            changed = np.concatenate((coins(seed, BEFORE, CHANGE), coins(seed + 1_000, rate, LENGTH)))
            streams.append((rate, changed))
    answers = asked.alarms("errors", [(np.zeros((1, 1)), stream) for _, stream in streams])
    for (after, stream), answer in zip(streams, answers, strict=False):
        for rule, alarms in answer.alarms.items():
            each = found.setdefault(rule, Found(f"river {rule}"))
            if after is None:
                each.rows, each.false_alarms = each.rows + len(stream), each.false_alarms + len(alarms)
                continue
            later = [row - CHANGE + 1 for row in alarms if row >= CHANGE]
            each.delays.setdefault(after, []).append(later[0] if later else float("inf"))
    return list(found.values())
