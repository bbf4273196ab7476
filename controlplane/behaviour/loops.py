"""Whether an agent asks the same again and again: one call, or a few in turn (ABAB). Pure and bounded.

What is compared are digests of what is asked. They differ from process to process, so that nobody can make two calls
look alike, and a restart forgets them: a loop that goes on is found again.
"""

from __future__ import annotations

from collections import deque

import msgspec

from controlplane.calls import Call
from controlplane.policy.behaviour import Cycle

REMEMBERED = 256
"""Calls of a run that are remembered; more than any rule may ask for."""

_encode = msgspec.json.Encoder(order="sorted").encode


def digest_of(call: Call) -> int:
    """The same number for the same call. A model reads the body. A tool reads its arguments, and around them an MCP
    message has a number that is new each time."""
    if call.resource.startswith("/model/"):
        return hash((call.action, call.resource, call.operation, call.body))
    return hash((call.action, call.resource, call.operation, _encode(call.arguments)))


class Recent:
    """The last calls of one run or session."""

    __slots__ = ("calls", "counts")

    def __init__(self) -> None:
        self.calls: deque[int] = deque()
        self.counts: dict[int, int] = {}

    def add(self, digest: int) -> None:
        self.calls.append(digest)
        self.counts[digest] = self.counts.get(digest, 0) + 1
        if len(self.calls) > REMEMBERED:
            oldest = self.calls.popleft()
            self.counts[oldest] -= 1
            if not self.counts[oldest]:
                del self.counts[oldest]

    def same(self, digest: int) -> int:
        """How often this very call is among them."""
        return self.counts.get(digest, 0)

    def cycle(self, cycle: Cycle) -> int:
        """The number of calls in turn that the last ones repeat, ``cycle.times`` times; 0 when they do not.

        One call alone is no turn: ``same`` counts it.
        """
        calls = self.calls
        for length in range(2, cycle.longest + 1):
            wanted = length * cycle.times
            if len(calls) < wanted:
                break  # and for longer turns there are still fewer
            if calls[-1] != calls[-1 - length]:
                continue
            last = [calls[index] for index in range(-wanted, 0)]
            turn = last[:length]
            if last == turn * cycle.times and len(set(turn)) > 1:
                return length
        return 0
