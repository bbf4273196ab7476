"""A stdio server dies with the bridge that started it, however the bridge dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the tether is a Linux promise")

SERVER = "import signal; print('up', flush=True); signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.pause()"
BRIDGE = f"""
import os, subprocess, sys, signal
tether = [sys.executable, "-m", "controlplane.tools.stdio_tether", str(os.getpid())]
subprocess.Popen([*tether, sys.executable, "-c", {SERVER!r}])
signal.pause()
"""


def test_a_killed_bridge_takes_its_stubborn_server_with_it() -> None:
    with subprocess.Popen([sys.executable, "-c", BRIDGE], stdout=subprocess.PIPE) as bridge:
        assert bridge.stdout is not None
        assert bridge.stdout.readline() == b"up\n"
        bridge.send_signal(signal.SIGKILL)
        assert bridge.communicate(timeout=60)[0] == b""  # the end of the pipe: nobody holds it any more


def test_a_server_whose_bridge_has_already_gone_never_starts() -> None:
    tether = [sys.executable, "-m", "controlplane.tools.stdio_tether", "1", sys.executable, "-c", "print('up')"]
    done = subprocess.run(tether, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, b"")


def test_a_program_that_is_not_there_is_named_in_one_line() -> None:
    command = [sys.executable, "-m", "controlplane.tools.stdio_tether", str(os.getpid()), "/nothing/such", "--flag"]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (1, b"/nothing/such: No such file or directory\n")
