"""A drift score for a window of rows, calibrated so that its threshold means something: ``trigger: evidently``.

Evidently's rule for large references is Wasserstein distance over the reference's standard deviation, against a fixed
threshold. The distance between two samples without drift shrinks with the window's size and grows with the tail, and is
unbounded: with 500 rows one value of 1e9 gives a score of two million. Here the same distance is

1. *clipped*: values beyond the reference's 0.1 and 99.9 % quantiles count as lying there;
2. *calibrated*: divided by what windows of this very size reach without drift. Windows are drawn from the reference in
   blocks of 50 successive rows (moving block bootstrap; Kunsch, "The jackknife and the bootstrap for general stationary
   observations", Annals of Statistics 17, 1989) and widened by sqrt(1 + window/reference), since the reference is a
   sample too. Seasons longer than a block show in the reference's own successive windows, each held against the rest;
   the larger of the two counts;
3. *scaled* so that 0.3 is the score that the worst column reaches by chance in one window in 1,000. Every column is
   measured by its own 99th percentile first, so that a heavy tail does not drown the others.

A score is at most 1. There is no bound on false alarms under lasting dependence, unlike the e-detectors', and a window
has to be full before it speaks; it finds small and slow drift that blocks of 50 cannot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from controlplane.drift.verdict import Movement, Verdict

MEANING = 0.3  # the score of one false window in a thousand
FALSE_WINDOWS = 0.001
CUTS = 128
CLIPPED = (0.001, 0.999)
BLOCK = 50
NAMED = 5


@dataclass(frozen=True, slots=True, eq=False)
class ScoreScale:
    """What a window is held against. ``cuts`` and ``shares`` (k, CUTS) are the reference's distribution function.

    ``steps`` (k, CUTS) are the distances between cuts over the column's standard deviation, 0 behind the last.
    ``critical`` (k,) is the distance that scores ``MEANING``; ``chance`` (resamples,) the largest scores of windows
    without drift, ascending.
    """

    window_rows: int
    cuts: NDArray[np.float64]
    shares: NDArray[np.float64]
    steps: NDArray[np.float64]
    critical: NDArray[np.float64]
    chance: NDArray[np.float64]

    def scores(self, counts: NDArray[np.int64]) -> NDArray[np.float64]:
        """(k,) scores of a window with these ``counts`` (k, CUTS + 2)."""
        scores: NDArray[np.float64] = np.minimum(1.0, MEANING * _distances(counts, self) / self.critical)
        return scores

    def false_windows(self, threshold: float) -> float:
        """The share of windows without drift in which some column reaches ``threshold``."""
        return 1 - float(np.searchsorted(self.chance, threshold, "left")) / len(self.chance)

    def places(self, rows: NDArray[np.float64]) -> NDArray[np.intp]:
        """(n, k): how many cuts lie below each value, CUTS + 1 for a missing one."""
        places = np.empty(rows.shape, np.intp)
        for j in range(rows.shape[1]):
            places[:, j] = np.searchsorted(self.cuts[j], rows[:, j], "left")
        places[np.isnan(rows)] = CUTS + 1
        return places

    def counts(self, places: NDArray[np.intp]) -> NDArray[np.int64]:
        """(k, CUTS + 2) how many of ``places`` (n, k) are each."""
        columns = places.shape[1]
        flat = (places + np.arange(columns) * (CUTS + 2)).ravel()
        return np.bincount(flat, minlength=columns * (CUTS + 2)).reshape(columns, CUTS + 2)


def _distances(counts: NDArray[np.int64], scale: ScoreScale) -> NDArray[np.float64]:
    """Clipped Wasserstein distances over the standard deviation, (..., k); missing values are left out."""
    below = counts[..., : CUTS + 1].cumsum(axis=-1)
    present = np.maximum(below[..., -1:], 1)
    apart = np.abs(below[..., :CUTS] / present - scale.shares)
    distances: NDArray[np.float64] = (apart * scale.steps).sum(axis=-1)
    return distances


def calibrate(rows: NDArray[np.float64], window_rows: int, resamples: int, seed: int = 0) -> ScoreScale:
    """The scale of a score for windows of ``window_rows``, from the reference in the order of time.

    Raises:
        ValueError: the reference is shorter than two windows.
    """
    if len(rows) < 2 * window_rows:
        raise ValueError("the reference must be at least two windows long")
    scale = _uncalibrated(rows, window_rows)
    places = scale.places(rows)
    drawn = _drawn_distances(scale, places, resamples, np.random.default_rng(seed))
    drawn *= np.sqrt(1 + window_rows / len(rows))
    typical = np.maximum(np.quantile(drawn, 0.99, axis=0), 1e-9)
    chance = np.sort((drawn / typical).max(axis=1))
    successive = (_successive_distances(scale, places) / typical).max(axis=1)
    worst = max(float(np.quantile(chance, 1 - FALSE_WINDOWS)), float(successive.max()))
    return ScoreScale(
        window_rows, scale.cuts, scale.shares, scale.steps, critical=worst * typical, chance=MEANING * chance / worst
    )


def _uncalibrated(rows: NDArray[np.float64], window_rows: int) -> ScoreScale:
    columns = rows.shape[1]
    cuts = np.full((columns, CUTS), np.inf)
    shares, steps = np.ones((columns, CUTS)), np.zeros((columns, CUTS))
    for j in range(columns):
        present = np.sort(rows[~np.isnan(rows[:, j]), j])
        if not len(present):
            continue
        ends = np.quantile(present, CLIPPED, method="nearest")
        present = np.clip(present, *ends)
        distinct = np.unique(present)
        if len(distinct) > CUTS:
            distinct = np.unique(np.quantile(present, np.linspace(0, 1, CUTS), method="nearest"))
        used = len(distinct)
        cuts[j, :used] = distinct
        shares[j, :used] = np.searchsorted(present, distinct, "right") / len(present)
        # A constant column has no spread of its own: any other value is then one step away.
        spread = float(present.std()) or 1.0
        steps[j, : used - 1] = np.diff(distinct) / spread
        if used == 1:
            steps[j, 0] = 1.0
    return ScoreScale(window_rows, cuts, shares, steps, np.ones(columns), np.zeros(0))


def _drawn_distances(
    scale: ScoreScale, places: NDArray[np.intp], resamples: int, random: np.random.Generator
) -> NDArray[np.float64]:
    """(resamples, k) distances of windows put together from blocks of successive rows."""
    blocks = len(places) // BLOCK
    picks = random.multinomial(max(1, scale.window_rows // BLOCK), np.full(blocks, 1 / blocks), size=resamples)
    chosen = picks.astype(np.float32)
    distances = np.empty((resamples, places.shape[1]))
    for j in range(places.shape[1]):
        by_block = np.zeros((blocks, CUTS + 2), np.float32)
        np.add.at(by_block, (np.repeat(np.arange(blocks), BLOCK), places[: blocks * BLOCK, j]), 1)
        below = (chosen @ by_block)[:, : CUTS + 1].cumsum(axis=1)
        present = np.maximum(below[:, -1:], 1)
        distances[:, j] = np.abs(below[:, :CUTS] / present - scale.shares[j]) @ scale.steps[j]
    return distances


def _successive_distances(scale: ScoreScale, places: NDArray[np.intp]) -> NDArray[np.float64]:
    """(windows, k) distances of the reference's own windows in time, each from the rest of the reference."""
    windows = len(places) // scale.window_rows
    parts = np.split(places[: windows * scale.window_rows], windows)
    found = np.array([_distances(scale.counts(part), scale) for part in parts])
    without: NDArray[np.float64] = found * (len(places) / (len(places) - scale.window_rows))
    return without


