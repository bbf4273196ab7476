"""Whoever watches calls. Fails open: an observer that breaks is logged once and never breaks a call."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from controlplane.calls import Call, Decision, Principal, Receipt
from controlplane.gateway.gateway import Admission, Observer
from controlplane.gateway.outcome import Outcome

log = logging.getLogger(__name__)


class Bystander:
    """To whom nothing matters. Who watches some of what happens derives from this, and is told of nothing else."""

    __slots__ = ()

    def refused(self, call: Call, principal: Principal, decision: Decision, receipt: Receipt) -> None:
        """See ``Observer``."""

    def admitted(self, admission: Admission) -> None:
        """See ``Observer``."""

    def observe(self, admission: Admission, outcome: Outcome, *, recorded: bool) -> None:
        """See ``Observer``."""


class Observers:
    """Several observers as one; each sees every call even when another one breaks."""

    def __init__(self, watching: Sequence[Observer]) -> None:
        self._refused = [each for each in watching if type(each).refused is not Bystander.refused]
        self._admitted = [each for each in watching if type(each).admitted is not Bystander.admitted]
        self._observe = [each for each in watching if type(each).observe is not Bystander.observe]
        self._complained: set[int] = set()

    def refused(self, call: Call, principal: Principal, decision: Decision, receipt: Receipt) -> None:
        for each in self._refused:
            try:
                each.refused(call, principal, decision, receipt)
            except Exception as error:  # noqa: BLE001  whatever broke, the call goes on
                self._complain(each, error)

    def admitted(self, admission: Admission) -> None:
        for each in self._admitted:
            try:
                each.admitted(admission)
            except Exception as error:  # noqa: BLE001  as above
                self._complain(each, error)

    def observe(self, admission: Admission, outcome: Outcome, *, recorded: bool) -> None:
        for each in self._observe:
            try:
                each.observe(admission, outcome, recorded=recorded)
            except Exception as error:  # noqa: BLE001  as above
                self._complain(each, error)

    def _complain(self, each: Observer, error: Exception) -> None:
        if id(each) not in self._complained:
            self._complained.add(id(each))
            log.error("an observer broke; calls go on", exc_info=error, extra={"observer": type(each).__name__})
