"""What every change has in common: who wants it, why, and under which key; and what is answered when it is done."""

from __future__ import annotations

from typing import Annotated, Protocol

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from audit import LedgerReceipt
from controlplane.calls import Principal
from controlplane.console.changes import Wish

Reason = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=3, max_length=500),
    Field(description="Why, in a sentence; kept in the ledger."),
]
Key = Annotated[str, Field(max_length=200, description="The same key again means the same change again.")]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Change(Body):
    """A change that needs no more than its reason."""

    reason: Reason
    key: Key = ""


class Recorded(BaseModel):
    """The change is durable in the ledger under this event, and done."""

    event_id: str
    ledger_index: int


class Reasoned(Protocol):
    @property
    def reason(self) -> str: ...
    @property
    def key(self) -> str: ...


def principal_of(request: Request) -> Principal:
    principal: Principal = request.state.principal
    return principal


def wish_of(request: Request, change: Reasoned) -> Wish:
    return Wish(principal_of(request), change.reason, change.key)


def recorded(receipt: LedgerReceipt) -> Recorded:
    return Recorded(event_id=receipt.event_id, ledger_index=receipt.index)
