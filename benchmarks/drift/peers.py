"""Peers in environments of their own, made on first use; one that cannot be had is named with the reason."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.drift.streams import Rows

ROOT = Path(__file__).parents[2]
PEER = Path(__file__).with_name("peer.py")
TIMEOUT_S = 900
# Exact versions: figures of a peer are figures of a version.
ENVIRONMENTS: dict[str, Sequence[str]] = {
    "river": ("river==0.26.1",),
    "nannyml": ("nannyml==0.13.1", "statsmodels==0.15.0"),  # it imports statsmodels without asking for it
}
ENVIRONMENT_OF = {"adwin": "river", "errors": "river", "nannyml": "nannyml", "evidently": None}


@dataclass(slots=True)
class Answer:
    alarms: dict[str, list[int]]
    cpu_s: float


@dataclass(slots=True)
class Peers:
    """Ask ``alarms``; ``absent`` has why a peer did not answer."""

    absent: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def alarms(self, name: str, pairs: Sequence[tuple[Rows, Rows]]) -> list[Answer]:
        """What the peer says of each (reference, current); nothing when it is absent."""
        if name in self.absent:
            return []
        python = self._python(ENVIRONMENT_OF[name])
        with tempfile.TemporaryDirectory() as folder:
            rows, out = Path(folder) / "rows.npz", Path(folder) / "out.json"
            arrays = {f"reference{i}": reference for i, (reference, _) in enumerate(pairs)}
            np.savez(rows, **arrays, **{f"current{i}": current for i, (_, current) in enumerate(pairs)})
            try:
                command = [str(python), str(PEER), name, str(rows), str(out)]
                subprocess.run(command, check=True, capture_output=True, timeout=TIMEOUT_S, cwd=folder)
            except (OSError, subprocess.SubprocessError) as error:
                self.absent[name] = _reason(error)
                return []
            told = json.loads(out.read_text())
        self.versions[name] = told["version"]
        return [Answer(**answer) for answer in told["answers"]]

    def _python(self, environment: str | None) -> Path:
        if environment is None:
            return Path(sys.executable)
        folder = ROOT / f".venv-{environment}"
        python = folder / "bin" / "python"
        if not python.exists():
            uv = str(Path(sys.executable).with_name("uv"))
            try:
                subprocess.run([uv, "venv", "-q", "-p", sys.executable, str(folder)], check=True, capture_output=True)
                install = [uv, "pip", "install", "-q", "--python", str(python), *ENVIRONMENTS[environment]]
                subprocess.run(install, check=True, capture_output=True)
            except (OSError, subprocess.SubprocessError) as error:
                self.absent[environment] = _reason(error)
        return python


def _reason(error: Exception) -> str:
    said = getattr(error, "stderr", None) or b""
    lines = said.decode(errors="replace").strip().splitlines()
    return lines[-1][:200] if lines else str(error)[:200]
