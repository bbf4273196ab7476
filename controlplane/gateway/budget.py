"""The duty ``budget`` met: money held back before a call goes out, settled when it is over.

    budget  {limits: [{key, per, name, max_micro_usd}, …]}    all must have room; key is subject, team or tenant

The decision that goes into the ledger says what was held back on whose account, so that the sums can be made again from
the ledger alone. Fails closed: no room, no team, no answer from where budgets are kept — the call is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from controlplane.calls import Call, Decision, Obligation, Principal
from controlplane.cost import Account, Budgets, Exhausted, Held, Limit
from controlplane.cost.budgets import BudgetsUnavailable, window_of
from controlplane.gateway.gateway import BUDGET, Admission, duty_in
from controlplane.gateway.obligations import denied, with_duty
from controlplane.gateway.observers import Bystander
from controlplane.gateway.outcome import Outcome

RETRY_S = 2.0


@dataclass(frozen=True, slots=True)
class KeepBudgets(Bystander):
    """``Gateway.budget``, and an observer of the outcomes. ``team_of`` gives "" for a principal of no team;
    ``bound`` what a call may cost at most."""

    budgets: Budgets
    team_of: Callable[[Principal], str]
    bound: Callable[[Call], int]
    wall: Callable[[], float]

    async def hold(self, decision: Decision, principal: Principal, call: Call) -> Decision:
        """The decision with what was held back, or a refusal with its facts. Never raises."""
        duty = duty_in(decision, BUDGET)
        if duty is None or not decision.permits:
            return decision
        try:
            now_s, micro_usd = self.wall(), self.bound(call)
            limits = list(self._limits(duty, principal, now_s))
            answer = await self.budgets.hold(limits, micro_usd, now_s)
        except BudgetsUnavailable as error:
            return denied(decision, error.reason, RETRY_S)
        except Exception:  # noqa: BLE001  a duty that breaks has not been met
            return denied(decision, "obligation_failed", None)
        if isinstance(answer, Exhausted):
            facts = _facts(answer.limit) | {"spent_micro_usd": answer.spent_micro_usd}
            told = with_duty(decision, Obligation(BUDGET, {"limits": [facts], "wanted_micro_usd": micro_usd}))
            return denied(told, "budget_exhausted", max(1.0, answer.limit.account.until_s - now_s))
        held = {"limits": [_facts(limit) for limit in limits], "held_micro_usd": micro_usd}
        return with_duty(decision, Obligation(BUDGET, held))

    def give_back(self, decision: Decision, principal: Principal) -> None:
        """The call never goes out."""
        held = held_for(decision, principal.tenant)
        if held is not None:
            self.budgets.settle(held, 0)

    def observe(self, admission: Admission, outcome: Outcome, *, recorded: bool) -> None:  # noqa: ARG002  protocol
        """What it really cost; all that was held back when nobody can say."""
        held = held_for(admission.decision, admission.principal.tenant)
        if held is not None:
            self.budgets.settle(held, outcome.cost.get("micro_usd", held.micro_usd))

    def _limits(self, duty: Obligation, principal: Principal, now_s: float) -> Iterator[Limit]:
        for said in duty.parameters["limits"]:
            who = self._who(said["key"], principal)
            since_s, _ = window_of(said["per"], now_s)
            account = Account(said["key"], principal.tenant, who, said["per"], said["name"], since_s)
            yield Limit(account, said["max_micro_usd"])

    def _who(self, key: str, principal: Principal) -> str:
        match key:
            case "subject":
                return principal.subject
            case "tenant":
                return ""
            case "team":
                team = self.team_of(principal)
                if not team:
                    raise BudgetsUnavailable("budget_without_team")
                return team
            case _:
                raise BudgetsUnavailable("unknown_budget_key")


def held_for(decision: Decision, tenant: str) -> Held | None:
    """What the decision says is held back; None when nothing is."""
    duty = duty_in(decision, BUDGET)
    if duty is None or "held_micro_usd" not in duty.parameters:
        return None
    accounts = (
        Account(each["key"], tenant, each["who"], each["per"], each["name"], each["since_s"])
        for each in duty.parameters["limits"]
    )
    return Held(tuple(accounts), duty.parameters["held_micro_usd"])


def _facts(limit: Limit) -> dict[str, Any]:
    account = limit.account
    facts = {"key": account.key, "who": account.who, "per": account.per, "name": account.name}
    return facts | {"since_s": account.since_s, "max_micro_usd": limit.max_micro_usd}
