"""Whether a replica still moves: what it owes us, and when it last paid anything of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Progress:
    """Counts only waits for the replica: while a caller reads slowly, the replica owes nothing."""

    owed: int = 0  # waits for a head or for a chunk under way now
    last_s: float = 0.0  # of progress, or of the first wait after a time without any

    def owe(self, now_s: float) -> None:
        if not self.owed:
            self.last_s = now_s
        self.owed += 1

    def pay(self, now_s: float) -> None:
        self.owed -= 1
        self.last_s = now_s

    def forgive(self) -> None:
        """A wait ended without the replica's doing: the caller left, or the call was moved."""
        self.owed -= 1

    def note(self, now_s: float) -> None:
        """Progress seen by other means: a probe's answer, a counter that moved."""
        self.last_s = now_s

    def stalled_s(self, now_s: float) -> float:
        """Seconds for which it has moved nothing that it owes; 0 while it owes nothing."""
        return now_s - self.last_s if self.owed else 0.0
