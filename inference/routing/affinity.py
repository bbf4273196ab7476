"""Which replica has seen the beginning of a prompt before. Approximate, bounded, and never a reason to be wrong.

The text is cut into blocks; a block's key covers all before it, the tenant and the model, as a server's prefix cache
does. Blocks grow with the distance from the beginning: a bounded number of them tells short prompts apart by their
sentences and long conversations by their pages. Python's own hash is enough: it is keyed for each process, and a
collision costs a cache miss, nothing else.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import accumulate
from typing import NamedTuple

from inference.backend import BackendRequest
from inference.routing.settings import AffinitySettings

STARTS = (b'"messages"', b'"prompt"', b'"input"')
BLOCKS_OF_A_SIZE = 8  # then the size doubles; 48 blocks from 256 bytes on reach 126 KiB into a prompt
SEARCHED_BYTES = 4096
"""Where the prompt may begin in a body; what stands before it (model, options) may differ from call to call."""


class Match(NamedTuple):
    """``replicas``: bits of those that know the longest beginning; ``ratio``: how much of the prompt that is."""

    replicas: int
    ratio: float


NO_MATCH = Match(0, 0.0)


def prompt_start(body: bytes) -> int:
    for word in STARTS:
        found = body.find(word, 0, SEARCHED_BYTES)
        if found >= 0:
            return found + len(word)
    return 0


class PrefixMemory:
    """Keys of blocks → the replicas that were sent them, as bits. Each replica forgets its oldest blocks."""

    def __init__(self, settings: AffinitySettings, replicas: int) -> None:
        self._room = settings.remembered_blocks
        sizes = [settings.block_bytes << number // BLOCKS_OF_A_SIZE for number in range(settings.blocks)]
        self._ends = list(accumulate(sizes))
        self._knowing: dict[int, int] = {}
        self._recent: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(replicas)]

    def keys(self, request: BackendRequest) -> list[int]:
        """One key for each whole leading block. Work is bounded by ``blocks``, whatever the body's size."""
        body = request.body
        start = prompt_start(body)
        length = len(body) - start
        key = hash((request.tenant, request.target, request.version, request.operation))
        keys, at = [], 0
        for end in self._ends:
            if end > length:
                break
            key = hash((key, body[start + at : start + end]))
            keys.append(key)
            at = end
        return keys

    def match(self, keys: list[int]) -> Match:
        known, best, depth = -1, 0, 0
        for key in keys:
            known &= self._knowing.get(key, 0)
            if not known:
                break
            best, depth = known, depth + 1
        return Match(best, self._ends[depth - 1] / self._ends[len(keys) - 1]) if depth else NO_MATCH

    def remember(self, keys: list[int], number: int) -> None:
        """Replica ``number`` is sent this prompt. The first blocks are touched last, so that they are kept longest."""
        recent, bit, knowing = self._recent[number], 1 << number, self._knowing
        for key in reversed(keys):
            if key in recent:
                recent.move_to_end(key)
            else:
                recent[key] = None
                knowing[key] = knowing.get(key, 0) | bit
        while len(recent) > self._room:
            self._drop(recent.popitem(last=False)[0], bit)

    def forget(self, number: int) -> None:
        """The replica is out: it may come back with an empty cache."""
        recent, self._recent[number] = self._recent[number], OrderedDict()
        for key in recent:
            self._drop(key, 1 << number)

    def _drop(self, key: int, bit: int) -> None:
        if left := self._knowing[key] & ~bit:
            self._knowing[key] = left
        else:
            del self._knowing[key]
