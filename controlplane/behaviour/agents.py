"""What is remembered of agents: bounded for each of them and for all. Pure: time comes in as an argument.

Nothing that a rule may still need is dropped in silence. A run or session that has to make room is joined to what its
agent carries into every new one; an agent is forgotten only when no rule is half met for it. Where even that leaves no
room, an agent is not remembered at all, and whoever asks must take that for the worst.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

from msgspec import Struct

from controlplane.behaviour.loops import Recent
from controlplane.behaviour.rates import Rate
from controlplane.behaviour.sequences import Automaton, Part, Progress

EXAMINED = 16  # agents looked at for one to forget
TOLD_KEPT = 256
PENDING_S = 60.0  # a call that neither was recorded nor failed to be for so long was given up before

ScopeKey = tuple[str, str]
"""``run`` or ``session``, and which; ``("agent", "")`` is all that the agent does."""

OWN: ScopeKey = ("agent", "")
AgentKey = tuple[str, str]
"""Tenant and name."""

Step = tuple[Automaton, Part, ScopeKey]


@dataclass(slots=True)
class Scope:
    seen_s: float
    progress: dict[str, Progress] = field(default_factory=dict)
    recent: Recent = field(default_factory=Recent)


@dataclass(slots=True)
class Held:
    """What a rule has refused an agent in one scope: since when, how often, and the first such call."""

    since_s: float
    last_s: float
    call_id: str
    facts: Mapping[str, int | str]
    times: int = 1


class Pending(Struct, frozen=True):
    """A call that was let go and is not in the ledger yet: it counts as if it were."""

    agent: Agent
    rules: object  # by which it was judged
    steps: Sequence[Step]
    since_s: float


@dataclass(slots=True)
class Agent:
    seen_s: float
    rates: dict[str, Rate] = field(default_factory=dict)
    own: Scope = field(default_factory=lambda: Scope(0.0))
    scopes: OrderedDict[ScopeKey, Scope] = field(default_factory=OrderedDict)
    carried: dict[str, Progress] = field(default_factory=dict)
    pending: dict[str, Pending] = field(default_factory=dict)
    told: dict[Hashable, float] = field(default_factory=dict)
    held: dict[tuple[str, str], Held] = field(default_factory=dict)  # by rule and scope

    def comes(self, now_s: float, idle_s: float) -> None:
        """It asks something. After so long without a word whatever it carried belonged to runs that are over."""
        if self.carried and now_s - self.seen_s > idle_s:
            self.carried.clear()
        self.seen_s = now_s

    def touch(self, key: ScopeKey, now_s: float, idle_s: float) -> Scope | None:
        """A call of this run or session, whatever it was: it is not idle. What is known of it, None where it is new."""
        found = self.scopes.get(key)
        if found is None or now_s - found.seen_s > idle_s:
            return None
        found.seen_s = max(found.seen_s, now_s)
        return found

    def scope(self, key: ScopeKey, now_s: float, idle_s: float) -> Scope | None:
        if key == OWN:
            return self.own
        found = self.scopes.get(key)
        if found is not None and now_s - found.seen_s > idle_s:
            del self.scopes[key]
            return None
        return found

    def open_scope(self, key: ScopeKey, now_s: float, idle_s: float, most: int) -> Scope:
        found = self.scope(key, now_s, idle_s)
        if found is not None and found.seen_s == now_s:
            return found
        if found is None:
            self._forget_idle(now_s, idle_s)
            found = Scope(now_s, {rule: progress.copy() for rule, progress in self.carried.items()})
            self.scopes[key] = found
            if len(self.scopes) > most:
                self._make_room(now_s, idle_s)
        found.seen_s = now_s
        if key != OWN:
            self.scopes.move_to_end(key)
        return found

    def _forget_idle(self, now_s: float, idle_s: float) -> None:
        """Runs and sessions that are over mean nothing any more, and their calls take up to 20 KiB each."""
        while self.scopes and now_s - self.scopes[next(iter(self.scopes))].seen_s > idle_s:
            self.scopes.popitem(last=False)

    def _make_room(self, now_s: float, idle_s: float) -> None:
        _, oldest = self.scopes.popitem(last=False)
        if now_s - oldest.seen_s <= idle_s:
            self.carry(oldest.progress)

    def carry(self, progress: dict[str, Progress]) -> None:
        for rule, one in progress.items():
            if rule in self.carried:
                self.carried[rule].join(one)
            else:
                self.carried[rule] = one.copy()

    def progress(self, automaton: Automaton, key: ScopeKey, now_s: float, idle_s: float) -> Progress | None:
        """How far a rule has come, with every call that is being recorded taken as recorded."""
        known = self.progress_known(automaton.rule.id, key, now_s, idle_s)
        if not self.pending:
            return known
        waiting = [
            (part, one.since_s)
            for one in self.pending.values()
            for step, part, place in one.steps
            if step is automaton and place == key and now_s - one.since_s <= PENDING_S
        ]
        if not waiting:
            return known
        supposed = automaton.new() if known is None else known.copy()
        for part, at_s in waiting:
            automaton.advance(supposed, part, at_s)
        return supposed

    def progress_known(self, rule: str, key: ScopeKey, now_s: float, idle_s: float) -> Progress | None:
        scope = self.own if key is OWN else self.scope(key, now_s, idle_s)
        return self.carried.get(rule) if scope is None else scope.progress.get(rule)

    def advance(self, step: Step, now_s: float, idle_s: float, most: int) -> None:
        automaton, part, key = step
        if 0 not in part.steps and self.progress_known(automaton.rule.id, key, now_s, idle_s) is None:
            return  # no later step of a sequence that has not begun
        scope = self.open_scope(key, now_s, idle_s, most)
        progress = scope.progress.get(automaton.rule.id)
        if progress is None:
            progress = scope.progress[automaton.rule.id] = automaton.new()
        automaton.advance(progress, part, now_s)
        if not progress.is_armed:
            del scope.progress[automaton.rule.id]

    def is_news(self, what: Hashable, now_s: float, quiet_s: float) -> bool:
        told_s = self.told.get(what)
        if told_s is not None and now_s - told_s < quiet_s:
            return False
        if len(self.told) >= TOLD_KEPT:
            self.told.clear()
        self.told[what] = now_s
        return True

    def hold(self, rule: str, scope: str, new: Held, gap_s: float) -> None:
        """Refused, or refused again; after so long without, it is another time."""
        held = self.held.get((rule, scope))
        if held is not None and new.last_s - held.last_s <= gap_s:
            held.last_s, held.facts, held.times = new.last_s, new.facts, held.times + 1
            return
        if len(self.held) >= TOLD_KEPT:
            self.held.clear()
        self.held[rule, scope] = new

    def forget(self, rules: frozenset[str]) -> None:
        """Rules that are no more, that say something else now, or that a person has lifted."""
        for scope in (self.own, *self.scopes.values()):
            for rule in rules & scope.progress.keys():
                del scope.progress[rule]
        for rule in rules & self.carried.keys():
            del self.carried[rule]
        self.held = {place: held for place, held in self.held.items() if place[0] not in rules}

    def forgive(self, rule: str) -> None:
        """What it did counts no more for this rule. A call that is being recorded just now comes after this."""
        self.forget(frozenset((rule,)))
        self.told = {
            what: at_s for what, at_s in self.told.items() if not (isinstance(what, tuple) and what[0] == rule)
        }
        rate = self.rates.get(rule)
        if rate is not None:
            rate.lift()

    def forget_calls(self) -> None:
        """The calls among which loops are looked for, of every run and session."""
        for scope in (self.own, *self.scopes.values()):
            scope.recent = Recent()

    def is_armed(self, now_s: float, longest_s: float) -> bool:
        if now_s - self.seen_s > longest_s:
            return False
        scopes = (self.own, *self.scopes.values())
        return bool(self.carried or self.pending or any(scope.progress for scope in scopes))


class Agents:
    def __init__(self, most: int) -> None:
        self._most = most
        self._known: OrderedDict[AgentKey, Agent] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def of(self, key: AgentKey, now_s: float, longest_s: float) -> Agent | None:
        """None where nobody can be forgotten to make room for it."""
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= self._most and not self._forget_one(now_s, longest_s):
                return None
            found = self._known[key] = Agent(now_s)
        self._known.move_to_end(key)
        return found

    def known(self, key: AgentKey) -> Agent | None:
        return self._known.get(key)

    def all(self) -> list[tuple[AgentKey, Agent]]:
        return list(self._known.items())

    def _forget_one(self, now_s: float, longest_s: float) -> bool:
        for _, key in zip(range(EXAMINED), self._known, strict=False):
            if not self._known[key].is_armed(now_s, longest_s):
                del self._known[key]
                return True
        return False
