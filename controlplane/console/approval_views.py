"""Questions to people, as the console shows them, and how they are answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from audit import LedgerReceipt
from controlplane.calls import Principal


@dataclass(frozen=True, slots=True, kw_only=True)
class WordShown:
    by: str
    roles: tuple[str, ...]
    approves: bool
    at_s: float
    reason: str
    ledger_index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionShown:
    """``state`` is waiting, approved (and not used yet) or refused. ``missing`` counts people by role.

    ``shown`` is what would go out; "" once the process that was asked has ended. ``hindrance`` is why this reader
    cannot answer, "" if they can. Unix seconds.
    """

    id: str
    tenant: str
    subject: str
    chain: tuple[str, ...]
    action: str
    resource: str
    operation: str
    rules: tuple[tuple[str, str], ...]
    state: str
    missing: Mapping[str, int]
    words: tuple[WordShown, ...]
    asked_s: float
    until_s: float
    shown: str
    hindrance: str

    def waits_for(self, reader: str) -> bool:
        """Whether this reader, whom ``hindrance`` is about, is among those whose answer is still missing."""
        has_said = reader in {word.by for word in self.words}
        return self.state == "waiting" and not self.hindrance and not has_said


class ApprovalControl(Protocol):
    def questions(self, reader: Principal) -> Sequence[QuestionShown]:
        """Those of the reader's tenant that stand, the oldest first."""
        ...

    async def answer(self, question: str, by: Principal, reason: str, *, approves: bool) -> LedgerReceipt:
        """Recorded, then heard.

        Raises ``NotFound``, ``NotAllowed``, ``ChangeRefused``, ``ChangeFailed`` (it was over by then) or
        ``audit.AuditUnavailable``.
        """
        ...
