"""How busy this machine is, from what the kernel says: of the CPU time that is ours to use, the share in use."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from controlplane.adaptation.engine import Readings
from controlplane.adaptation.signals import GATEWAY, Subject

QUOTA, USAGE, MACHINE = "/sys/fs/cgroup/cpu.max", "/sys/fs/cgroup/cpu.stat", "/proc/stat"
IDLE_FIELDS = slice(3, 5)  # idle and iowait of the line `cpu` in /proc/stat
COUNTED_FIELDS = 8  # guest time stands in user time already
MICROSECONDS = 1_000_000


@dataclass(frozen=True, slots=True)
class Used:
    """CPU seconds used and to be had, both since some moment of the past."""

    busy_s: float
    total_s: float


def _text(path: str) -> str:
    return Path(path).read_text("ascii")


class CpuMeter:
    """A ``Source``: the share between two readings, so the first one knows nothing. ``read`` gives a file's text."""

    def __init__(self, read: Callable[[str], str] = _text) -> None:
        self._read = read
        self._before: Used | None = None

    def __call__(self, now_s: float) -> Mapping[Subject, Readings]:
        used, before = self._used(now_s), self._before
        self._before = used
        if before is None or used.total_s <= before.total_s:
            return {}
        ratio = (used.busy_s - before.busy_s) / (used.total_s - before.total_s)
        return {GATEWAY: {"cpu_ratio": min(1.0, max(0.0, ratio))}}

    def _used(self, now_s: float) -> Used:
        """A container's own quota where it has one; the machine's CPU otherwise."""
        try:
            quota_us, period_us = self._read(QUOTA).split()
            if quota_us != "max":
                usage = dict(line.split() for line in self._read(USAGE).splitlines())
                return Used(int(usage["usage_usec"]) / MICROSECONDS, now_s * int(quota_us) / int(period_us))
        except (OSError, KeyError, ValueError):
            pass  # no second version of control groups here: the machine's own figures are what there is
        ticks = [int(field) for field in self._read(MACHINE).splitlines()[0].split()[1 : COUNTED_FIELDS + 1]]
        per_s = os.sysconf("SC_CLK_TCK")
        return Used((sum(ticks) - sum(ticks[IDLE_FIELDS])) / per_s, sum(ticks) / per_s)
