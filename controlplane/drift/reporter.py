"""Has a report made in another process and says what came of it. Fails open: every failure is a word in the answer."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from controlplane.drift.settings import ReportSettings

COMPLAINT_BYTES = 2_000


@dataclass(frozen=True, slots=True)
class Reporter:
    settings: ReportSettings
    feature_names: tuple[str, ...]

    async def report(
        self, reference: NDArray[np.float64], current: NDArray[np.float64], out: Path
    ) -> dict[str, int | str]:
        """Compare (rows, features) arrays; files go to ``out``. The answer is fit for the ledger."""
        if not len(reference) or not len(current):
            return {"report": "no_rows"}
        word = await self._run(self._written(reference, current, out), out)
        return {"report": word} if word != "made" else self._summary(out)

    def _written(self, reference: NDArray[np.float64], current: NDArray[np.float64], out: Path) -> Path:
        out.mkdir(parents=True, exist_ok=True)
        rows = out / "rows.npz"
        np.savez(rows, reference=reference, current=current, names=np.array(self.feature_names))
        return rows

    def _summary(self, out: Path) -> dict[str, int | str]:
        html = (out / "report.html.gz").read_bytes()
        drifted = json.loads((out / "scores.json").read_text())["drifted"]
        return {
            "report": "made",
            "report_sha256": hashlib.sha256(html).hexdigest(),
            "report_drifted_columns": int(drifted.get("count", 0)),
            "report_columns": len(self.feature_names),
        }

    async def _run(self, rows: Path, out: Path) -> str:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "controlplane.drift.report",
            str(rows),
            str(out),
            str(self.settings.memory_bytes),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "DO_NOT_TRACK": "1"},
        )
        try:
            async with asyncio.timeout(self.settings.timeout_s):
                _, complaint = await process.communicate()
        except TimeoutError:
            return "timeout"
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            (out / "failure.txt").write_bytes(complaint[-COMPLAINT_BYTES:])
            return "failed"
        return "made"
