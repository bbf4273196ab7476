"""Metric families whose label values are bounded, so that nobody outside can invent series without end.

A label's first values, up to its cap, have series of their own. Later ones share the value ``_other`` and are counted
by label. Children are looked up once and kept; a value over the cap is never kept.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Generic

from controlplane.telemetry.series import Labelled, Level, S

OTHER = "_other"
NOTHING = "none"  # an empty label value is the same as no label to Prometheus
LONGEST_VALUE = 128


class LabelBounds:
    """Which values of which label are known. Not locked: a race may let one value too many in, which is harmless."""

    def __init__(self, cap_of: Callable[[str], int], overflowed: Callable[[str], None]) -> None:
        self._cap_of, self._overflowed = cap_of, overflowed
        self._known: defaultdict[str, set[str]] = defaultdict(set)

    def bound(self, label: str, value: str) -> str:
        value = value or NOTHING
        known = self._known[label]
        if value in known:
            return value
        if len(known) < self._cap_of(label) and len(value) <= LONGEST_VALUE:
            known.add(value)
            return value
        self._overflowed(label)
        return OTHER


class Family(dict[str | tuple[str, ...], S], Generic[S]):
    """One metric with its labels: its series by their values, in the order of ``labels``, or by the one value where
    there is one label. A ``dict``, so that finding a series that is known costs a call nothing but the look.
    """

    def __init__(self, metric: Labelled[S], labels: tuple[str, ...], bounds: LabelBounds) -> None:
        super().__init__()
        self.metric: Labelled[S] = metric
        self.labels, self._bounds = labels, bounds

    def child(self, *values: str) -> S:
        return self[values]

    def has_room_for(self, key: str) -> bool:
        """Whether ``key``, a value of the first label, has series of its own."""
        return self._bounds.bound(self.labels[0], key) != OTHER

    def __missing__(self, key: str | tuple[str, ...]) -> S:
        values = (key,) if isinstance(key, str) else key
        bounded = tuple(self._bounds.bound(*pair) for pair in zip(self.labels, values, strict=True))
        child: S = self.metric.labels(*bounded)
        if bounded == values:
            self[key] = child
        return child


class States:
    """A gauge with labels (key, ``state``): 1 for the state that a key is in, 0 for those it was in before."""

    def __init__(self, family: Family[Level]) -> None:
        self._family = family
        self._current: dict[str, str] = {}

    def enter(self, key: str, state: str) -> str | None:
        """The state it was in, None when none was told yet. A key over the cap has no state of its own."""
        if not self._family.has_room_for(key):
            return None
        before = self._current.get(key)
        self._current[key] = state
        if before is not None and before != state:
            self._family.child(key, before).set(0)
        self._family.child(key, state).set(1)
        return before
