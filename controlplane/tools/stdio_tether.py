"""``python -m controlplane.tools.stdio_tether PARENT command args…`` becomes a command that cannot outlive its parent.

Runs between the bridge and a stdio server and replaces itself by the server, so the server stays unmodified: killed
with its parent (Linux), no new privileges through setuid programs, no core dumps, files private to us by default.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys

PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38  # linux/prctl.h
USAGE_ERROR = 64


def tether(parent: int) -> None:
    """Bind this process to ``parent``; exits at once if the parent has gone before we could."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.umask(0o077)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        for option, value in ((PR_SET_PDEATHSIG, signal.SIGKILL), (PR_SET_NO_NEW_PRIVS, 1)):
            if libc.prctl(option, value, 0, 0, 0) != 0:
                raise OSError(ctypes.get_errno(), f"prctl {option}")
    if os.getppid() != parent:
        sys.exit("the bridge has gone")


def main(arguments: list[str]) -> None:
    parent, *command = arguments
    tether(int(parent))
    try:
        os.execvp(command[0], command)  # noqa: S606  the registry names the program, no shell reads it
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")


if __name__ == "__main__":
    if len(sys.argv) < 3:  # noqa: PLR2004  the parent and at least a command
        sys.exit(USAGE_ERROR)
    main(sys.argv[1:])
