"""How the story looks in a terminal: chapters, facts, and checks that count."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass, field

PLAIN = not sys.stdout.isatty() or "NO_COLOR" in os.environ


def _colour(code: str, text: str) -> str:
    return text if PLAIN else f"\033[{code}m{text}\033[0m"


@dataclass
class Terminal:
    """Prints as things happen; remembers which checks failed."""

    started_s: float = field(default_factory=time.monotonic)
    passed: int = 0
    failed: list[str] = field(default_factory=list)
    _progress_width: int = 0

    def chapter(self, title: str) -> None:
        elapsed = f"{time.monotonic() - self.started_s:5.0f} s"
        print(f"\n{_colour('1;36', title)}  {_colour('2', elapsed)}", flush=True)

    def say(self, text: str) -> None:
        self._clear()
        print(f"  {text}", flush=True)

    def detail(self, text: str) -> None:
        self._clear()
        print(_colour("2", f"    {text}"), flush=True)

    def check(self, holds: bool, claim: str) -> None:
        self._clear()
        if holds:
            self.passed += 1
        else:
            self.failed.append(claim)
        mark = _colour("32", "✓") if holds else _colour("1;31", "✗")
        print(f"  {mark} {claim}", flush=True)

    def progress(self, text: str) -> None:
        """A line that the next line replaces; in a log file it is left out."""
        if not PLAIN:
            print(f"\r  … {text.ljust(self._progress_width)}", end="", flush=True)
            self._progress_width = len(text)

    def _clear(self) -> None:
        if self._progress_width:
            print("\r" + " " * (self._progress_width + 6) + "\r", end="")
            self._progress_width = 0

    def verdict(self) -> int:
        """The exit status: 0 only if every check held."""
        seconds = time.monotonic() - self.started_s
        print()
        if self.failed:
            print(_colour("1;31", f"{len(self.failed)} of {self.passed + len(self.failed)} checks failed:"))
            for claim in self.failed:
                print(f"  ✗ {claim}")
            return 1
        print(_colour("1;32", f"All {self.passed} checks held in {seconds:.0f} s."))
        return 0
