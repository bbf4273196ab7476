"""What a caller may ask of a model that it leaves to us to choose: ``auto:chat?language=nb&max_latency_ms=200``.

Read from the model's name, and from a header with commas between (``language=nb,max_latency_ms=200``). A constraint
that is not understood refuses the call: a limit that is silently dropped is worse than none. What a card does not say
does not meet a constraint on it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from inference.selection.candidates import Candidate

AUTO = "auto:"
MAX_CHARS = 512
TASK = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", re.ASCII)
WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}", re.ASCII)
ALTERNATIVES = "|"


class ConstraintError(ValueError):
    """``reason``: ``auto_task_unreadable``, ``auto_constraint_unknown`` or ``auto_constraint_unreadable``."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


OfCard = Callable[[Candidate], bool]
OfOffer = Callable[[float, float | None, float], bool]
"""(accuracy now, latency now in ms or None: unknown, price of this call in US dollars) → whether that will do."""


@dataclass(frozen=True, slots=True)
class Constraints:
    """``standing`` looks at cards alone and is the same for every call, ``moving`` at what changes with each.

    ``text`` says the same in one way of writing: by name, in order.
    """

    text: str = ""
    standing: tuple[OfCard, ...] = ()
    moving: tuple[OfOffer, ...] = ()

    def admits(self, candidate: Candidate) -> bool:
        return all(test(candidate) for test in self.standing)

    def met_by(self, quality: float, latency_ms: float | None, price_usd: float) -> bool:
        for test in self.moving:  # noqa: SIM110  all() takes twice as long, and every candidate is asked
            if not test(quality, latency_ms, price_usd):
                return False
        return True


NO_CONSTRAINTS = Constraints()


@dataclass(frozen=True, slots=True)
class Wish:
    task: str
    constraints: Constraints = NO_CONSTRAINTS


@lru_cache(maxsize=1024)
def read_wish(name: str, header: str = "") -> Wish:
    """``name`` is the model asked for, beginning with ``auto:``. Raises ``ConstraintError``."""
    task, _, query = name.removeprefix(AUTO).partition("?")
    if not TASK.fullmatch(task):
        raise ConstraintError("auto_task_unreadable", "the model is auto:<task>, a task being one plain word")
    if len(name) + len(header) > MAX_CHARS:
        raise ConstraintError("auto_constraint_unreadable", f"constraints are longer than {MAX_CHARS} characters")
    said: dict[str, str] = {}
    for part in filter(None, (one.strip() for one in [*query.split("&"), *header.split(",")])):
        key, _, value = part.partition("=")
        key, value = key.strip(), value.strip()
        if key in said and said[key] != value:
            raise ConstraintError("auto_constraint_unreadable", f"{key} is given twice")
        said[key] = value
    unknown = sorted(said.keys() - STANDING.keys() - MOVING.keys())
    if unknown:
        known = ", ".join(sorted([*STANDING, *MOVING]))
        raise ConstraintError("auto_constraint_unknown", f"{unknown[0][:64]!r} is no constraint; there are {known}")
    standing = tuple(STANDING[key](key, value) for key, value in said.items() if key in STANDING)
    moving = tuple(MOVING[key](key, value) for key, value in said.items() if key in MOVING)
    return Wish(task, Constraints("&".join(f"{key}={said[key]}" for key in sorted(said)), standing, moving))


def _number(key: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise ConstraintError("auto_constraint_unreadable", f"{key} needs a number, not {value[:64]!r}")
    return number


def _words(key: str, value: str) -> frozenset[str]:
    words = [word.strip().casefold() for word in value.split(ALTERNATIVES)]
    if not all(WORD.fullmatch(word) for word in words):
        raise ConstraintError("auto_constraint_unreadable", f"{key} needs words, with {ALTERNATIVES} between")
    return frozenset(words)


def _language(key: str, value: str) -> OfCard:
    """``nb`` is met by ``nb`` and by ``nb-NO``: a region narrows a language (RFC 4647 §3.3.1, basic filtering)."""
    wanted = _words(key, value)

    def speaks(candidate: Candidate) -> bool:
        tags = [tag.casefold() for tag in candidate.card.languages]
        return any(tag == want or tag.startswith(want + "-") for tag in tags for want in wanted)

    return speaks


def _one_of(read: Callable[[Candidate], str | None]) -> Callable[[str, str], OfCard]:
    def make(key: str, value: str) -> OfCard:
        wanted = _words(key, value)
        return lambda candidate: (read(candidate) or "").casefold() in wanted

    return make


def _has(read: Callable[[Candidate], list[str]]) -> Callable[[str, str], OfCard]:
    def make(key: str, value: str) -> OfCard:
        wanted = _words(key, value)
        return lambda candidate: not wanted.isdisjoint(word.casefold() for word in read(candidate))

    return make


def _context(key: str, value: str) -> OfCard:
    least = _number(key, value)
    return lambda candidate: (candidate.card.context_tokens or 0) >= least


def _latency(key: str, value: str) -> OfOffer:
    most = _number(key, value)
    return lambda _, latency_ms, __: latency_ms is not None and latency_ms <= most


def _price(key: str, value: str) -> OfOffer:
    most = _number(key, value)
    return lambda _, __, price_usd: price_usd <= most


def _quality(key: str, value: str) -> OfOffer:
    least = _number(key, value)
    return lambda quality, _, __: quality >= least


STANDING: dict[str, Callable[[str, str], OfCard]] = {
    "language": _language,
    "licence": _one_of(lambda candidate: candidate.card.licence),
    "tier": _one_of(lambda candidate: candidate.card.tier),
    "modality": _has(lambda candidate: list(candidate.card.modalities)),
    "tag": _has(lambda candidate: candidate.card.tags),
    "min_context_tokens": _context,
}
MOVING: dict[str, Callable[[str, str], OfOffer]] = {
    "max_latency_ms": _latency,
    "max_price_usd": _price,
    "min_quality": _quality,
}
