"""The example's trainer, which first waits to be killed: ``python -m … rows ROWS OUT``. Started again, it trains."""

from __future__ import annotations

import runpy
import signal
import sys
from pathlib import Path


def begun_in(folder: Path) -> Path:
    """Is there when the first one is at work."""
    return folder / "trainer-has-begun"


if __name__ == "__main__":
    begun = begun_in(Path(sys.argv[2]).parents[4])  # ROWS is FOLDER/models/MODEL/.candidates/JOB/rows.npz
    if not begun.exists():
        begun.touch()
        signal.pause()
    runpy.run_module("examples.risk_model.train", run_name="__main__")
