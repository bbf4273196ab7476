"""A person's word about an agent: checked, recorded, and only then in force."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from audit import LedgerReceipt
from controlplane.calls import Principal
from controlplane.console.behaviour_views import BY_HAND, AgentWord, BehaviourControl
from controlplane.console.changes import Changes, Wish
from controlplane.console.ports import NotFound

LIFT, BLOCK = "agent.lift", "agent.block"
"""What stands in the ledger's ``console.change`` records."""

Sees = Callable[[Principal, str], bool]


@dataclass(frozen=True, slots=True)
class AgentWords:
    control: BehaviourControl
    changes: Changes
    sees: Sees

    async def lift(self, tenant: str, agent: str, rule: str, for_s: int, wish: Wish) -> LedgerReceipt:
        """Make ``rule`` forget what the agent did, and leave it alone for so long.

        Raises ``NotFound`` where nothing is to be lifted, and ``AuditUnavailable``: not recorded, not lifted.
        """
        word = self._word(tenant, agent, rule, for_s, wish)
        if not self.control.knows(rule):
            raise NotFound("unknown_rule", "no rule of behaviour in force has this id")
        if not self._stands(word) and not (for_s and rule != BY_HAND):
            raise NotFound("nothing_stands", "this rule does not hold this agent back")
        receipt = await self._record(LIFT, word, wish)
        self.control.lift(word, receipt.index)
        return receipt

    async def block(self, tenant: str, agent: str, for_s: int, wish: Wish) -> LedgerReceipt:
        """Refuse every call of an agent for so long. Raises ``NotFound`` or ``AuditUnavailable``."""
        word = self._word(tenant, agent, BY_HAND, for_s, wish)
        receipt = await self._record(BLOCK, word, wish)
        self.control.block(word, receipt.index)
        return receipt

    def _word(self, tenant: str, agent: str, rule: str, for_s: int, wish: Wish) -> AgentWord:
        tenant = tenant or wish.by.tenant
        if not self.sees(wish.by, tenant):
            raise NotFound("unknown_agent", "no such agent that you may see")
        until_s = self.control.now_s() + for_s
        return AgentWord(tenant=tenant, agent=agent, rule=rule, until_s=until_s, by=wish.by.subject, reason=wish.reason)

    def _stands(self, word: AgentWord) -> bool:
        key = word.tenant, word.agent, word.rule
        held = ((one.tenant, one.agent, one.rule) for one in self.control.held())
        return key in held or key in ((one.tenant, one.agent, one.rule) for one in self.control.left_alone())

    async def _record(self, what: str, word: AgentWord, wish: Wish) -> LedgerReceipt:
        said: Mapping[str, Any] = {
            "what": what,
            "agent": word.agent,
            "agent_tenant": word.tenant,
            "rule": word.rule,
            "until_ms": int(word.until_s * 1000),
        }
        return await self.changes.do(said, wish, _nothing_more)


async def _nothing_more() -> None:
    """The word is in force in the same breath in which its record is known: nothing is awaited between."""
