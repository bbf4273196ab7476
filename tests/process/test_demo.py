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


def up(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "examples.demo", "up", "--folder", str(folder)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_closed_terminal_leaves_nothing_behind_and_a_second_demo_takes_nothing_away(tmp_path: Path) -> None:
    folder = tmp_path / "up"
    first = up(folder)
    assert first.stdout is not None
    try:
        while "Stop with Ctrl-C" not in (line := first.stdout.readline()):
            assert line, "it ended"
        token = (folder / "operator.token").read_text()
        said, _ = up(folder).communicate(timeout=LIMIT_S)
        assert f"{folder} is in use" in said
        assert (folder / "operator.token").read_text() == token
    finally:
        first.send_signal(signal.SIGHUP)
        first.communicate(timeout=LIMIT_S)
    assert not [each for each in Path("/proc").glob("[0-9]*/cmdline") if str(folder) in words_of(each)]


def words_of(cmdline: Path) -> str:
    try:
        return cmdline.read_bytes().decode(errors="replace")
    except OSError:  # it has just ended
        return ""


def test_a_folder_that_no_demo_made_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    said, _ = up(tmp_path).communicate(timeout=LIMIT_S)
    assert "holds what no demo made" in said
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
