"""Whoever watches calls. Fails open: an observer that breaks is logged once and never breaks a call."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial

from controlplane.calls import Call, Decision, Principal, Receipt
from controlplane.gateway.gateway import Admission, Observer
from controlplane.gateway.outcome import Outcome

log = logging.getLogger(__name__)


class Observers:
    """Several observers as one; each sees every call even when another one breaks."""

    def __init__(self, watching: Sequence[Observer]) -> None:
        self.watching = watching
        self._complained: set[int] = set()

    def refused(self, call: Call, principal: Principal, decision: Decision, receipt: Receipt) -> None:
        for each in self.watching:
            self._guarded(each, partial(each.refused, call, principal, decision, receipt))

    def admitted(self, admission: Admission) -> None:
        for each in self.watching:
            self._guarded(each, partial(each.admitted, admission))

    def observe(self, admission: Admission, outcome: Outcome, *, recorded: bool) -> None:
        for each in self.watching:
            self._guarded(each, partial(each.observe, admission, outcome, recorded=recorded))

    def _guarded(self, each: Observer, tell: Callable[[], None]) -> None:
        try:
            tell()
        except Exception:
            if id(each) not in self._complained:
                self._complained.add(id(each))
                log.exception("an observer broke; calls go on", extra={"observer": type(each).__name__})
