"""The duty ``require_approval`` met: people have agreed to exactly this call, or it does not go out.

    require_approval  {approvers: [{by, people}, …], ttl_s}    so many people of every role; see ``approvals``

A call that nobody has approved is refused with ``approval_required``: a question to people, which the agent answers by
repeating the call, unchanged, once they have agreed (AuthZEN's Access Request and Approval profile calls it a
requestable denial). Policy decides anew then, and whoever agreed must still hold the role. An approval is for one call:
it is used up, durably, before the call's intent is recorded. Fails closed: an approval that cannot be recorded as used
is not used.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from controlplane.approvals import Approver, Book, Crowded, Question, State
from controlplane.approvals.book import USED, RolesOf
from controlplane.approvals.question import MILLI, approver_facts, approvers_in
from controlplane.calls import Call, Decision, Obligation, Principal
from controlplane.gateway.gateway import APPROVAL, duty_in
from controlplane.gateway.obligations import denied, with_duty
from controlplane.gateway.recorder import NAME_CHARS

RETRY_S = 15.0
"""When a caller may well look again: people take their time."""

MIRRORED = "mcp-param-"
ITS_OWN = frozenset({"_meta"})
"""Of an MCP request's parameters: what belongs to the one request, and not to what it wants."""

LINES_COST, LEAST_LINES = 4, 4096
"""Indenting what is nested deeply makes very much of very little."""

Append = Callable[[str, Mapping[str, Any]], Awaitable[object]]
"""(kind, body) → durable on return; raises when it cannot be."""


class Told(Protocol):
    """Whoever counts; ``event`` is asked, used or crowded."""

    def __call__(self, event: str) -> None: ...


@dataclass(frozen=True, slots=True)
class KeepApprovals:
    """``Gateway.approvals``."""

    book: Book
    commit: Callable[[bytes], str]
    append: Append
    roles_of: RolesOf
    max_bytes: int
    wall: Callable[[], float]
    told: Told

    async def hold(self, decision: Decision, principal: Principal, call: Call) -> Decision:
        """The decision with the approval that the call uses up, or a refusal that says whom to ask.

        Raises ``AuditUnavailable``: the use could not be recorded, so the approval is still there.
        """
        duty = duty_in(decision, APPROVAL)
        if duty is None or not decision.permits:
            return decision
        try:
            wish = self._wish(duty, decision, principal, call)
            self.book.recount(wish.statement, self.roles_of)
            approved = self.book.take(wish.statement, wish.asked_s)
            if approved is None:
                return self._refusal(decision, wish, call)
        except Crowded as error:
            self.told("crowded")
            return denied(decision, error.reason, RETRY_S)
        except Exception:  # noqa: BLE001  a duty that breaks has not been met
            return denied(decision, "obligation_failed", None)
        try:
            await self.append(USED, {"approval": {"id": approved.id, "statement": approved.statement, "call": call.id}})
        except BaseException:
            self.book.put_back(approved)
            raise
        self.told("used")
        return with_duty(decision, Obligation(APPROVAL, _facts(approved)))

    def _wish(self, duty: Obligation, decision: Decision, principal: Principal, call: Call) -> Question:
        """What would have to be asked."""
        approvers = approvers_in(duty.parameters["approvers"])
        return Question(
            id=call.id,
            statement=self.commit(statement_of(principal, call, approvers)),
            tenant=principal.tenant,
            subject=principal.subject,
            chain=principal.chain,
            action=call.action,
            resource=call.resource,
            operation=call.operation,
            rules=tuple((rule.id, rule.source) for rule in decision.rules),
            approvers=approvers,
            ttl_s=duty.parameters["ttl_s"],
            asked_s=self.wall(),
        )

    def _refusal(self, decision: Decision, wish: Question, call: Call) -> Decision:
        if max(len(call.resource), len(call.operation)) > NAME_CHARS:
            return denied(decision, "name_too_long", None)  # its record will be refused, so it is not kept here
        if len(wanted(call)) > self.max_bytes:
            return denied(decision, "too_large_to_approve", None)  # what one cannot read one cannot approve
        standing = self.book.about(wish.statement, wish.asked_s)
        if standing is None:
            standing = dataclasses.replace(wish, shown=shown(call))
            self.book.ask(standing)
            self.told("asked")
        told = with_duty(decision, Obligation(APPROVAL, _facts(standing)))
        if standing.state is State.REFUSED:
            return denied(told, "approval_refused", standing.until_s - wish.asked_s)
        return denied(told, "approval_required", RETRY_S)


def statement_of(principal: Principal, call: Call, approvers: tuple[Approver, ...]) -> bytes:
    """Everything that would go out, who wants it, and who must agree: what differs in any of it is another call."""
    said = [
        *(principal.issuer, principal.tenant, principal.subject, list(principal.chain), principal.kind),
        *(call.door, call.action, call.resource, call.operation, call.version, call.label, mirrored(call)),
        approver_facts(approvers),
    ]
    return msgspec.json.encode(said) + b"\n" + wanted(call)


def wanted(call: Call) -> bytes:
    """The body; of an MCP request its parameters alone: each repetition of it has a number and a trace of its own."""
    if call.door != "mcp" or not call.body:
        return call.body
    parameters = msgspec.json.decode(call.body).get("params", {})
    kept = {name: value for name, value in parameters.items() if name not in ITS_OWN}
    return msgspec.json.encode(kept, order="deterministic")


def mirrored(call: Call) -> list[tuple[str, str]]:
    return sorted(header for header in call.headers if header[0].startswith(MIRRORED))


def shown(call: Call) -> str:
    """All that would go out, for people: what is asked for beside the body, and the body, JSON in lines where that does
    not make much more of it."""
    said = wanted(call)
    text = said.decode("utf-8", "backslashreplace")
    try:
        lines = msgspec.json.format(said, indent=2).decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        lines = text
    beside = [("version", call.version), ("label", call.label), *mirrored(call)]
    head = "".join(f"{name}: {value}\n" for name, value in beside if value is not None)
    body = lines if len(lines) <= max(LEAST_LINES, LINES_COST * len(text)) else text
    return f"{head}\n{body}" if head else body


def _facts(question: Question) -> dict[str, Any]:
    """What decision and caller are told of it."""
    facts = {"approvers": approver_facts(question.approvers), "ttl_s": question.ttl_s, "id": question.id}
    given = [
        {"by": word.by, "approves": word.approves, "at_ms": int(word.at_s * MILLI), "index": word.index}
        for word in question.words
    ]
    return facts | {"until_ms": int(question.until_s * MILLI), "state": question.state.value, "words": given}
