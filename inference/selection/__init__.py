"""Which model of a task to ask: constraints, a documented score, and what answers have taught so far. Pure.

Knows no policy, no ledger and no clock: who may be asked and who is healthy comes in as a list of candidates.
"""

from inference.selection.candidates import Candidate
from inference.selection.constraints import ConstraintError, Constraints, Wish, read_wish
from inference.selection.evidence import Evidence
from inference.selection.review import Review
from inference.selection.selector import Ask, Selected, Selector
from inference.selection.settings import SelectionSettings

__all__ = [
    "Ask",
    "Candidate",
    "ConstraintError",
    "Constraints",
    "Evidence",
    "Review",
    "Selected",
    "SelectionSettings",
    "Selector",
    "Wish",
    "read_wish",
]
