from __future__ import annotations

import subprocess
import sys

PARENT = """
import subprocess, sys
subprocess.Popen([sys.executable, "-m", "controlplane.retraining.limited", str(2**30), sys.executable, "-c",
    "import signal; print('ready', flush=True); signal.pause()"])
sys.stdin.read()
"""


def test_a_killed_monitor_leaves_no_trainer_behind() -> None:
    """The trainer holds the pipe's other end: the pipe ends when the trainer does."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        parent.kill()
        assert parent.stdout.read() == b""


def test_the_program_runs_with_its_arguments_and_its_limit() -> None:
    code = "import resource, sys; print(resource.getrlimit(resource.RLIMIT_AS)[0], sys.argv[1:])"
    command = [sys.executable, "-m", "controlplane.retraining.limited", str(2**30), sys.executable, "-c", code, "a b"]
    assert subprocess.check_output(command, text=True).strip() == f"{2**30} ['a b']"
