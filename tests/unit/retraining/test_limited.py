from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

PARENT = """
import os, subprocess, sys
subprocess.Popen([sys.executable, "-m", "controlplane.retraining.limited", str(os.getpid()), str(2**30),
    sys.executable, "-c", "import subprocess, sys; subprocess.run([sys.executable, '-c', "
    "'import signal; signal.alarm(300); print(1, flush=True); signal.pause()'])"])
"""
TOLD_TOO_SOON = """
import ctypes, functools, operator, os, runpy, signal, sys
waitpid, say = os.waitpid, ctypes.CDLL(None)["raise"]

def just_after_the_signal(*arguments):  # no line of Python between them, so that no handler can run
    both = functools.partial(say, signal.SIGTERM), functools.partial(waitpid, *arguments)
    return list(map(operator.call, both))[-1]

os.waitpid = just_after_the_signal
sys.argv[1:] = [str(os.getppid()), str(2**30), sys.executable, "-c", "import signal; signal.alarm(300); signal.pause()"]
runpy.run_module("controlplane.retraining.limited", run_name="__main__")
"""


def limited(code: str, *arguments: str) -> list[str]:
    command = [sys.executable, "-m", "controlplane.retraining.limited", str(os.getpid()), str(2**30)]
    return [*command, sys.executable, "-c", code, *arguments]


def test_a_killed_monitor_leaves_no_trainer_behind_and_nothing_that_it_started() -> None:
    """They hold the pipe's other end: the pipe ends when the last of them does."""
    lives_on = PARENT + "sys.stdin.read()"
    parent = subprocess.Popen([sys.executable, "-c", lives_on], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"1\n"
        parent.kill()
        assert parent.communicate(timeout=60)[0] == b"", "a missing end is a failure, not a hang"


def test_a_monitor_that_is_dead_before_its_guardian_looks_leaves_no_trainer_behind() -> None:
    dies_at_once = PARENT + "os._exit(0)"
    done = subprocess.run([sys.executable, "-c", dies_at_once], stdout=subprocess.PIPE, timeout=60, check=True)
    assert done.stdout == b"", "a trainer began that nobody waits for"


def test_a_monitor_that_dies_just_before_its_guardian_waits_leaves_no_trainer_behind() -> None:
    assert subprocess.run([sys.executable, "-c", TOLD_TOO_SOON], timeout=60, check=False).returncode == -signal.SIGKILL


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
