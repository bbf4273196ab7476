"""What people see and may change: the operator API and the web pages.

Every way in authorizes first; a change has a reason and is in the ledger before it is done. Fails open in the sense
that nothing on the path of a call waits for it. Knows no gateway: what it shows and moves comes in through ``ports``.
"""

from controlplane.console.api import build
from controlplane.console.ports import (
    ChangeFailed,
    ChangeRefused,
    ConsolePorts,
    ModelView,
    NotAllowed,
    NotProven,
    OutcomeLabel,
    Unavailable,
)
from controlplane.console.settings import ConsoleSettings

__all__ = [
    "ChangeFailed",
    "ChangeRefused",
    "ConsolePorts",
    "ConsoleSettings",
    "ModelView",
    "NotAllowed",
    "NotProven",
    "OutcomeLabel",
    "Unavailable",
    "build",
]
