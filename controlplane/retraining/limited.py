"""Run another program within limits: ``python -I -S limited.py BYTES COMMAND…``; ends as it ends.

Limits are set here, in a fresh process, and not between fork and exec of a threaded one, where Python code may
deadlock. This process stays beside the program as the leader of its group. When the process that started it dies, it
kills the group, so that a killed monitor leaves no trainer behind and nothing that the trainer started.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(arguments: list[str]) -> None:
    memory_bytes, command = int(arguments[0]), arguments[1:]
    parent = os.getppid()
    if os.getpgrp() != os.getpid():
        os.setsid()
    signal.signal(signal.SIGTERM, lambda *_: os.killpg(0, signal.SIGKILL))
    _be_told_of_the_end_of(parent, signal.SIGTERM)
    guardian, program = os.getpid(), os.fork()
    if program == 0:
        _be_told_of_the_end_of(guardian, signal.SIGKILL)
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.execvp(command[0], command)  # noqa: S606 - the operator's own command, no shell
    _, status = os.waitpid(program, 0)
    _end_as(os.waitstatus_to_exitcode(status))


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
