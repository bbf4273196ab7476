"""Leaving when told to, also where a library forgot to pass it on."""

from __future__ import annotations

import asyncio


def leave_if_told_to() -> None:
    """Raises ``CancelledError`` when the task was cancelled and nobody has heard of it.

    ``asyncio.wait_for`` of Python 3.11, by which PostgreSQL's client waits, loses a cancellation that comes together
    with what it waits for. Whoever asks through it for ever MUST look here now and then.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
