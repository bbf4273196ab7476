"""Run another program within limits: ``python -I -S limited.py PARENT BYTES COMMAND…``; ends as it ends.

Limits are set here, in a fresh process, and not between fork and exec of a threaded one, where Python code may
deadlock. This process stays beside the program as the leader of its group. When PARENT, the process that started it,
dies, it kills the group, so that a killed monitor leaves no trainer behind and nothing that the trainer started. PARENT
is told and not asked for: it may be dead before anything here runs, and then the parent is another.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h
HEARD = {signal.SIGTERM, signal.SIGCHLD}


def main(arguments: list[str]) -> None:
    parent, memory_bytes, command = int(arguments[0]), int(arguments[1]), arguments[2:]
    if os.getpgrp() != os.getpid():
        os.setsid()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)
    _be_told_of_the_end_of(parent, signal.SIGTERM)
    guardian, program = os.getpid(), os.fork()
    if program == 0:
        _be_told_of_the_end_of(guardian, signal.SIGKILL)
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.execvp(command[0], command)  # noqa: S606 - the operator's own command, no shell
    status = _status_of(program)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    _end_as(os.waitstatus_to_exitcode(status))


def _status_of(program: int) -> int:
    """Its status when it has ended; until then whoever says SIGTERM ends the group.

    Signals are waited for and not handled: one that comes just before ``waitpid`` begins to wait would not wake it, and
    a handler in Python runs only when it has returned.
    """
    while True:
        ended, status = os.waitpid(program, os.WNOHANG)
        if ended:
            return status
        if signal.sigwait(HEARD) == signal.SIGTERM:
            os.killpg(0, signal.SIGKILL)


def _be_told_of_the_end_of(parent: int, word: signal.Signals) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, word)
        if os.getppid() != parent:  # it died before we asked to be told
            os._exit(1)


def _end_as(code: int) -> None:
    """With the program's status, or by the signal that killed it."""
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


if __name__ == "__main__":
    main(sys.argv[1:])
