"""The vocabulary every room shares: who calls, what is called, what was decided, what came of it.

Frozen value types without behaviour; structs of msgspec, because several are made on every call and a frozen dataclass
costs six times as much. Nothing here knows HTTP, JWT, YAML or the ledger's file format.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from msgspec import Struct, field

_IDS_PER_READ = 256
_DIGITS = 20  # of an id's random half as it is read; 19 of them are used
_VARIANTS = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
_random_halves: list[str] = []
os.register_at_fork(after_in_child=_random_halves.clear)  # a child must not hand out its parent's ids


def _read_random_halves() -> str:
    """One, and a stock of more. Each read of the system's gives up the interpreter lock, and under load the event loop
    then waited 40 µs for the ledger's thread to hand it back."""
    digits = os.urandom(_IDS_PER_READ * _DIGITS // 2).hex()
    drawn = [digits[at : at + _DIGITS] for at in range(0, len(digits), _DIGITS)]
    one, *more = [f"-7{each[:3]}-{_VARIANTS[each[3]]}{each[4:7]}-{each[7:19]}" for each in drawn]
    _random_halves.extend(more)
    return one


def new_call_id() -> str:
    """A UUIDv7 (RFC 9562 §5.7): sorts by time of birth, so the ledger and its readers can page by it."""
    born = f"{time.time_ns() // 1_000_000:012x}"  # str(uuid.UUID(int=...)) says the same and costs six times as much
    try:
        random_half = _random_halves.pop()
    except IndexError:
        random_half = _read_random_halves()
    return f"{born[:8]}-{born[8:]}{random_half}"


class Effect(StrEnum):
    ALLOW = "allow"
    DENY = "deny"


class Principal(Struct, frozen=True, kw_only=True):
    """Who is calling, as far as a verified credential proves it.

    ``chain`` is the RFC 8693 ``act`` chain, the current actor first; empty when the subject acts itself.
    Effective rights are the intersection over the subject and every actor. ``claims`` holds verified
    claims that policy may read (clearance, purpose, session); nothing self-reported is ever in it.
    """

    subject: str
    tenant: str
    kind: str = "agent"  # agent | user | service
    chain: tuple[str, ...] = ()
    client_id: str = ""
    issuer: str = ""
    token_id: str = ""
    expires_at_s: int = 0
    scopes: frozenset[str] = frozenset()
    claims: Mapping[str, Any] = field(default_factory=dict)


class Call(Struct, frozen=True, kw_only=True):
    """One agent's wish: an action on a resource.

    ``resource`` is a path whose first segment is the kind: ``/model/{name}``, ``/tool/{name}``,
    ``/mcp/{server}/{tool}``. ``arguments`` is what policy conditions may read; ``body`` is the request as the
    agent sent it and is what goes upstream. ``headers`` are only those that may be forwarded (lower-case names).
    """

    id: str
    door: str
    action: str
    resource: str
    body: bytes = b""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    operation: str = ""  # the protocol's own verb, e.g. "chat", "predict", "tools/call"
    version: int | None = None  # model version asked for
    label: str | None = None  # or version label asked for
    streams: bool = False
    headers: tuple[tuple[str, str], ...] = ()
    traceparent: str = ""  # W3C trace context as received; "" when there was none
    deadline_s: float | None = None  # seconds the caller is willing to wait, from its protocol
    selection: Mapping[str, Any] = field(default_factory=dict)  # why this model, where the caller left the choice to us


class Obligation(Struct, frozen=True):
    """Something the enforcement point must do for an allow to hold (the XACML 3.0 term).

    An enforcement point that meets a name it does not know must deny.
    """

    name: str
    parameters: Mapping[str, Any]


class RuleRef(Struct, frozen=True):
    """A policy rule and where it stands, e.g. ``support.refund.large`` at ``roles/support.yaml:14``."""

    id: str
    source: str


class Decision(Struct, frozen=True, kw_only=True):
    """One answer to "may this principal take this action on this resource?".

    ``reason`` is a stable word for machines (``no_matching_rule``, ``rule_denied``, ``rate_limited``), never
    prose: it goes into the ledger and into metric labels. ``rules`` are all that matched, the deciding one first.
    ``revision`` is the hex SHA-256 of the exact bundle consulted, so that the decision can be replayed years later;
    empty when no bundle could be consulted.
    """

    effect: Effect
    reason: str
    revision: str
    rules: tuple[RuleRef, ...] = ()
    obligations: tuple[Obligation, ...] = ()
    eval_us: int = 0
    retry_after_s: float | None = None

    @property
    def permits(self) -> bool:
        return self.effect is Effect.ALLOW


class Receipt(Struct, frozen=True):
    """The ledger's promise that an entry is durable: its event id, leaf index and the signed tree head over it."""

    event_id: str
    index: int
    checkpoint: str
