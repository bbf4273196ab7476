from __future__ import annotations

import signal
import subprocess
import sys

import pytest

PARENT = """
import subprocess, sys
subprocess.Popen([sys.executable, "-m", "controlplane.retraining.limited", str(2**30), sys.executable, "-c",
    "import subprocess, sys; subprocess.run([sys.executable, '-c', "
    "'import signal; print(1, flush=True); signal.pause()'])"])
sys.stdin.read()
"""


def limited(code: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "controlplane.retraining.limited", str(2**30), sys.executable, "-c", code, *arguments]


def test_a_killed_monitor_leaves_no_trainer_behind_and_nothing_that_it_started() -> None:
    """They hold the pipe's other end: the pipe ends when the last of them does."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"1\n"
        parent.kill()
        assert parent.communicate(timeout=60)[0] == b"", "a missing end is a failure, not a hang"


def test_the_program_runs_with_its_arguments_and_its_limit() -> None:
    code = "import resource, sys; print(resource.getrlimit(resource.RLIMIT_AS)[0], sys.argv[1:])"
    assert subprocess.check_output(limited(code, "a b"), text=True).strip() == f"{2**30} ['a b']"


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL, signal.SIGTERM, signal.SIGABRT])
def test_it_is_killed_by_what_killed_the_program(number: int) -> None:
    code = f"import os; os.kill(os.getpid(), {int(number)})"
    assert subprocess.run(limited(code), check=False).returncode == -number


@pytest.mark.parametrize("status", [0, 3])
def test_it_ends_as_the_program_ends(status: int) -> None:
    assert subprocess.run(limited(f"raise SystemExit({status})"), check=False).returncode == status
