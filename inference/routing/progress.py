"""Whether a replica still moves: what it owes us, and when it last paid anything of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Progress:
    """Counts only waits for the replica: while a caller reads slowly, the replica owes nothing."""

    owed: int = 0  # waits for a head or for a chunk under way now
    last_s: float = 0.0  # of progress, or of the first wait after everything had been paid
    has_unpaid: bool = False  # a wait ended without the replica's doing, and nothing has moved since

    def owe(self, now_s: float) -> None:
        """Callers who come and go, each before he is answered, must not make a frozen replica look new each time."""
        if not self.owed and not self.has_unpaid:
            self.last_s = now_s
        self.owed += 1

    def pay(self, now_s: float) -> None:
        self.owed -= 1
        self.last_s, self.has_unpaid = now_s, False

    def forgive(self) -> None:
        """A wait ended without the replica's doing: the caller left, or the call was moved."""
        self.owed -= 1
        self.has_unpaid = True

    def drop(self) -> None:
        """A wait ended, and it says nothing: a front can refuse a wrong request while the engine stands still."""
        self.owed -= 1

    def note(self, now_s: float) -> None:
        """Progress; also such as was seen by other means: a probe's answer, a counter that moved."""
        self.last_s, self.has_unpaid = now_s, False

    def stalled_s(self, now_s: float) -> float:
        """Seconds for which it has moved nothing that it owes or has left unpaid; 0 while there is nothing."""
        return now_s - self.last_s if self.owed or self.has_unpaid else 0.0
