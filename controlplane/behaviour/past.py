"""What agents did before this process was there: read from the ledger, and, for rates, from a file of sums.

The ledger says who called what and when, and in which trace; it does not say in which session, so that a session rule
counts it for every session of that agent. Rates are no part of a decision that must be right at once: a file that is
missing or broken is left alone, and agents are learnt anew from the prior.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import inf
from pathlib import Path
from typing import Any, Protocol

from controlplane.behaviour.agents import Agent, AgentKey
from controlplane.behaviour.asked import Happened, run_of
from controlplane.behaviour.oversight import Told
from controlplane.behaviour.rates import kept, restored
from controlplane.behaviour.selecting import Deed
from controlplane.behaviour.verdicts import KIND
from controlplane.behaviour.watch import Watch

INTENT, DENY = "intent", "deny"
PAGE = 2000
MILLI = 1000
FORMAT = "rates.2"

log = logging.getLogger(__name__)


class Record(Protocol):
    """``audit.Record``."""

    @property
    def index(self) -> int: ...
    @property
    def time_ms(self) -> int: ...
    @property
    def event_id(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def body(self) -> Mapping[str, Any]: ...


class Head(Protocol):
    @property
    def size(self) -> int: ...


class Reader(Protocol):
    """``audit.LedgerReader``."""

    def head(self) -> Head: ...
    def read(self, after: int = -1, limit: int = 100, *, kinds: Sequence[str] | None = None) -> Sequence[Record]: ...


def read_back(reader: Reader, since_s: float, most: int) -> tuple[list[Happened], float]:
    """What was asked since ``since_s``, out of at most ``most`` newest records; and since when that is everything:
    minus infinity when nothing that can matter is missing. Blocking.
    """
    size = reader.head().size
    first = first_since(reader, since_s, size)
    start = max(first, size - most)
    covered_s = -inf
    if start > first:
        left_out = reader.read(start - 1, 1)
        covered_s = left_out[0].time_ms / MILLI if left_out else inf
    return list(_calls(reader, start - 1)), covered_s


def refusals(reader: Reader, since_s: float) -> list[Told]:
    """What rules have refused since then, oldest first, as their verdicts tell it. Blocking."""
    found: list[Told] = []
    after = first_since(reader, since_s, reader.head().size) - 1
    while records := reader.read(after, PAGE, kinds=[KIND]):
        after = records[-1].index
        said = ((record.time_ms / MILLI, record.body["behaviour"]) for record in records)
        found += [_told(at_s, one) for at_s, one in said if one["mode"] == "enforce" and one["change"] == "begins"]
    return found


def _told(at_s: float, one: Mapping[str, Any]) -> Told:
    agent, scope = (str(one["tenant"]), str(one["agent"])), str(one.get("scope", ""))
    return Told(at_s, agent, str(one["rule"]), scope, str(one["call"]), one.get("facts", {}))


def _calls(reader: Reader, after: int) -> Iterator[Happened]:
    while records := reader.read(after, PAGE, kinds=[INTENT, DENY]):
        for record in records:
            found = _happened(record)
            if found is not None:
                yield found
        after = records[-1].index


def _happened(record: Record) -> Happened | None:
    """None for a record that names no agent or no deed, as none of ours does."""
    body = record.body
    try:
        principal, action = body["principal"], body["action"]
        delegation = principal.get("delegation") or [{"agent": principal["subject"]}]
        deed = Deed(str(action["kind"]), str(action["name"]))
        agent, tenant = str(delegation[0]["agent"]), str(principal["tenant"])
    except (KeyError, TypeError, AttributeError):
        return None
    run = run_of(str(body.get("trace", {}).get("traceparent", "")))
    at_s, is_admitted = record.time_ms / MILLI, record.kind == INTENT
    return Happened(record.event_id, at_s, tenant, agent, deed, run, is_admitted=is_admitted)


def first_since(reader: Reader, since_s: float, size: int) -> int:
    """By bisection, the first index not older than ``since_s``; only as right as the clock was."""
    low, high = 0, size
    while low < high:
        middle = (low + high) // 2
        found = reader.read(middle - 1, 1)
        if found and found[0].time_ms < since_s * MILLI:
            low = middle + 1
        else:
            high = middle
    return low


def save(agents: Iterable[tuple[AgentKey, Agent]], path: Path) -> None:
    """What was learnt of rates, replaced as a whole. Blocking, and long where there are many; they may go on calling:
    one that does is saved as it was a moment before or after."""
    fresh = path.with_name(path.name + ".new")
    path.parent.mkdir(parents=True, exist_ok=True)
    with fresh.open("w") as file:
        file.write(f'{{"{FORMAT}": [')
        between = ""
        for (tenant, name), agent in agents:
            for rule, rate in list(agent.rates.items()):
                file.write(between + json.dumps([tenant, name, rule, kept(rate)]))
                between = ","
        file.write("]}")
    fresh.replace(path)


def load(watch: Watch, path: Path, now_s: float) -> None:
    """Fails open: agents of whom nothing could be read are new ones."""
    try:
        said = json.loads(path.read_text())
        for tenant, name, rule, sums in said[FORMAT]:
            watch.learnt((str(tenant), str(name)), str(rule), restored(sums), now_s)
    except FileNotFoundError:
        return
    except (OSError, ValueError, TypeError, KeyError) as error:
        log.warning("learnt rates cannot be read; agents are learnt anew", extra={"error": repr(error)})
