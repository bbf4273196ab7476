"""Time comes in as an argument everywhere; this is where it comes from."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Clock:
    """``wall`` in Unix seconds for people and tokens, ``monotonic`` in seconds for spans."""

    wall: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
