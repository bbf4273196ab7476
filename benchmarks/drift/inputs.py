"""False alarms and delays of watching the inputs, on rows whose truth is known. Changes are ours: a shift added."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np

from benchmarks.drift.peers import Peers
from benchmarks.drift.streams import KINDS, Stream
from controlplane.drift.panel import Panel, PanelSettings

REFERENCE_ROWS = 20_000
CHUNK = 10_000
QUIET_BEFORE = 1_000  # rows between the reference and a change, and up to 49 more, so that blocks are not aligned
PATIENCE = 20_000  # a change not found in so many rows is missed
SIZES = dict.fromkeys(KINDS, (10, 30)) | {"mixed": (10, 30, 100, 300)}
PEER_COLUMNS = 30


@dataclass(slots=True)
class Watched:
    """What a rule did on one kind of stream."""

    rule: str
    kind: str
    columns: int
    rows: int = 0
    false_alarms: int = 0
    delays: list[float] = field(default_factory=list)
    us_per_row: float = float("nan")

    @property
    def per_100k(self) -> float:
        return self.false_alarms / self.rows * 100_000 if self.rows else float("nan")

    @property
    def delay(self) -> float:
        return median(self.delays) if self.delays else float("nan")

    @property
    def missed(self) -> float:
        return sum(delay == float("inf") for delay in self.delays) / max(1, len(self.delays))

    def document(self) -> dict[str, Any]:
        return {
            "rule": self.rule,
            "kind": self.kind,
            "columns": self.columns,
            "rows": self.rows,
            "false_alarms": self.false_alarms,
            "per_100k": self.per_100k,
            "delays": [delay if np.isfinite(delay) else None for delay in self.delays],
            "us_per_row": self.us_per_row,
        }


def enrolled(stream: Stream, settings: PanelSettings | None = None, rows: int = REFERENCE_ROWS) -> Panel:
    return Panel.enrol([f"c{j}" for j in range(stream.columns)], stream.next(rows), settings=settings)


def ours(kind: str, columns: int, *, rows: int, seeds: Sequence[int], reference_rows: int = REFERENCE_ROWS) -> Watched:
    """Every seed is another reference, with its share of the quiet rows and its own change of +1 sd in column 0."""
    found = Watched("panel", kind, columns)
    cpu_s = 0.0
    for seed in seeds:
        stream = Stream(kind, columns, seed)
        panel = enrolled(stream, rows=reference_rows)
        enrolment = panel.enrolment()
        for _ in range(rows // len(seeds) // CHUNK):
            chunk = stream.next(CHUNK)
            start = time.process_time()
            found.false_alarms += len(panel.feed(chunk))
            cpu_s += time.process_time() - start
            found.rows += CHUNK
        found.delays.append(delay_of(Panel.restored(enrolment), stream, seed))
    found.us_per_row = cpu_s / max(1, found.rows) * 1e6
    return found


def delay_of(panel: Panel, stream: Stream, seed: int, *, shift: float = 1.0) -> float:
    """Rows from the change to the first verdict, which has to name the changed column; infinite when missed."""
    quiet = QUIET_BEFORE + seed % 50
    panel.feed(stream.next(quiet))
    for _ in range(PATIENCE // 1_000):
        changed = stream.next(1_000)
        changed[:, 0] += shift
        verdicts = [verdict for verdict in panel.feed(changed) if "c0" in {m.stream for m in verdict.movements}]
        if verdicts:
            return verdicts[0].row - quiet
    return float("inf")


def windows(kind: str, *, rows: int, seeds: Sequence[int]) -> Watched:
    """``trigger: evidently``: the calibrated score over windows of 1,000 rows."""
    found = Watched("panel, trigger evidently", kind, PEER_COLUMNS)
    for seed in seeds:
        stream = Stream(kind, PEER_COLUMNS, seed)
        panel = enrolled(stream, PanelSettings(trigger="evidently"))
        enrolment = panel.enrolment()
        for _ in range(rows // len(seeds) // CHUNK):
            found.false_alarms += len(panel.feed(stream.next(CHUNK)))
            found.rows += CHUNK
        found.delays.append(delay_of(Panel.restored(enrolment), stream, seed))
    return found


def peers(kind: str, asked: Peers, *, rows: int, seeds: Sequence[int]) -> list[Watched]:
    """Evidently, NannyML and ADWIN on 30 columns: quiet rows, and then 3,000 with +1 sd in column 0."""
    found: dict[str, Watched] = {}
    pairs, quiet = [], rows // len(seeds) // 1_000 * 1_000
    for seed in seeds:
        stream = Stream(kind, PEER_COLUMNS, seed)
        pairs.append((stream.next(REFERENCE_ROWS), stream.next(quiet + 3_000)))
        pairs[-1][1][quiet:, 0] += 1.0
    for name in ("evidently", "nannyml", "adwin"):
        for answer in asked.alarms(name, pairs):
            for rule, alarms in answer.alarms.items():
                watched = found.setdefault(f"{name} {rule}", Watched(f"{name}, {rule}", kind, PEER_COLUMNS))
                watched.rows += quiet
                watched.false_alarms += sum(row < quiet for row in alarms)
                after = [row - quiet + 1 for row in alarms if row >= quiet]
                watched.delays.append(after[0] if after else float("inf"))
                watched.us_per_row = answer.cpu_s / (quiet + 3_000) * 1e6
    return list(found.values())
