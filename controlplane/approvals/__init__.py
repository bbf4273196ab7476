"""Human decisions bound to one exact action: who has to be asked, what people said, and that it is used once.

A question is about a statement: a commitment to everything that would go out, and to who wants it. Whatever differs is
another question. Pure and in memory; a person's word is in the ledger before it comes here, and is read back from it.
"""

from controlplane.approvals.book import Book, Crowded, NotPossible
from controlplane.approvals.question import Approver, Question, State, Word
from controlplane.approvals.settings import ApprovalSettings

__all__ = ["ApprovalSettings", "Approver", "Book", "Crowded", "NotPossible", "Question", "State", "Word"]