@dataclass(slots=True)
class WindowWatch:
    """Windows one after the other; a verdict at the end of each whose score reaches ``threshold``."""

    names: Sequence[str]
    scale: ScoreScale
    threshold: float
    crossings: int = 0
    rows: int = 0  # in the window so far
    before: int = 0  # number of the last row before the window
    counts: NDArray[np.int64] = field(init=False, repr=False)
    latest: float = 0.0  # the largest score of the last whole window

    def __post_init__(self) -> None:
        self.counts = np.zeros((len(self.names), CUTS + 2), np.int64)

    @property
    def arl_rows(self) -> float:
        """Rows between false windows, as the calibration saw it; at least one window in ``chance`` is assumed."""
        chance = self.scale.chance
        return self.scale.window_rows / max(self.scale.false_windows(self.threshold), 1 / len(chance))

    def feed(self, rows: NDArray[np.float64], numbers: NDArray[np.int64]) -> list[Verdict]:
        verdicts = []
        places = self.scale.places(rows)
        start = 0
        while start < len(rows):
            end = min(len(rows), start + self.scale.window_rows - self.rows)
            self.counts += self.scale.counts(places[start:end])
            self.rows += end - start
            start = end
            if self.rows == self.scale.window_rows:
                verdict = self._close(int(numbers[end - 1]))
                verdicts += [verdict] if verdict else []
        return verdicts

    def _close(self, last_row: int) -> Verdict | None:
        scores, before = self.scale.scores(self.counts), self.before
        means = [_centre(self.counts[j], self.scale.cuts[j]) for j in range(len(self.names))]
        self.counts[:], self.rows, self.before, self.latest = 0, 0, last_row, float(scores.max())
        if self.latest < self.threshold:
            return None
        self.crossings += 1
        loud = [j for j in np.argsort(-scores, kind="stable")[:NAMED].tolist() if scores[j] >= self.threshold]
        share = float(scores[loud].sum())
        return Verdict(
            detector="window",
            movements=tuple(self._movement(j, float(scores[j]), means[j], before, share) for j in loud),
            row=last_row,
            evidence=self.latest,
            arl_rows=self.arl_rows,
            crossing=self.crossings,
        )

    def _movement(self, j: int, score: float, centre: float, since: int, total: float) -> Movement:
        usual = float(self.scale.cuts[j, int(np.searchsorted(self.scale.shares[j], 0.5))])
        return Movement(
            stream=self.names[j],
            aspect="score",
            rises=centre >= usual,
            before=usual,
            after=centre,
            since_row=since,
            share=score / total,
        )


def _centre(counts: NDArray[np.int64], cuts: NDArray[np.float64]) -> float:
    """The window's median, to the nearest cut above."""
    below = counts[: CUTS + 1].cumsum()
    last = int(np.isfinite(cuts).sum()) - 1
    place = int(np.searchsorted(below, below[-1] / 2))
    return float(cuts[min(place, last)]) if last >= 0 else float("nan")
