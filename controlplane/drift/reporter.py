"""Has a report made in another process and says what came of it. Fails open: every failure is a word in the answer.

``made``, ``no_rows``, ``not_installed``, ``out_of_memory``, ``timeout``, ``failed``.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controlplane.drift import report
from controlplane.drift.settings import ReportSettings

MADE, NO_ROWS, TIMEOUT, FAILED = "made", "no_rows", "timeout", "failed"
SCRIPT = str(Path(report.__file__).resolve())
COMPLAINT_BYTES = 2_000
MILLI = 1_000
LARGEST_SCORE = 10**9  # one value of 1e9 makes the library's own score two million; there is no use in more digits


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeReport:
    """``word`` is what came of it; the rest is empty unless it is ``made``. ``scores`` by column, the largest first."""

    word: str
    html_gzip: bytes = b""
    scores: Mapping[str, float] = field(default_factory=dict)
    drifted: int = 0
    columns: int = 0
    of_columns: int = 0  # columns that there are; only so many of them are in the report

    def evidence(self) -> dict[str, int | str]:
        """Fit for the ledger."""
        if self.word != MADE:
            return {"report": self.word}
        return {
            "report": self.word,
            "report_sha256": hashlib.sha256(self.html_gzip).hexdigest(),
            "report_drifted_columns": self.drifted,
            "report_columns": self.columns,
        }

    def scores_milli(self) -> dict[str, int]:
        """Whole thousandths, as the ledger takes them."""
        return {name: milli(score) for name, score in self.scores.items()}


def milli(score: float) -> int:
    return round(min(LARGEST_SCORE, max(0.0, score)) * MILLI) if score == score else 0  # noqa: PLR0124 - not a number


def ranked(
    reference: NDArray[np.float64], current: NDArray[np.float64], names: Sequence[str], first: Sequence[str] = ()
) -> list[int]:
    """Columns by evidence: those that verdicts name come ``first``, the others by how far their ranks have moved."""
    named = [names.index(name) for name in dict.fromkeys(first) if name in names]
    moved = [_distance(reference[:, j], current[:, j]) for j in range(len(names))]
    others = sorted((j for j in range(len(names)) if j not in named), key=lambda j: (-moved[j], j))
    return named + others


def _distance(reference: NDArray[np.float64], current: NDArray[np.float64]) -> float:
    """Kolmogorov and Smirnov's: the largest gap between the distribution functions; missing values left out."""
    before, after = np.sort(reference[~np.isnan(reference)]), np.sort(current[~np.isnan(current)])
    if not len(before) or not len(after):
        return float(len(before) != len(after))
    at = np.concatenate([before, after])
    below = np.searchsorted(before, at, "right") / len(before) - np.searchsorted(after, at, "right") / len(after)
    return float(np.abs(below).max())


@dataclass(frozen=True, slots=True)
class Reporter:
    settings: ReportSettings
    feature_names: tuple[str, ...]

    async def report(
        self,
        reference: NDArray[np.float64],
        current: NDArray[np.float64],
        scratch: Path,
        *,
        first: Sequence[str] = (),
    ) -> MadeReport:
        """Compare (rows, features) arrays. ``first`` are columns to show whatever they look like.

        ``scratch`` is a folder that is made and, unless the report fails, removed again.
        """
        if not len(reference) or not len(current):
            return MadeReport(word=NO_ROWS)
        shown = ranked(reference, current, self.feature_names, first)[: self.settings.columns]
        word = await self._run(await asyncio.to_thread(self._written, reference, current, shown, scratch), scratch)
        if word != MADE:
            return MadeReport(word=word)
        try:
            made = await asyncio.to_thread(self._read, scratch)
        except (OSError, ValueError, KeyError, TypeError):
            return MadeReport(word=FAILED)
        await asyncio.to_thread(shutil.rmtree, scratch, ignore_errors=True)
        return made

    def _written(
        self, reference: NDArray[np.float64], current: NDArray[np.float64], shown: list[int], scratch: Path
    ) -> Path:
        scratch.mkdir(parents=True, exist_ok=True)
        rows = scratch / "rows.npz"
        names = np.array([self.feature_names[j] for j in shown])
        reference, current = reference[-self.settings.reference_rows :], current[-self.settings.rows :]
        np.savez(rows, reference=reference[:, shown], current=current[:, shown], names=names)
        return rows

    def _read(self, scratch: Path) -> MadeReport:
        said: dict[str, Any] = json.loads((scratch / "scores.json").read_text())
        scores = {name: float(column["score"]) for name, column in said["columns"].items()}
        return MadeReport(
            word=MADE,
            html_gzip=(scratch / "report.html.gz").read_bytes(),
            scores=dict(sorted(scores.items(), key=lambda one: -one[1])),
            drifted=int(said["drifted"].get("count", 0)),
            columns=len(scores),
            of_columns=len(self.feature_names),
        )

    async def _run(self, rows: Path, scratch: Path) -> str:
        try:
            process = await asyncio.create_subprocess_exec(
                self.settings.python or sys.executable,
                "-I",  # neither our folders nor the caller's on its path: what it imports is its environment's
                SCRIPT,
                str(rows),
                str(scratch),
                str(self.settings.memory_bytes),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                env={**os.environ, "DO_NOT_TRACK": "1", **dict.fromkeys(report.ONE_THREAD, "1")},
                start_new_session=True,
            )
        except OSError as error:
            (scratch / "failure.txt").write_text(str(error))
            return "not_installed"
        try:
            async with asyncio.timeout(self.settings.timeout_s):
                _, complaint = await process.communicate()
        except TimeoutError:
            return TIMEOUT
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if process.returncode:
            (scratch / "failure.txt").write_bytes(complaint[-COMPLAINT_BYTES:])
            return report.EXITS.get(process.returncode, FAILED)
        return MADE
