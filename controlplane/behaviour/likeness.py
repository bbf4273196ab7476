"""How like a call is to what its agent has asked before. Pure; no model: words are hashed into a vector.

What it sees: which resource and operation, which names of arguments, which words and pairs of words in the task or the
arguments. What it cannot see: meaning (a paraphrase is unlike, an instruction in familiar words is like), order beyond
pairs, numbers as quantities, anything after the first ``MAX_CHARS`` characters, or an agent whose reference was itself
shaped by whoever misuses it. So it may ask for a fresh proof of who is there; it is no detector of attacks.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

import msgspec
import numpy as np
from numpy.typing import NDArray

from controlplane.calls import Call
from controlplane.policy.behaviour import ContextRule

Vector = NDArray[np.float32]

DIMENSIONS = 512
KEPT_CALLS = 64  # vectors of an agent: 128 KiB
KEPT_SCORES = 2000
RECOMPUTED_EVERY = 25
MAX_CHARS, MAX_WORDS, MAX_BODY_BYTES = 2000, 96, 262_144
RESOURCE_WEIGHT = 2.0  # which tool is asked says as much as several words

_WORD = re.compile(r"\w+")


class _Message(msgspec.Struct):
    role: str = ""
    content: Any = None


class _Asked(msgspec.Struct):
    """The fields in which requests of models carry their text."""

    messages: list[_Message] = []
    prompt: Any = None
    input: Any = None
    query: Any = None


_read = msgspec.json.Decoder(_Asked).decode


def task_of(call: Call) -> str:
    """The words of what is asked: of a conversation the last message of its user, of a tool its arguments."""
    if not call.resource.startswith("/model/"):
        return " ".join(_texts(call.arguments, MAX_CHARS))[:MAX_CHARS]
    if len(call.body) > MAX_BODY_BYTES:
        return ""
    try:
        asked = _read(call.body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""  # rows of numbers, or a protocol without text
    said = next((one.content for one in reversed(asked.messages) if one.role == "user"), None)
    return " ".join(_texts([said, asked.prompt, asked.input, asked.query], MAX_CHARS))[:MAX_CHARS]


def _texts(value: Any, left: int) -> Iterator[str]:
    """Strings and names in ``value``, until there are ``left`` characters."""
    waiting = [value]
    while waiting and left > 0:
        one = waiting.pop()
        if isinstance(one, str):
            yield one[:left]
            left -= len(one) + 1
        elif isinstance(one, dict):
            waiting += [part for pair in reversed(one.items()) for part in (pair[1], pair[0])]
        elif isinstance(one, list | tuple):
            waiting += reversed(one)


def embed(call: Call) -> Vector:
    """A unit vector: hashed words and pairs of words, signed so that collisions cancel out on average."""
    words = [word.lower() for word in _WORD.findall(task_of(call))[:MAX_WORDS]]
    vector = np.zeros(DIMENSIONS, np.float32)
    for feature in (*words, *map(" ".join, itertools.pairwise(words))):
        _put(vector, feature, 1.0)
    length = float(np.linalg.norm(vector))
    if length:
        vector /= length
    for feature in (f"resource:{call.resource}", f"operation:{call.action}:{call.operation}"):
        _put(vector, feature, RESOURCE_WEIGHT / 4)
    length = float(np.linalg.norm(vector))
    if not length:  # of a resource in a thousand the features cancel out, and without words nothing is left
        vector[0] = length = 1.0
    return vector / np.float32(length)


def _put(vector: Vector, feature: str, weight: float) -> None:
    number = crc32(feature.encode())
    vector[number % DIMENSIONS] += weight if number & 0x8000_0000 else -weight


@dataclass(slots=True)
class Reference:
    """What one agent has asked before, as one rule remembers it. Bounded: some vectors, and how like its calls were."""

    vectors: Vector = field(default_factory=lambda: np.zeros((KEPT_CALLS, DIMENSIONS), np.float32))
    scores: Vector = field(default_factory=lambda: np.zeros(KEPT_SCORES, np.float32))
    seen: int = 0
    threshold: float = -1.0
    unlike: int = 0  # calls in a row
    suspect_until_s: float = 0.0

    def likeness(self, vector: Vector) -> float:
        """The cosine to the most similar call that is remembered; 1 where there is none."""
        known = min(self.seen, KEPT_CALLS)
        return float((self.vectors[:known] @ vector).max()) if known else 1.0

    def limit(self, rule: ContextRule) -> float:
        """The likeness below which a call is unlike."""
        return self.threshold if rule.below is None else rule.below

    def judges(self, rule: ContextRule, likeness: float, now_s: float) -> bool:
        """Whether the rule answers this call: for itself, or because its agent is suspect since an earlier one."""
        if self.seen < rule.learn_calls:
            return False
        self.unlike = self.unlike + 1 if likeness < self.limit(rule) else 0
        if self.unlike >= rule.in_a_row:
            self.suspect_until_s = now_s + rule.hold_s
            return True
        return now_s < self.suspect_until_s

    def trust(self) -> None:
        """Whoever is there has proven it."""
        self.unlike, self.suspect_until_s = 0, 0.0

    def learn(self, rule: ContextRule, vector: Vector, likeness: float) -> None:
        """The vectors are a sample of all calls so far: each new one takes a place with a chance of 64 in so many."""
        place = self.seen if self.seen < KEPT_CALLS else (self.seen * 2_654_435_761 & 0xFFFF_FFFF) % (self.seen + 1)
        if place < KEPT_CALLS:
            self.vectors[place] = vector
        self.scores[self.seen % KEPT_SCORES] = likeness
        self.seen += 1
        if self.seen >= rule.learn_calls and (self.seen % RECOMPUTED_EVERY == 0 or self.threshold < 0):
            known = self.scores[: min(self.seen, KEPT_SCORES)]
            rank = int(rule.quantile * len(known))
            self.threshold = float(np.partition(known, rank)[rank])
