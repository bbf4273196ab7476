"""Become another program within limits: ``python -m controlplane.retraining.limited BYTES COMMAND…``.

Limits are set here, in a fresh process, and not between fork and exec of a threaded one, where Python code may
deadlock. The program dies with the process that started it, so that a killed monitor leaves no trainer behind.
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
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before we asked to be told
            os._exit(1)
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.execvp(command[0], command)  # noqa: S606 - the operator's own command, no shell


if __name__ == "__main__":
    main(sys.argv[1:])
