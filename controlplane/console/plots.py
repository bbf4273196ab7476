"""Where lines, bars and marks go; the templates draw them as SVG. Pure: no clock, no markup, no scripts.

Coordinates are in a box of ``WIDTH`` by the plot's height, y downwards, rounded to a tenth.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from controlplane.console.words import usd
from controlplane.drift.shelf import Point

WIDTH = 600.0
HEIGHT = 110.0
TOP = 14.0  # room above the threshold, so that a verdict can be seen to be above it
POINTS_DRAWN = 300
SERIES = 6  # colours that there are; what is left is "others"
OTHERS = "others"
ROUND = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)


@dataclass(frozen=True, slots=True)
class Line:
    """One detector over time. ``path`` is SVG's; ``verdicts`` are x of its verdicts, ``last`` its share of the way."""

    name: str
    path: str
    area: str
    threshold_y: float
    verdicts: tuple[float, ...]
    last: float
    evidence: float
    threshold: float
    tolerated: float
    arl_rows: float
    crossings: int
    is_score: bool


@dataclass(frozen=True, slots=True)
class Bar:
    """One part of a day's bar."""

    x: float
    y: float
    width: float
    height: float
    series: int
    title: str


@dataclass(frozen=True, slots=True)
class Bars:
    bars: tuple[Bar, ...]
    labels: tuple[tuple[float, str], ...]  # x of a day's middle, and the day
    legend: tuple[tuple[int, str], ...]
    ticks: tuple[tuple[float, float], ...]  # y, and the value there


@dataclass(frozen=True, slots=True)
class Stretch:
    """A state that lasted from ``x`` for ``width``."""

    x: float
    width: float
    state: str
    since_ms: int


def share_of_way(evidence: float, threshold: float) -> float:
    """How near a verdict is, 1 at the verdict. Evidence multiplies, so its way is logarithmic; a score's is its own."""
    if threshold <= 1:
        return max(0.0, evidence) / threshold
    return math.log1p(max(0.0, evidence)) / math.log1p(threshold)


def evidence_lines(points: Sequence[Point]) -> list[Line]:
    """One line for each detector of the newest version, over one common time; the nearest to its verdict first."""
    if not points:
        return []
    version = points[-1].version
    points = [each for each in points if each.version == version]
    start, end = points[0].at_ms, points[-1].at_ms
    by_name: dict[str, list[Point]] = {}
    for point in points:
        by_name.setdefault(point.detector, []).append(point)
    lines = [_line(name, found, start, max(1, end - start)) for name, found in by_name.items()]
    return sorted(lines, key=lambda line: (-line.last, line.name))


def _line(name: str, points: Sequence[Point], start: int, span: int) -> Line:
    usable, drawn = HEIGHT - TOP, points[:: max(1, math.ceil(len(points) / POINTS_DRAWN))]
    if drawn[-1] is not points[-1]:
        drawn = [*drawn, points[-1]]
    at = [
        (
            round(WIDTH * (each.at_ms - start) / span, 1),
            round(HEIGHT - usable * min(1.12, share_of_way(each.evidence, each.threshold)), 1),
        )
        for each in drawn
    ]
    path = "M" + " L".join(f"{x} {y}" for x, y in at)
    verdicts = [
        round(WIDTH * (after.at_ms - start) / span, 1)
        for before, after in pairwise(points)
        if after.crossings > before.crossings
    ]
    last = points[-1]
    return Line(
        name=name,
        path=path,
        area=f"{path} L{at[-1][0]} {HEIGHT} L{at[0][0]} {HEIGHT} Z",
        threshold_y=TOP,
        verdicts=tuple(dict.fromkeys(verdicts)),
        last=share_of_way(last.evidence, last.threshold),
        evidence=last.evidence,
        threshold=last.threshold,
        tolerated=last.tolerated,
        arl_rows=last.arl_rows,
        crossings=last.crossings,
        is_score=last.threshold <= 1,
    )


def day_bars(sums: Mapping[str, Mapping[str, int]], height: float = 180.0) -> Bars:
    """Stacked bars by day (``2026-11-21`` → name → micro dollars). The largest names have colours of their own."""
    totals: dict[str, int] = {}
    for day in sums.values():
        for name, value in day.items():
            totals[name] = totals.get(name, 0) + value
    names = sorted(totals, key=lambda name: (-totals[name], name))
    own = names if len(names) <= SERIES else names[: SERIES - 1]
    series = {name: number for number, name in enumerate(own)}
    legend = [*((number, name) for name, number in series.items())]
    if len(names) > len(own):
        legend.append((SERIES - 1, OTHERS))
    top = _round_up(max((sum(day.values()) for day in sums.values()), default=0))
    step = WIDTH / max(1, len(sums))
    bars: list[Bar] = []
    for place, (date, parts) in enumerate(sorted(sums.items())):
        bars += _stack(date, parts, series, (place * step + step * 0.15, min(step * 0.7, 60.0)), height / top)
    days = [(round((place + 0.5) * step, 1), day) for place, day in enumerate(sorted(sums))]
    every = max(1, math.ceil(len(days) / 8))
    ticks = tuple((round(height - height * part, 1), top * part) for part in (0.5, 1.0))
    return Bars(tuple(bars), tuple(days[::every]), tuple(legend), ticks)


def _stack(
    day: str, parts: Mapping[str, int], series: Mapping[str, int], place: tuple[float, float], scale: float
) -> list[Bar]:
    bars, below = [], 0.0
    merged: dict[int, int] = {}
    for name, value in parts.items():
        number = series.get(name, SERIES - 1)
        merged[number] = merged.get(number, 0) + value
    named = {number: name for name, number in series.items()}
    for number, value in sorted(merged.items()):
        tall = value * scale
        bars.append(
            Bar(
                x=round(place[0], 1),
                y=round(below + tall, 1),
                width=round(place[1], 1),
                height=round(tall, 1),
                series=number,
                title=f"{day} {named.get(number, OTHERS)}: {usd(value)}",
            )
        )
        below += tall
    return bars


def _round_up(value: int) -> float:
    """The next round number: one of ``ROUND`` times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in ROUND if step * power >= value)


def state_stretches(states: Sequence[tuple[int, str]], now_ms: int) -> list[Stretch]:
    """(since ms, state), oldest first, as stretches of one bar up to now; a state that follows itself is one."""
    begun = [next(group) for _, group in groupby(states, key=lambda each: each[1])]
    if not begun:
        return []
    start = begun[0][0]
    span = max(1, now_ms - start)
    ends = [*(since for since, _ in begun[1:]), now_ms]
    return [
        Stretch(
            x=round(WIDTH * (since - start) / span, 1),
            width=max(2.0, round(WIDTH * (end - since) / span, 1)),
            state=state,
            since_ms=since,
        )
        for (since, state), end in zip(begun, ends, strict=True)
    ]
