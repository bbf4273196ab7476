"""Watching agents: what they asked, what the rules say of it, and what is answered.

Decides without I/O; time comes in as an argument. Rates and loops count what is asked, sequences what the ledger holds
as admitted, so that what is known here can be read again from the ledger. Fails closed: a rule whose past is not known
yet, or an agent for whom there is no room, is answered as the rule would answer the worst.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf

from msgspec import structs

from controlplane.behaviour.agents import OWN, PENDING_S, Agent, AgentKey, Agents, Pending, ScopeKey
from controlplane.behaviour.asked import Asked, Happened, happened, scope_key
from controlplane.behaviour.likeness import Reference, embed
from controlplane.behaviour.loops import Recent, digest_of
from controlplane.behaviour.rates import Change, Rate
from controlplane.behaviour.rules import NOTHING, Plan, Rules, can_refuse
from controlplane.behaviour.said import BY_HAND, Said
from controlplane.behaviour.sequences import Automaton, Part
from controlplane.behaviour.settings import BehaviourSettings
from controlplane.behaviour.verdicts import FULL, UNKNOWN, Finding, Verdict, agent_of, denied, satisfies, strictest
from controlplane.calls import Call, Decision, Effect, Principal, RuleRef
from controlplane.policy.behaviour import LONGEST_S, ContextRule, LoopRule, RateRule, SequenceRule
from controlplane.policy.bundle import Bundle

RETRY_S = 5.0  # for what is unknown only until the ledger was read
PENDING_SWEPT = 1000
OVERDUE_KEPT = 1000
PPM = 1_000_000

Observe = Callable[[Finding], None]


class Watch:
    """``bundle`` answers with the bundle in force. MUST be used from one event loop."""

    def __init__(
        self, settings: BehaviourSettings, bundle: Callable[[], Bundle | None], observe: Observe = lambda _: None
    ) -> None:
        self._settings, self._bundle, self._observe = settings, bundle, observe
        self._seen: Bundle | None = None
        self._rules: Rules | None = None
        self._agents = Agents(settings.max_agents)
        self._references: OrderedDict[tuple[str, AgentKey], Reference] = OrderedDict()
        self._pending: dict[str, Pending] = {}
        self._owed: dict[str, list[Verdict]] = {}
        self._overdue: list[Verdict] = []
        self._known_from_s: dict[str, float] = {}
        self.said = Said()
        self._since: list[Happened] | None = None

    # --- one call

    def judge(self, principal: Principal, call: Call, decision: Decision, now_s: float) -> Decision:
        """``decision``, or a denial in its place. An allow is followed by ``recorded`` or ``dropped``."""
        name = agent_of(principal)
        if self.said.blocks:
            decision = self._by_hand((principal.tenant, name), decision, now_s)
        rules = self._current()
        if rules is None:
            return decision
        plan = rules.plan_of(call.action, call.resource)
        if plan is NOTHING and not rules.rates:
            self._is_there(rules, principal, name, call, now_s)
            return decision
        agent = self._agents.of((principal.tenant, name), now_s, LONGEST_S)
        if agent is None:
            return self._without_memory(plan, decision, rules)
        agent.comes(now_s, rules.file.idle_s)
        plan = plan.of(call.traceparent)
        asked = Asked(principal, call, now_s, name, agent, rules)
        if agent.scopes:
            asked.touch()
        findings = self._findings(asked, plan, permits=decision.permits)
        answered = self._answered(asked, decision, findings) if findings else decision
        if answered.permits and plan.parts:
            self._suppose(asked, plan)
        return answered

    def _findings(self, asked: Asked, plan: Plan, *, permits: bool) -> list[Finding]:
        findings = self._too_often(asked) if asked.rules.rates else []
        if plan.loops:
            findings += self._loops(asked, plan.loops)
        if permits and plan.last:
            findings += self._sequences(asked, plan)
        if permits and plan.contexts:
            findings += self._contexts(asked, plan.contexts)
        return findings

    def _is_there(self, rules: Rules, principal: Principal, name: str, call: Call, now_s: float) -> None:
        """A call that no rule is about: its run and its session go on all the same."""
        agent = self._agents.known((principal.tenant, name))
        if agent is not None:
            agent.comes(now_s, rules.file.idle_s)
            if agent.scopes:
                Asked(principal, call, now_s, name, agent, rules).touch()

    def owed(self, call_id: str) -> list[Verdict]:
        """Verdicts that MUST be in the ledger before this call is; first those that could not be written before."""
        if not self._overdue and not self._owed:
            return []
        found, self._overdue = [*self._overdue, *self._owed.pop(call_id, ())], []
        return found

    def owes(self, verdicts: Sequence[Verdict]) -> None:
        """They could not be written: the next call's record waits for them."""
        self._overdue = [*verdicts, *self._overdue][:OVERDUE_KEPT]

    def recorded(self, call: Call, principal: Principal, now_s: float) -> None:
        """The call's intent is durable: from now on it is a part of what its agent did, whatever rules are in force."""
        pending, rules = self.dropped(call.id), self._current()
        if self._since is not None:
            self._since.append(happened(call, principal, now_s))
        if rules is None:
            return
        if pending is None or pending.rules is not rules:
            pending = self._again(rules, call, principal, now_s)
        if pending is not None:
            for step in pending.steps:
                pending.agent.advance(step, now_s, rules.file.idle_s, self._settings.max_scopes)

    def _again(self, rules: Rules, call: Call, principal: Principal, now_s: float) -> Pending | None:
        """The call by rules that came after it was judged."""
        plan = rules.plan_of(call.action, call.resource).of(call.traceparent)
        if not plan.parts:
            return None
        name = agent_of(principal)
        agent = self._agents.of((principal.tenant, name), now_s, LONGEST_S)
        return None if agent is None else Asked(principal, call, now_s, name, agent, rules).pending(plan)

    def dropped(self, call_id: str) -> Pending | None:
        """The call does not go out after all."""
        pending = self._pending.pop(call_id, None)
        if pending is not None:
            pending.agent.pending.pop(call_id, None)
        return pending

    def _suppose(self, asked: Asked, plan: Plan) -> None:
        if len(self._pending) >= PENDING_SWEPT:
            for call_id in [one for one, p in self._pending.items() if asked.now_s - p.since_s > PENDING_S]:
                self.dropped(call_id)
        self._pending[asked.call.id] = asked.agent.pending[asked.call.id] = asked.pending(plan)

    def _answered(self, asked: Asked, decision: Decision, findings: list[Finding]) -> Decision:
        news: list[Verdict] = []
        refusing: list[Finding] = []
        for finding in findings:
            shown = finding
            if finding.refuses:
                shown = self._shown(asked, finding)
                if shown.refuses:
                    asked.hold(shown)
                    refusing.append(shown)
            self._observe(shown)
            if shown.is_news:
                news.append(Verdict(shown, asked.principal.tenant, asked.name, asked.call.id, asked.rules.revision))
        if news:
            if len(self._owed) >= OVERDUE_KEPT:  # of calls that were given up before they could be recorded
                self.owes([verdict for each in self._owed.values() for verdict in each])
                self._owed.clear()
            self._owed[asked.call.id] = news
        return denied(decision, strictest(refusing)) if refusing and decision.permits else decision

    def _by_hand(self, agent: AgentKey, decision: Decision, now_s: float) -> Decision:
        """A person's block comes before every rule: what it refuses is as if policy had refused it."""
        word = self.said.block(agent, now_s)
        if word is None or not decision.permits:
            return decision
        rule = RuleRef(BY_HAND, word.source)
        finding = Finding(rule=rule, sort="operator", answer="block", mode="enforce", change="holds", is_news=False)
        self._observe(finding)
        return denied(decision, finding)

    def _shown(self, asked: Asked, finding: Finding) -> Finding:
        """What would refuse, unless the caller has shown what was asked for, or a person lets it go."""
        shown = self._satisfied(asked, finding)
        return self._left_alone(asked, shown) if self.said.lifts else shown

    def _left_alone(self, asked: Asked, finding: Finding) -> Finding:
        rule = finding.rule.id
        if not finding.refuses or not self.said.leaves_alone(asked.key_of_agent, rule, asked.now_s):
            return finding
        asked.agent.told.pop((rule, finding.scope), None)  # the first that is refused afterwards is news
        if rule in asked.agent.rates:
            asked.agent.rates[rule].is_throttled = False
        return structs.replace(finding, change="lifted", is_news=False)

    def _satisfied(self, asked: Asked, finding: Finding) -> Finding:
        if finding.answer != "step_up" or not finding.refuses or finding.step_up is None:
            return finding
        if not satisfies(asked.principal, finding.step_up, asked.now_s):
            return finding
        is_news = asked.agent.is_news((finding.rule.id, finding.scope, "satisfied"), asked.now_s, LONGEST_S)
        return structs.replace(finding, change="satisfied", is_news=is_news)

    # --- each sort of rule

    def _too_often(self, asked: Asked) -> list[Finding]:
        findings = []
        for rule in asked.rules.rates:
            if rule.except_agents and asked.name in rule.except_agents:
                continue
            rate = asked.agent.rates.get(rule.id)
            if rate is None or rate.window_s != rule.window_s:
                rate = asked.agent.rates[rule.id] = Rate(rule.window_s)
            before, calm = rate.limit, rate.asked
            is_too_many, change = rate.ask(rule, asked.now_s)
            if change is Change.HOLDS and (holding := asked.rules.holding.get(rule.id)):
                findings.append(holding)
            elif is_too_many or change is not None:
                findings.append(_rate_finding(asked, rule, rate, change or Change.HOLDS, (before, calm)))
        return findings

    def _loops(self, asked: Asked, loops: Iterable[LoopRule]) -> list[Finding]:
        digest = 0
        findings: list[Finding] = []
        added: list[Recent] = []
        for rule in loops:
            key = asked.key(rule)
            if key is None:
                continue
            recent = asked.open_scope(key, self._settings.max_scopes).recent
            if recent not in added:
                added.append(recent)
                digest = digest or digest_of(asked.call)
                recent.add(digest)
            if rule.same_call is not None and (same := recent.same(digest)) >= rule.same_call:
                findings.append(self._found(asked, rule, "loop", key, {"same_calls": same}))
            elif rule.cycle is not None and (length := recent.cycle(rule.cycle)):
                findings.append(self._found(asked, rule, "loop", key, {"calls_in_turn": length}))
        return findings

    def _sequences(self, asked: Asked, plan: Plan) -> list[Finding]:
        findings = []
        for automaton, part in plan.last:
            rule = automaton.rule
            key = asked.key(rule)
            if key is None:
                continue
            if self._known_from_s and self._known_from_s.get(rule.id, -inf) > asked.now_s and can_refuse(rule):
                findings.append(self._unknown(asked, automaton, key))
                continue
            scope = None if asked.agent.pending else asked.scope(key)
            if scope is None:
                progress = asked.agent.progress(automaton, key, asked.now_s, asked.rules.file.idle_s)
            else:
                progress = scope.progress.get(rule.id)
            if progress is not None and automaton.matches(progress, part, asked.now_s):
                began_s = automaton.began_s(progress)
                found = self._found(asked, rule, "sequence", key, {"began_s": int(began_s)})
                if rule.answer == "throttle":
                    found = structs.replace(found, retry_after_s=max(1.0, began_s + automaton.span_s - asked.now_s))
                findings.append(found)
        return findings

    def _unknown(self, asked: Asked, automaton: Automaton, key: ScopeKey) -> Finding:
        found = self._found(asked, automaton.rule, "sequence", key, {"state": "unknown"})
        return structs.replace(found, reason=UNKNOWN, retry_after_s=RETRY_S)

    def _contexts(self, asked: Asked, contexts: Iterable[ContextRule]) -> list[Finding]:
        findings, vector = [], None
        for rule in contexts:
            if asked.name in rule.except_agents:
                continue
            vector = embed(asked.call) if vector is None else vector
            reference = self._reference(rule, (asked.principal.tenant, asked.name))
            likeness = reference.likeness(vector)
            if reference.judges(rule, likeness, asked.now_s):
                facts = {"likeness_ppm": round(likeness * PPM), "threshold_ppm": round(reference.limit(rule) * PPM)}
                found = self._satisfied(asked, self._found(asked, rule, "context", OWN, facts))
                if found.change == "satisfied":
                    reference.trust()
                    reference.learn(rule, vector, likeness)
                findings.append(found)
            else:
                reference.learn(rule, vector, likeness)
        return findings

    def _reference(self, rule: ContextRule, key: AgentKey) -> Reference:
        place = rule.id, key
        found = self._references.get(place)
        if found is None:
            found = self._references[place] = Reference()
            if len(self._references) > self._settings.max_references:
                self._references.popitem(last=False)
        self._references.move_to_end(place)
        return found

    def _found(
        self,
        asked: Asked,
        rule: SequenceRule | LoopRule | ContextRule,
        sort: str,
        key: ScopeKey,
        facts: Mapping[str, int | str],
    ) -> Finding:
        scope = ":".join(filter(None, key))
        is_news = asked.agent.is_news((rule.id, scope), asked.now_s, rule.quiet_s)
        return Finding(
            rule=asked.rules.ref(rule),
            sort=sort,
            answer=rule.answer,
            mode=rule.mode,
            change="begins" if is_news else "holds",
            scope=scope,
            facts=facts,
            step_up=asked.rules.step_up(rule),
            is_news=is_news,
        )

    def _without_memory(self, plan: Plan, decision: Decision, rules: Rules) -> Decision:
        """Nobody can be forgotten for this agent: what ends a sequence that a rule refuses is refused. Rates and loops
        are not watched."""
        refusing = [one.rule for one, part in plan.parts if part.is_last and can_refuse(one.rule)]
        if not refusing or not decision.permits:
            return decision
        return _deny(decision, FULL, rules.ref(refusing[0]))

    # --- the rules, and what is known of the time before them

    def _current(self) -> Rules | None:
        bundle = self._bundle()
        if bundle is not self._seen:
            self._adopt(bundle)
        return self._rules

    def _adopt(self, bundle: Bundle | None) -> None:
        """Rules that say what they said before keep what they know; of the others the past must be read."""
        before = {} if self._rules is None else {one.rule.id: one.rule for one in self._rules.automata.values()}
        known = self._known_from_s
        rules = None if bundle is None else Rules(bundle)
        self._seen, self._rules = bundle, None if rules is None or rules.is_empty else rules
        after = {} if self._rules is None else {one.rule.id: one.rule for one in self._rules.automata.values()}
        changed = frozenset(name for name, rule in before.items() if after.get(name) != rule)
        self._known_from_s = {
            name: known.get(name, -inf) if before.get(name) == rule else inf for name, rule in after.items()
        }
        self._known_from_s = {name: from_s for name, from_s in self._known_from_s.items() if from_s > -inf}
        for _, agent in self._agents.all():
            agent.forget(changed)

    def unknown_rules(self) -> frozenset[str]:
        """Sequences whose past has to be read from the ledger."""
        self._current()
        return frozenset(name for name, from_s in self._known_from_s.items() if from_s == inf)

    def remembered(self, now_s: float) -> tuple[int, int]:
        """How many agents are remembered, and how many rules refuse because their past is not known."""
        return len(self._agents), sum(from_s > now_s for from_s in self._known_from_s.values())

    def begin_rebuild(self) -> None:
        self._since = []

    def abandon_rebuild(self) -> None:
        self._since = None

    def finish_rebuild(self, names: frozenset[str], past: Sequence[Happened], covered_s: float) -> None:
        """``past`` is what the ledger holds since ``covered_s``. What happened meanwhile is told once."""
        since, self._since = self._since or [], None
        rules = self._current()
        if rules is None:
            return
        automata = [rules.automata[name] for name in sorted(names) if name in rules.automata]
        for _, agent in self._agents.all():
            agent.forget(frozenset(one.rule.id for one in automata))
        told = {one.call_id: one for one in (*past, *since)}  # the live one knows its session
        for one in sorted(told.values(), key=lambda each: each.at_s):
            self._replay(rules, automata, one)
        for automaton in automata:
            from_s = covered_s + automaton.span_s
            self._known_from_s[automaton.rule.id] = from_s
            if from_s == -inf:
                del self._known_from_s[automaton.rule.id]

    def _replay(self, rules: Rules, automata: list[Automaton], one: Happened) -> None:
        idle_s, key = rules.file.idle_s, (one.tenant, one.agent)
        known = self._agents.known(key)
        if known is not None:
            known.comes(max(one.at_s, known.seen_s), idle_s)
            for place in [("run", one.run)] if one.session is not None else [("run", one.run), *known.scopes]:
                known.touch(place, one.at_s, idle_s)
        if not one.is_admitted:
            return
        for automaton, part in rules.plan_of(*one.deed).parts:
            if automaton in automata and one.agent not in automaton.rule.except_agents:
                agent = self._agents.of(key, one.at_s, LONGEST_S)
                if agent is not None and one.at_s >= self.said.lifted_s(key, automaton.rule.id):
                    self._replay_part(rules, agent, automaton, part, one)

    def _replay_part(self, rules: Rules, agent: Agent, automaton: Automaton, part: Part, one: Happened) -> None:
        key = scope_key(automaton.rule.within, automaton.rule.untraced, one.run, one.session or "")
        if key is None:
            return
        if key[0] != "session" or one.session is not None:
            agent.advance((automaton, part, key), one.at_s, rules.file.idle_s, self._settings.max_scopes)
            return
        # The ledger does not name sessions: it may have been any of them, one that is still to come included.
        places = [agent.carried, *(scope.progress for key, scope in agent.scopes.items() if key[0] == "session")]
        for place in places:
            progress = place.setdefault(automaton.rule.id, automaton.new())
            if not part.forgives:  # an approval in one session forgives nothing in another
                automaton.advance(progress, part, one.at_s)

    # --- what is worth keeping, and what people see of it

    @property
    def rules(self) -> Rules | None:
        """Those in force."""
        return self._current()

    def agent(self, key: AgentKey) -> Agent | None:
        return self._agents.known(key)

    def reference(self, rule: str, key: AgentKey) -> Reference | None:
        return self._references.get((rule, key))

    def is_unknown(self, rule: str, now_s: float) -> bool:
        """Whether it refuses because its past is not known."""
        return self._known_from_s.get(rule, -inf) > now_s

    def agents(self) -> list[tuple[AgentKey, Agent]]:
        return self._agents.all()

    def learnt(self, key: AgentKey, rule: str, rate: Rate, now_s: float) -> None:
        """What was saved of an agent's rate; nothing that is known better is replaced."""
        agent = self._agents.of(key, now_s, LONGEST_S)
        if agent is not None:
            agent.rates.setdefault(rule, rate)


def _deny(decision: Decision, reason: str, rule: RuleRef) -> Decision:
    return structs.replace(
        decision,
        effect=Effect.DENY,
        reason=reason,
        rules=(rule, *decision.rules),
        obligations=(),
        retry_after_s=RETRY_S,
    )


def _rate_finding(asked: Asked, rule: RateRule, rate: Rate, change: Change, before: tuple[int, int]) -> Finding:
    limit, calls = before if change is Change.ENDS else (rate.limit, rate.asked)
    is_news = change is not Change.HOLDS
    return Finding(
        rule=asked.rules.ref(rule),
        sort="rate",
        answer=rule.answer,
        mode=rule.mode,
        change=change.value,
        facts={"window_s": rule.window_s, "calls": calls, "limit": limit},
        retry_after_s=rate.left_s(rule, asked.now_s) if rule.answer == "throttle" else None,
        step_up=asked.rules.step_up(rule),
        is_news=is_news,
    )
