"""Resource paths and the patterns that rules name them with.

Two wildcards, whole segments only: ``*`` is one segment, ``**`` at the end is one segment or more. Everything else
is literal: no regular expression, no backtracking, no ``:`` that means something.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_PATH_CHARS = 1024

# ASCII and an allow-list: control characters, '%', '\\' and look-alikes never reach a pattern or an upstream.
_PATH = re.compile(r"(?:/[A-Za-z0-9_.~@+=:-]+)+", re.ASCII)
_SEGMENT = re.compile(r"[A-Za-z0-9_.~@+=:-]+", re.ASCII)


class PatternError(ValueError):
    """A pattern outside the two-wildcard language."""


def is_valid_path(path: str) -> bool:
    """Whether ``path`` is absolute, made of plain segments, and says what it means (no empty or dot segments)."""
    if len(path) > MAX_PATH_CHARS or _PATH.fullmatch(path) is None:
        return False
    return not ("/." in path and any(segment in (".", "..") for segment in path.split("/")))


@dataclass(frozen=True, slots=True)
class Pattern:
    """``segments`` without the tail wildcard; ``has_tail`` says that one segment or more must follow."""

    text: str
    segments: tuple[str, ...]
    has_tail: bool
    is_literal: bool

    @classmethod
    def parse(cls, text: str) -> Pattern:
        if not text.startswith("/"):
            raise PatternError(f"{text!r} does not start with '/'")
        segments = text[1:].split("/")
        has_tail = segments[-1] == "**"
        if has_tail:
            segments.pop()
        for segment in segments:
            if segment != "*" and (segment in (".", "..") or not _SEGMENT.fullmatch(segment)):
                raise PatternError(f"{segment!r} in {text!r} is neither a plain segment, '*', nor a last '**'")
        return cls(text, tuple(segments), has_tail, not has_tail and "*" not in segments)

    def matches(self, path: str, segments: tuple[str, ...]) -> bool:
        """``segments`` are those of ``path``, split once per call and not once per rule."""
        if self.is_literal:
            return path == self.text
        size = len(self.segments)
        if len(segments) <= size if self.has_tail else len(segments) != size:
            return False
        return all(mine in ("*", theirs) for mine, theirs in zip(self.segments, segments, strict=False))

    def covers(self, other: Pattern) -> bool:
        """Whether every path that ``other`` matches is matched here as well."""
        mine, theirs = len(self.segments), len(other.segments)
        if self.has_tail:
            if theirs < mine or (theirs == mine and not other.has_tail):
                return False
        elif other.has_tail or mine != theirs:
            return False
        return all(a in ("*", b) for a, b in zip(self.segments, other.segments, strict=False))


def segments_of(path: str) -> tuple[str, ...]:
    return tuple(path[1:].split("/"))
