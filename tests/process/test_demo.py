"""The demo is a promise to newcomers: it runs from beginning to end, and everything it claims holds."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIMIT_S = 900  # the demo gives each of its parts 180 s to start and the loop 300 s; usually all of it takes 15


def test_the_whole_demo_holds(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "examples.demo", "--folder", str(tmp_path / "demo")]
    demo = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        said, _ = demo.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        demo.send_signal(signal.SIGTERM)  # it stops its parts
        said, _ = demo.communicate(timeout=60)
        pytest.fail(f"not done after {LIMIT_S} s:\n{said}")
    assert demo.returncode == 0, said
    assert "✗" not in said
    held = re.search(r"All (\d+) checks held", said)
    assert held is not None, said
    assert int(held[1]) == said.count("✓") >= 15
