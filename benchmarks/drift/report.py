"""Tables, and the targets with what was found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.drift.costs import Cost
from benchmarks.drift.inputs import Watched
from benchmarks.drift.labels import AFTER, Found
from benchmarks.drift.real import Line


@dataclass(frozen=True, slots=True)
class Target:
    """``found`` against ``limit``; at most, unless ``at_least``."""

    name: str
    found: float
    limit: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        return self.found >= self.limit if self.at_least else self.found <= self.limit

    def __str__(self) -> str:
        wanted = "at least" if self.at_least else "at most"
        word = "pass" if self.met else "MISS"
        return f"{self.name:<68}{self.found:>12,.4g}   wanted {wanted} {self.limit:>8,g}: {word}"

    def document(self) -> dict[str, Any]:
        return {"name": self.name, "found": self.found, "limit": self.limit, "met": self.met}


def inputs_table(found: Iterable[Watched]) -> str:
    head = "inputs                                     rows of  columns  quiet rows   FA/100k"
    lines = [f"{head}   +1 sd in 1 column found after   missed   us/row"]
    lines += [
        f"{w.rule:<42} {w.kind:<9}{w.columns:>6} {w.rows:>11,} {w.per_100k:>9.2f}"
        f" {_delay(w.delay):>31} {w.missed:>8.0%} {w.us_per_row:>8.2f}"
        for w in found
    ]
    return "\n".join(lines)


def labels_table(found: Iterable[Found]) -> str:
    lines = [
        f"errors, 10 % until the change{'':<12}FA/100k" + "".join(f"{f'-> {after:.0%}':>10}" for after in AFTER),
    ]
    lines += [
        f"{each.rule:<40}{each.per_100k:>8.2f}" + "".join(f"{_delay(each.delay(after)):>10}" for after in AFTER)
        for each in found
    ]
    return "\n".join(lines)


def signals_table(found: Iterable[Found]) -> str:
    return "\n".join(f"{each.rule:<48}{_delay(each.delay(after)):>8} rows" for each in found for after in each.delays)


def real_table(lines: Iterable[Line]) -> str:
    head = f"{'real rows':<24}{'change':<44}{'rows':>9}{'verdicts':>10}{'delay':>8}  stream"
    told = [head]
    for line in lines:
        delay = "" if line.delay is None else _delay(line.delay)
        told.append(f"{line.rows:<24}{line.change:<44}{line.watched:>9,}{line.verdicts:>10}{delay:>8}  {line.stream}")
        if line.per_window:
            told.append("    windows said to drift: " + "; ".join(f"{k} {v}" for k, v in line.per_window.items()))
    return "\n".join(told)


def costs_table(costs: Iterable[Cost]) -> str:
    lines = ["columns      fit s   rows/s/core   state bytes   enrolment bytes"]
    lines += [
        f"{c.columns:>7}{c.fit_s:>11.2f}{c.rows_per_s:>14,.0f}{c.state_bytes:>14,}{c.enrolment_bytes:>18,}"
        for c in costs
    ]
    return "\n".join(lines)


def _delay(rows: float) -> str:
    return "missed" if rows == float("inf") else "" if np.isnan(rows) else f"{rows:,.0f}"


def inputs_targets(found: Sequence[Watched]) -> list[Target]:
    ours = [w for w in found if w.rule == "panel"]
    targets = [
        Target(
            "false alarms per 100,000 rows, all kinds and 10-300 columns",
            100_000 * sum(w.false_alarms for w in ours) / max(1, sum(w.rows for w in ours)),
            1.0,
        ),
        Target("the same, worst kind", max(w.per_100k for w in ours), 1.0),
    ]
    one_of_thirty = [w.delay for w in ours if (w.kind, w.columns) == ("iid", 30)]
    return targets + [Target("rows to find +1 sd in 1 of 30 columns, reference 20,000", d, 250) for d in one_of_thirty]


def labels_targets(errors: Sequence[Found], signals: Sequence[Found]) -> list[Target]:
    known, learnt = errors[:2]
    targets = [
        Target("labels to find error 10 -> 20 %, reference known", known.delay(0.20), 250),
        Target("labels to find error 10 -> 20 %, reference of 5,000 labels", learnt.delay(0.20), 250),
        Target("labels to find error 10 -> 40 %, reference known", known.delay(0.40), 40),
        Target("labels to find error 10 -> 40 %, reference of 5,000 labels", learnt.delay(0.40), 40),
        Target("false alarms per 100,000 labels", max(known.per_100k, learnt.per_100k), 1.0),
    ]
    return [*targets, Target("responses to find 10 % refusals", signals[0].delay(0.10), 100)]
