"""What people said of one call, for its own page: read from the records that its decision names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from audit import Record
from controlplane.console.approval_views import WordShown
from controlplane.console.calls import CallView
from controlplane.console.ports import LedgerView

DUTY = "require_approval"
GIVEN, REFUSED = "approval.given", "approval.refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalTrace:
    """``asked`` is the call that asked: this one, or an earlier one that wanted the same. ``state`` and ``until_ms``
    are those of the moment of the decision; ``approvers`` is how many people of which role.
    """

    asked: str
    state: str
    until_ms: int
    approvers: Mapping[str, int]
    words: tuple[WordShown, ...]


def trace_of(call: CallView, ledger: LedgerView) -> ApprovalTrace | None:
    """None where nobody was asked. Blocking; raises ``audit.AuditUnavailable``."""
    duty: Mapping[str, Any] = next((each["parameters"] for each in call.obligations if each["name"] == DUTY), {})
    if "state" not in duty:
        return None  # it was refused before it came to that
    return ApprovalTrace(
        asked=duty["id"],
        state=duty["state"],
        until_ms=duty["until_ms"],
        approvers={each["by"]: each["people"] for each in duty["approvers"]},
        words=tuple(_words(duty, ledger)),
    )


def _words(duty: Mapping[str, Any], ledger: LedgerView) -> Iterator[WordShown]:
    for word in duty["words"]:
        for record in ledger.read(after=word["index"] - 1, limit=1, kinds=(GIVEN, REFUSED)):
            if record.body["approval"]["id"] == duty["id"]:
                yield _word(record)


def _word(record: Record) -> WordShown:
    said = record.body["approval"]
    return WordShown(
        by=said["by"],
        roles=tuple(said["roles"]),
        approves=record.kind == GIVEN,
        at_s=record.time_ms / 1000,
        reason=said["reason"],
        ledger_index=record.index,
    )
