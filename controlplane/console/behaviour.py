"""Operators and agents that are held back: who, why, until when; lifting that, and blocking an agent by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from controlplane.console.agent_words import AgentWords
from controlplane.console.behaviour_views import LeftAlone
from controlplane.console.guard import GuardedRoute, permission
from controlplane.console.problems import DESCRIBED
from controlplane.console.wishes import Change, Recorded, principal_of, recorded, wish_of

RESOURCE = "/api/behaviour"
LONGEST_LIFT_S, LONGEST_BLOCK_S = 24 * 3600, 30 * 24 * 3600

Name = Annotated[str, Field(min_length=1, max_length=200)]


class Held(BaseModel):
    """``since_s`` and ``until_s`` are Unix seconds; ``until_s`` is the earliest end, null where it cannot be told."""

    tenant: str
    agent: str
    answer: str
    rule: str
    source: str = Field(description="Where the rule stands in policy; `ledger:7` for a block by hand.")
    sort: str
    scope: str
    since_s: float
    until_s: float | None
    times: int
    call_id: str = Field(description="The first call that was refused.")
    facts: dict[str, int | str]
    by: str
    reason: str


class HeldList(BaseModel):
    held: list[Held]
    left_alone: Sequence[LeftAlone] = Field(description="Rules that a person has lifted for an agent until then.")
    unknown_rules: int = Field(description="Rules that refuse because their past was not read from the ledger yet.")


class Lift(Change):
    agent: Name
    rule: Name = Field(description="Id of the rule; `operator.block` ends a block by hand.")
    tenant: str = Field(default="", max_length=200, description="The agent's; your own when left out.")
    for_s: int = Field(
        default=0, ge=0, le=LONGEST_LIFT_S, description="Seconds for which the rule leaves the agent alone besides."
    )


class Block(Change):
    agent: Name
    tenant: str = Field(default="", max_length=200, description="The agent's; your own when left out.")
    for_s: int = Field(default=LONGEST_LIFT_S, ge=60, le=LONGEST_BLOCK_S, description="Seconds until it ends.")


class BehaviourApi:
    def __init__(self, words: AgentWords) -> None:
        self.words = words

    def router(self) -> APIRouter:
        router = APIRouter(route_class=GuardedRoute, responses=DESCRIBED, tags=["behaviour"])
        may_read, may_write = permission("read", RESOURCE), permission("write", RESOURCE)
        router.add_api_route(RESOURCE, self.list_held, methods=["GET"], openapi_extra=may_read, name="list_held")
        router.add_api_route(
            f"{RESOURCE}/lift", self.lift, methods=["POST"], openapi_extra=may_write, name="lift_behaviour"
        )
        router.add_api_route(
            f"{RESOURCE}/block", self.block, methods=["POST"], openapi_extra=may_write, name="block_agent"
        )
        return router

    async def list_held(self, request: Request) -> HeldList:
        """Agents of your tenant that are throttled, must step up or are blocked, by which rule and until when."""
        control, by = self.words.control, principal_of(request)
        held = [one for one in control.held() if self.words.sees(by, one.tenant)]
        alone = [one for one in control.left_alone() if self.words.sees(by, one.tenant)]
        return HeldList(
            held=[Held.model_validate(one, from_attributes=True) for one in held],
            left_alone=alone,
            unknown_rules=control.unknown_rules(),
        )

    async def lift(self, request: Request, said: Lift) -> Recorded:
        """Make a rule forget what an agent did until now, and leave it alone for a while."""
        wish = wish_of(request, said)
        return recorded(await self.words.lift(said.tenant, said.agent, said.rule, said.for_s, wish))

    async def block(self, request: Request, said: Block) -> Recorded:
        """Refuse every call of an agent. It ends by itself, or when it is lifted."""
        wish = wish_of(request, said)
        return recorded(await self.words.block(said.tenant, said.agent, said.for_s, wish))
