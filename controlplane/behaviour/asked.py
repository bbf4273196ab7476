"""One call as the rules look at it: while it is judged, and as the ledger tells of it afterwards. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import inf

from msgspec import Struct

from controlplane.behaviour.agents import OWN, Agent, AgentKey, Held, Pending, Scope, ScopeKey, Step
from controlplane.behaviour.rules import Plan, Rules
from controlplane.behaviour.selecting import Deed
from controlplane.behaviour.verdicts import Finding, agent_of
from controlplane.calls import Call, Principal
from controlplane.policy.behaviour import LoopRule, SequenceRule
from controlplane.telemetry.context import parse

_USUAL = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
"""What nearly everybody sends, and what ``parse`` makes of it in a third of the time."""


@dataclass(frozen=True, slots=True)
class Happened:
    """A call as the ledger tells it. ``session`` is None: the ledger does not say. One that was not admitted did
    nothing, but shows that its agent was there.
    """

    call_id: str
    at_s: float
    tenant: str
    agent: str
    deed: Deed
    run: str
    session: str | None = None
    is_admitted: bool = True


class Asked(Struct):
    """A call while it is judged."""

    principal: Principal
    call: Call
    now_s: float
    name: str
    agent: Agent
    rules: Rules
    _run: ScopeKey | None = None
    _session: ScopeKey | None = None
    _found: Scope | None = None  # the run's, and of the session below: looked up once
    _found_session: Scope | None = None

    def scope(self, key: ScopeKey) -> Scope | None:
        """What ``touch`` has found for a key of this call; None: nothing, or it was not asked."""
        if key is self._run:
            return self._found
        return self._found_session if key is self._session else None

    def open_scope(self, key: ScopeKey, most: int) -> Scope:
        found = self.scope(key)
        if found is None:
            found = self.agent.open_scope(key, self.now_s, self.rules.file.idle_s, most)
            self._found = self._found_session = None  # one of them may have made room
        return found

    def key(self, rule: SequenceRule | LoopRule) -> ScopeKey | None:
        """Where a rule counts this call; None: nowhere, or the rule leaves this agent alone."""
        if rule.except_agents and self.name in rule.except_agents:
            return None
        within = rule.within
        if within == "run":
            if self._run is None:
                self._run = "run", run_of(self.call.traceparent)
            if self._run[1]:
                return self._run
            if rule.untraced == "skip":
                return None
        elif within != "session":
            return OWN
        if self._session is None:
            self._session = "session", session_of(self.principal)
        return self._session

    @property
    def key_of_agent(self) -> AgentKey:
        return self.principal.tenant, self.name

    def hold(self, found: Finding) -> None:
        gap_s = -inf if found.sort == "rate" and found.change == "begins" else self.rules.file.idle_s
        new = Held(self.now_s, self.now_s, self.call.id, found.facts)
        self.agent.hold(found.rule.id, found.scope, new, gap_s)

    def touch(self) -> None:
        idle_s = self.rules.file.idle_s
        self._session = self._session or ("session", session_of(self.principal))
        self._run = self._run or ("run", run_of(self.call.traceparent))
        self._found_session = self.agent.touch(self._session, self.now_s, idle_s)
        self._found = self.agent.touch(self._run, self.now_s, idle_s)

    def pending(self, plan: Plan) -> Pending:
        steps: list[Step] = []
        for automaton, part in plan.parts:
            key = self.key(automaton.rule)
            if key is not None:
                steps.append((automaton, part, key))
        return Pending(self.agent, self.rules, steps, self.now_s)


def run_of(traceparent: str) -> str:
    """The W3C trace id, as the caller names it; "" where it names none."""
    if _USUAL.fullmatch(traceparent) or (traceparent and parse(traceparent)):
        return traceparent[3:35]
    return ""


def session_of(principal: Principal) -> str:
    """The verified claim ``session`` or ``sid``; "" where the token names none: then all that an agent does is one."""
    claims = principal.claims
    if not claims:
        return ""
    named = claims.get("session") or claims.get("sid")
    return named if isinstance(named, str) else ""


def scope_key(within: str, untraced: str, run: str, session: str) -> ScopeKey | None:
    """Where a rule counts a call; None: nowhere."""
    if within == "run":
        if run:
            return "run", run
        return ("session", session) if untraced == "session" else None
    return ("session", session) if within == "session" else OWN


def happened(call: Call, principal: Principal, now_s: float) -> Happened:
    deed, run = Deed(call.action, call.resource), run_of(call.traceparent)
    return Happened(call.id, now_s, principal.tenant, agent_of(principal), deed, run, session_of(principal))
